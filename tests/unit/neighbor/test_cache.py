from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swos_net.address import parse_address
from swos_net.config import NeighborConfig
from swos_net.neighbor.cache import (
    Changed,
    NeighborCache,
    NeighborState,
    Resolved,
    Unreachable,
)

A, B, C = (parse_address(text) for text in ("10.0.0.1", "fe80::2", "10.0.0.3"))
MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")

CONFIG = NeighborConfig()
INCOMPLETE, REACHABLE, STALE, DELAY, PROBE, PERMANENT = NeighborState


class Lan:
    """A cache and what it asked for."""

    def __init__(self, config: NeighborConfig = CONFIG, random: Random | None = None):
        self.solicited: list[tuple[bytes, bytes | None, float]] = []
        self.cache = NeighborCache(config, lambda *asked: self.solicited.append(asked), random=random)

    def state(self, address: bytes) -> NeighborState | None:
        neighbor = self.cache.lookup(address)
        return None if neighbor is None else neighbor.state

    def events(self) -> list:
        return list(iter(self.cache.next_event, None))

    def run_until(self, end: float) -> list[float]:
        """Serves every deadline up to `end`; returns when they were."""
        served = []
        while (deadline := self.cache.next_deadline()) is not None and deadline <= end:
            self.cache.handle_timeout(deadline)
            served.append(deadline)
        return served

    def brought_to(self, state: NeighborState, now: float = 100.0) -> "Lan":
        """Makes A an entry in `state` at `now`, link address MAC_A unless INCOMPLETE."""
        cache = self.cache
        if state == INCOMPLETE:
            cache.resolve(A, now)
        elif state == PERMANENT:
            cache.add_permanent(A, MAC_A)
        elif state == REACHABLE:
            cache.learned(A, MAC_A, now, solicited=True)
        elif state == STALE:
            cache.learned(A, MAC_A, now, solicited=False)
        else:
            delay = CONFIG.delay_first_probe
            cache.learned(A, MAC_A, now - delay, solicited=False)
            cache.resolve(A, now - delay if state == PROBE else now)
            if state == PROBE:
                cache.handle_timeout(now)
        assert self.state(A) == state
        self.events()
        self.solicited.clear()
        return self


@pytest.fixture
def lan():
    return Lan()


# INCOMPLETE


def test_the_first_packet_solicits(lan):
    assert lan.cache.resolve(A, 100.0) is None
    assert lan.solicited == [(A, None, 100.0)]
    assert lan.cache.resolve(A, 100.1) is None
    assert len(lan.solicited) == 1
    assert lan.state(A) == INCOMPLETE
    assert lan.cache.next_deadline() == 101.0


def test_three_solicitations_then_unreachable(lan):
    lan.cache.resolve(A, 100.0)
    lan.cache.hold(A, b"one")
    lan.cache.hold(A, b"two")
    assert lan.run_until(1000.0) == [101.0, 102.0, 103.0]
    assert lan.solicited == [(A, None, 100.0), (A, None, 101.0), (A, None, 102.0)]
    assert lan.events() == [Unreachable(A, [b"one", b"two"])]
    assert lan.state(A) is None
    assert lan.cache.counters.unreachable == 1
    # The next packet begins anew.
    lan.cache.resolve(A, 104.0)
    assert lan.solicited[-1] == (A, None, 104.0)


def test_an_answer_resolves_and_gives_the_packets_back(lan):
    lan.cache.resolve(A, 100.0)
    lan.cache.hold(A, b"one")
    lan.cache.hold(A, b"two")
    lan.cache.learned(A, MAC_A, 100.5, solicited=True, create=False)
    assert lan.events() == [Resolved(A, MAC_A, [b"one", b"two"])]
    assert lan.state(A) == REACHABLE
    assert lan.cache.next_deadline() is None
    assert lan.cache.resolve(A, 100.6) == MAC_A


def test_an_unsolicited_answer_resolves_to_stale(lan):
    # appendix C: INCOMPLETE, NA with solicited 0, or an NS of the neighbor
    lan.brought_to(INCOMPLETE).cache.learned(A, MAC_A, 100.0, solicited=False)
    assert lan.events() == [Resolved(A, MAC_A, [])]
    assert lan.state(A) == STALE


def test_an_advertisement_without_a_link_address_is_ignored(lan):
    lan.brought_to(INCOMPLETE).cache.learned(A, None, 100.0, solicited=True, create=False)
    assert lan.events() == []
    assert lan.state(A) == INCOMPLETE


def test_override_does_not_matter_while_incomplete(lan):
    lan.brought_to(INCOMPLETE).cache.learned(A, MAC_A, 100.0, solicited=True, override=False, create=False)
    assert lan.state(A) == REACHABLE


def test_the_oldest_held_packet_is_dropped(lan):
    lan.brought_to(INCOMPLETE)
    for number in range(CONFIG.held_packets + 3):
        lan.cache.hold(A, b"%d" % number)
    assert lan.cache.counters.held_dropped == 3
    lan.cache.learned(A, MAC_A, 100.0, solicited=True)
    (event,) = lan.events()
    assert event.held == [b"%d" % number for number in range(3, CONFIG.held_packets + 3)]


def test_no_packet_is_held_when_none_may_be():
    lan = Lan(NeighborConfig(held_packets=0)).brought_to(INCOMPLETE)
    lan.cache.hold(A, b"one")
    assert lan.cache.counters.held_dropped == 1


def test_a_packet_held_too_late_comes_back_at_once(lan):
    lan.brought_to(REACHABLE).cache.hold(A, b"late")
    assert lan.events() == [Resolved(A, MAC_A, [b"late"])]


def test_a_packet_for_an_unknown_address_is_dropped(lan):
    lan.cache.hold(A, b"lost")
    assert lan.cache.counters.held_dropped == 1
    assert lan.events() == []


# REACHABLE, STALE, DELAY, PROBE


def test_reachable_turns_stale_and_the_next_packet_delays(lan):
    lan.brought_to(REACHABLE, 100.0)
    assert lan.cache.next_deadline() is None
    assert lan.cache.resolve(A, 129.9) == MAC_A
    assert lan.state(A) == REACHABLE
    assert lan.cache.resolve(A, 130.0) == MAC_A
    assert lan.state(A) == DELAY
    assert lan.solicited == []
    assert lan.cache.next_deadline() == 135.0


def test_three_probes_to_the_neighbor_itself_then_unreachable(lan):
    lan.brought_to(DELAY, 100.0)
    assert lan.run_until(1000.0) == [105.0, 106.0, 107.0, 108.0]
    assert lan.solicited == [(A, MAC_A, 105.0), (A, MAC_A, 106.0), (A, MAC_A, 107.0)]
    assert lan.events() == [Unreachable(A, [])]
    assert lan.state(A) is None


def test_a_late_timeout_catches_up_without_flooding(lan):
    lan.brought_to(DELAY, 100.0)
    lan.cache.handle_timeout(500.0)
    assert lan.solicited == [(A, MAC_A, 500.0)]
    assert lan.cache.next_deadline() == 501.0


def test_packets_flow_while_probing(lan):
    lan.brought_to(PROBE)
    assert lan.cache.resolve(A, 100.0) == MAC_A
    assert lan.state(A) == PROBE


@pytest.mark.parametrize("state", [REACHABLE, STALE, DELAY, PROBE])
def test_confirmation_by_an_upper_layer(lan, state):
    lan.brought_to(state, 100.0).cache.confirmed(A, 100.5)
    assert lan.state(A) == REACHABLE
    assert lan.cache.next_deadline() is None
    lan.cache.resolve(A, 130.4)
    assert lan.state(A) == REACHABLE
    lan.cache.resolve(A, 130.5)
    assert lan.state(A) == DELAY
    assert lan.events() == []


def test_nothing_to_confirm(lan):
    lan.brought_to(INCOMPLETE).cache.confirmed(A, 100.0)
    assert lan.state(A) == INCOMPLETE
    lan.cache.confirmed(B, 100.0)
    assert lan.state(B) is None
    assert lan.brought_to(PERMANENT).cache.lookup(A).state == PERMANENT
    lan.cache.confirmed(A, 100.0)
    assert lan.state(A) == PERMANENT


# Appendix C, row by row, for an entry that has a link address

KNOWN = [REACHABLE, STALE, DELAY, PROBE]


@pytest.mark.parametrize("state", KNOWN)
@pytest.mark.parametrize("link_address", [MAC_A, None])
@pytest.mark.parametrize("override", [True, False])
def test_solicited_with_the_same_link_address(lan, state, link_address, override):
    lan.brought_to(state).cache.learned(A, link_address, 100.0, solicited=True, override=override, create=False)
    assert lan.state(A) == REACHABLE
    assert lan.events() == []
    assert lan.cache.next_deadline() is None


@pytest.mark.parametrize("state", KNOWN)
def test_solicited_with_override_and_another_link_address(lan, state):
    lan.brought_to(state).cache.learned(A, MAC_B, 100.0, solicited=True, create=False)
    assert lan.state(A) == REACHABLE
    assert lan.events() == [Changed(A, MAC_B)]
    assert lan.cache.resolve(A, 100.0) == MAC_B


@pytest.mark.parametrize("state", KNOWN)
@pytest.mark.parametrize("solicited", [True, False])
def test_another_link_address_without_override(lan, state, solicited):
    lan.brought_to(state).cache.learned(
        A, MAC_B, 100.0, solicited=solicited, override=False, is_router=True, create=False
    )
    assert lan.state(A) == (STALE if state == REACHABLE else state)
    assert lan.events() == []
    assert lan.cache.lookup(A).link_address == MAC_A
    assert not lan.cache.lookup(A).is_router


@pytest.mark.parametrize("state", KNOWN)
@pytest.mark.parametrize("override", [True, False])
def test_unsolicited_with_the_same_link_address_changes_nothing(lan, state, override):
    deadline = lan.brought_to(state).cache.next_deadline()
    lan.cache.learned(A, MAC_A, 100.0, solicited=False, override=override)
    assert lan.state(A) == state
    assert lan.events() == []
    assert lan.cache.next_deadline() == deadline


@pytest.mark.parametrize("state", KNOWN)
def test_unsolicited_with_another_link_address_is_stale(lan, state):
    lan.brought_to(state).cache.learned(A, MAC_B, 100.0, solicited=False)
    assert lan.state(A) == STALE
    assert lan.events() == [Changed(A, MAC_B)]
    assert lan.cache.next_deadline() is None


def test_no_entry_and_a_source_link_address(lan):
    lan.cache.learned(A, MAC_A, 100.0, solicited=False)
    assert lan.state(A) == STALE
    assert lan.cache.resolve(A, 100.0) == MAC_A
    assert lan.state(A) == DELAY


def test_no_entry_is_made_without_leave_or_link_address(lan):
    lan.cache.learned(A, MAC_A, 100.0, solicited=True, create=False)
    lan.cache.learned(A, None, 100.0, solicited=True)
    assert lan.cache.entries() == []


def test_the_router_flag(lan):
    lan.cache.learned(A, MAC_A, 100.0, solicited=False, is_router=True)
    assert lan.cache.lookup(A).is_router
    lan.cache.learned(A, MAC_A, 100.0, solicited=False)
    assert lan.cache.lookup(A).is_router
    lan.cache.learned(A, None, 100.0, solicited=True, is_router=False, create=False)
    assert not lan.cache.lookup(A).is_router


# Permanent entries, forgetting, limits


def test_a_permanent_entry_is_not_changed(lan):
    lan.brought_to(PERMANENT)
    lan.cache.learned(A, MAC_B, 100.0, solicited=True)
    assert lan.cache.resolve(A, 1e9) == MAC_A
    assert lan.state(A) == PERMANENT
    assert lan.solicited == [] and lan.events() == [] and lan.cache.next_deadline() is None


def test_a_permanent_entry_ends_a_resolution(lan):
    lan.brought_to(INCOMPLETE).cache.hold(A, b"one")
    lan.cache.add_permanent(A, MAC_B)
    assert lan.events() == [Resolved(A, MAC_B, [b"one"])]
    assert lan.cache.next_deadline() is None


@pytest.mark.parametrize("state", [*KNOWN, PERMANENT])
def test_a_permanent_entry_over_another(lan, state):
    lan.brought_to(state).cache.add_permanent(A, MAC_B)
    assert lan.events() == [Changed(A, MAC_B)]
    lan.cache.add_permanent(A, MAC_B)
    assert lan.events() == []
    assert [neighbor.state for neighbor in lan.cache.entries()] == [PERMANENT]
    assert lan.run_until(1000.0) == []


@pytest.mark.parametrize("state", list(NeighborState))
def test_forgetting(lan, state):
    lan.brought_to(state).cache.forget(A)
    assert lan.cache.entries() == []
    assert lan.run_until(1000.0) == []
    assert lan.events() == [] and lan.solicited == []
    lan.cache.forget(A)


def test_forgetting_counts_held_packets(lan):
    lan.brought_to(INCOMPLETE).cache.hold(A, b"one")
    lan.cache.forget(A)
    assert lan.cache.counters.held_dropped == 1


def address(number: int) -> bytes:
    return parse_address("fd00::") [:12] + number.to_bytes(4, "big")


def test_the_least_recently_used_makes_room():
    lan = Lan(NeighborConfig(cache_size=3))
    lan.cache.add_permanent(C, MAC_B)
    for number in range(3):
        lan.cache.learned(address(number), MAC_A, 100.0, solicited=False)
    lan.cache.resolve(address(0), 100.0)
    lan.cache.learned(address(3), MAC_A, 100.0, solicited=False)
    assert [neighbor.address for neighbor in lan.cache.entries()] == [C, address(2), address(0), address(3)]
    assert lan.cache.counters.evicted == 1


def test_a_scan_neither_grows_the_cache_nor_its_timers():
    lan = Lan(NeighborConfig(cache_size=16))
    for number in range(2000):
        lan.cache.resolve(address(number), 100.0 + number * 0.001)
        lan.cache.hold(address(number), b"packet")
    assert len(lan.cache.entries()) == 16
    assert len(lan.cache._timers) <= 4 * 16 + 64 + 1
    assert lan.cache.counters.evicted == 2000 - 16
    assert lan.cache.counters.held_dropped == 2000 - 16
    lan.run_until(1000.0)
    assert len(lan.events()) == 16
    assert lan.cache._timers == []


def test_a_neighbor_that_keeps_changing_does_not_grow_the_timers(lan):
    for number in range(1000):
        lan.cache.learned(A, address(number)[10:], 100.0, solicited=False)
        lan.cache.resolve(A, 100.0)
        lan.events()
    assert len(lan.cache._timers) <= 4 + 64 + 1
    assert lan.state(A) == DELAY


# Timers of the link


def test_the_reachable_time_is_drawn_around_its_base():
    drawn = {Lan(random=Random(seed)).cache.reachable_time for seed in range(50)}
    assert len(drawn) == 50
    assert 15.0 <= min(drawn) < 20.0 and 40.0 < max(drawn) <= 45.0
    assert Lan(random=Random(1)).cache.reachable_time == Lan(random=Random(1)).cache.reachable_time


def test_a_router_sets_the_timers(lan):
    lan.cache.set_timers(reachable_time=10.0, retransmit_timer=2.0)
    lan.brought_to(REACHABLE, 100.0).cache.resolve(A, 110.0)
    assert lan.state(A) == DELAY
    lan.cache.resolve(B, 200.0)
    assert lan.run_until(205.9) == [115.0, 117.0, 119.0, 121.0, 202.0, 204.0]
    lan.cache.set_timers()
    assert (lan.cache.reachable_time, lan.cache.retransmit_timer) == (10.0, 2.0)


def test_a_router_sets_no_absurd_timers(lan):
    lan.cache.set_timers(reachable_time=4e6, retransmit_timer=0.001)
    assert (lan.cache.reachable_time, lan.cache.retransmit_timer) == (3600.0, 0.1)
    lan.cache.set_timers(retransmit_timer=4e6)
    assert lan.cache.retransmit_timer == 60.0


# Any order of calls

calls = st.lists(
    st.tuples(
        st.sampled_from(["resolve", "hold", "learned", "advertised", "confirmed", "permanent", "forget", "wait"]),
        st.sampled_from([A, B, C]),
        st.sampled_from([MAC_A, MAC_B]),
        st.booleans(),
        st.floats(0.0, 8.0),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(calls)
def test_whatever_happens_every_packet_is_accounted_for(sequence):
    lan = Lan(NeighborConfig(cache_size=2, held_packets=2))
    cache, now, held = lan.cache, 0.0, 0
    events = []
    for call, neighbor, mac, flag, step in sequence:
        if call == "resolve":
            found = cache.resolve(neighbor, now)
            assert found == cache.lookup(neighbor).link_address
        elif call == "hold":
            cache.hold(neighbor, b"packet")
            held += 1
        elif call == "learned":
            cache.learned(neighbor, mac, now, solicited=False)
        elif call == "advertised":
            cache.learned(neighbor, mac, now, solicited=flag, override=not flag, is_router=flag, create=False)
        elif call == "confirmed":
            cache.confirmed(neighbor, now)
        elif call == "permanent":
            cache.add_permanent(neighbor, mac)
        elif call == "forget":
            cache.forget(neighbor)
        else:
            now += step
            cache.handle_timeout(now)
            assert cache.next_deadline() is None or cache.next_deadline() > now
        for entry in cache.entries():
            assert (entry.link_address is None) == (entry.state == INCOMPLETE)
        assert len([entry for entry in cache.entries() if entry.state != PERMANENT]) <= 2
        events += lan.events()
    lan.run_until(now + 1000.0)
    assert cache.next_deadline() is None
    assert all(entry.state in (REACHABLE, STALE, PERMANENT) for entry in cache.entries())
    events += lan.events()
    given_back = sum(len(event.held) for event in events if not isinstance(event, Changed))
    assert given_back + cache.counters.held_dropped == held
