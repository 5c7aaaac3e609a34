"""Questions of a guest that are answered at once: pings without Python, and one signal for answer and question.

Read first: Pinged in conftest.py.  What happens in somebody's sleep: test_prompt.py.
"""

import errno
import select

import pytest

from swos_net.address import parse_address
from swos_net.device.base import PromptDevice
from swos_net.device.pcap import PcapTap
from swos_net.device.vhost_user import device, rings
from swos_net.device.vhost_user.device import BULK_BYTES, LOOKS_FIRST, QUIET_CHAINS
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.device.vhost_user.message import Request, VringState
from swos_net.wire import icmpv4, icmpv6, ipv4, ipv6

ALL = (1 << 64) - 1


@pytest.mark.parametrize("size", [0, 1, 56, 1400])
@pytest.mark.parametrize("family", [4, 6])
def test_an_answer_before_python_has_a_look(pinged, family, size):
    (answer,), left = pinged.ask(pinged.request(family, data=bytes(range(200)) * 7 if size == 1400 else bytes(size)))
    assert not left
    assert answer[:12] == pinged.guest_mac + pinged.device.link.address
    local, remote = (parse_address(address) for address in pinged.addresses[family])
    if family == 4:
        header, message = ipv4.parse(answer[14:]), icmpv4.parse(answer[34:])
        assert (message.type, message.identifier, message.sequence, len(message.payload)) == (icmpv4.ECHO_REPLY, 7, 9, size)
    else:
        header = ipv6.parse(answer[14:])
        message = icmpv6.parse(answer[54:], header.source, header.destination)
        assert (message.type, len(message.payload)) == (icmpv6.ECHO_REPLY, size)
    assert (header.source, header.destination) == (remote, local)
    assert pinged.signals() == (1, 0)


def test_it_is_counted_as_if_python_had_answered(pinged):
    before = dict(pinged.interface.counters)
    frame = pinged.request()
    for _ in range(3):
        pinged.ask(frame)
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == 3 == pinged.stack.counters["IcmpInMsgs"] - pinged.echoed
    gone = {name: pinged.interface.counters[name] - before.get(name, 0) for name in ("InFrames", "OutFrames", "OutOctets")}
    assert gone == {"InFrames": 3, "OutFrames": 3, "OutOctets": 3 * len(frame)}
    assert pinged.device.counters()["transmit_dropped"] == 0


UNUSUAL = {
    "not our address": {"destination": "10.0.2.3"},
    "to everybody": {"destination": "10.0.2.255"},
    "from everybody": {"source": "10.0.2.255"},
    "from nobody": {"source": "0.0.0.0"},
    "another station's": {"mac": bytes.fromhex("020000000099")},
    "to all stations": {"mac": b"\xff" * 6},
    "options": {"options": b"\x01\x01\x01\x00"},
    "a fragment": {"flags": 1},
    "long": {"data": bytes(3000)},
}


@pytest.mark.parametrize("what", UNUSUAL.values(), ids=UNUSUAL)
def test_anything_unusual_is_left_to_python(pinged, what):
    early, left = pinged.ask(pinged.request(**what))
    assert not early and left


def test_another_message_is_left_to_python(pinged):
    frame = bytearray(pinged.request())
    frame[34] = icmpv4.ECHO_REPLY
    early, _ = pinged.ask(bytes(frame))
    assert not early
    assert pinged.stack.counters["IcmpOutEchoReps"] == pinged.echoed


def test_a_wrong_checksum_is_not_answered(pinged):
    frame = bytearray(pinged.request())
    frame[-1] ^= 1
    early, left = pinged.ask(bytes(frame))
    assert not early and not left


def test_not_while_somebody_wants_to_see_pings(pinged):
    endpoint = pinged.stack.raw.open(pinged.stack.root, parse_address("0.0.0.0"), 1)
    early, left = pinged.ask(pinged.request())
    assert not early and left
    endpoint.close(pinged.now)
    (_,), left = pinged.ask(pinged.request())
    assert not left


def test_an_address_that_comes_and_goes(pinged):
    frame = pinged.request(destination="10.0.2.77")
    address = parse_address("10.0.2.77")
    for known in (False, True, False):
        if known:
            pinged.stack.add_address(pinged.interface, address, 24, pinged.now)
        elif pinged.interface.has_address(address):
            pinged.stack.remove_address(pinged.interface, address, pinged.now)
        early, _ = pinged.ask(frame)
        assert bool(early) is known


def test_a_capture_has_questions_and_answers(bench, tmp_path):
    """So whoever captures sees to it that Python answers."""
    tap = PcapTap(bench.device, tmp_path / "file")
    assert isinstance(bench.device, PromptDevice) and not isinstance(tap, PromptDevice)
    tap.close()


def test_more_addresses_than_it_knows_are_pythons_business(pinged):
    for number in range(20):
        pinged.stack.add_address(pinged.interface, parse_address(f"10.0.2.{100 + number}"), 24, pinged.now)
    early, left = pinged.ask(pinged.request())
    assert not early and left


def test_without_room_python_keeps_the_answer(pinged):
    """It goes when the guest has buffers again."""
    queue = pinged.driver.receive_queue
    while pinged.device.transmit(pinged.bench.batch([pinged.bench.frame(1)])):
        pass
    pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    assert queue.used_index and pinged.answers()
    pinged.poller.poll(pinged.now)
    pinged.poller.poll(pinged.now)
    assert [frame for frame in pinged.answers() if frame[12:14] == b"\x08\x00"]
    assert pinged.stack.counters["IcmpOutEchoReps"] - pinged.echoed == 1


def test_the_question_comes_back_with_the_answer_and_one_signal(pinged, monkeypatch):
    """A guest that looks for itself is never signalled for what it sent."""
    monkeypatch.setattr(device, "REMIND_AFTER", 0.000001)
    for _ in range(3):
        pinged.driver.send(pinged.request())
        pinged.poller.poll(pinged.now)
        assert pinged.answers() and pinged.driver.reap() == 1
        assert select.select([pinged.device], [], [], 1.0)[0]
        pinged.poller.poll(pinged.now)
        assert pinged.signals() == (1, 0)


def test_a_guest_that_does_not_look_is_reminded(pinged, monkeypatch):
    monkeypatch.setattr(device, "REMIND_AFTER", 0.000001)
    pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    assert pinged.answers()
    assert select.select([pinged.device], [], [], 1.0)[0]
    pinged.poller.poll(pinged.now)
    assert pinged.signals() == (1, 1)
    assert not pinged.bench.readable


def test_a_reminder_comes_with_the_next_frame_at_the_latest(pinged):
    for expected in (0, 1, 0):  # the guest asked to hear of one, and never looked
        pinged.driver.send(pinged.request())
        pinged.poller.poll(pinged.now)
        assert pinged.guest.called(1) == expected


@pytest.mark.parametrize("guest_features", [ALL, ALL & ~mask(Feature.EVENT_IDX)], ids=["event index", "flags"])
@pytest.mark.parametrize("what", ["frame", "ping"])
def test_a_look_between_a_frame_and_its_kick(pinged, monkeypatch, what):
    """The guest has made a frame available and not yet asked whether to kick."""
    queue, kind = pinged.driver.transmit_queue, type(pinged.driver.transmit_queue)
    looks = []

    def looked():
        if not looks:
            looks.append(1)
            pinged.poller.poll(pinged.now)

    class Interrupted(kind):
        used_flags = property(lambda self: (looked(), kind.used_flags.fget(self))[1])
        avail_event = property(lambda self: (looked(), kind.avail_event.fget(self))[1])

    queue.__class__ = Interrupted
    before = pinged.device.counters()["receive_frames"]
    for _ in range(6):
        pinged.driver.send(pinged.request() if what == "ping" else pinged.bench.frame(1))
    assert looks
    for _ in range(20):
        if pinged.bench.readable:
            pinged.poller.poll(pinged.now)
    assert pinged.device.counters()["receive_frames"] - before == 6


@pytest.mark.parametrize("answer", [1, BULK_BYTES // 1000 + 1], ids=["short", "long"])
def test_whatever_the_answer_a_quiet_question_is_followed_by_a_reminder(pinged, monkeypatch, answer):
    monkeypatch.setattr(device, "REMIND_AFTER", 1e-6)
    monkeypatch.setattr(device, "REMIND_BULK_AFTER", 1e-6)
    pinged.driver.send(pinged.bench.frame(1))
    burst = pinged.bench.burst
    assert pinged.device.receive(burst) == 1
    assert pinged.device.transmit(pinged.bench.batch([bytes(1000)] * answer))
    pinged.device.release(burst)
    assert pinged.signals() == (1, 0)
    select.select([pinged.device], [], [], 10.0)
    pinged.device.handle_ready()
    assert pinged.signals() == (0, 1)


def test_the_shorter_of_two_reminders_counts(pinged, monkeypatch):
    set_to = []
    monkeypatch.setattr(rings, "timer_set", lambda timer, seconds: set_to.append(seconds))
    some = pinged.device._rings
    for seconds in (0.05, 0.05, 0.005, 0.05):
        some.remind_later(some.ports[1], seconds)
    assert set_to == [0.05, 0.005] and some._to_remind == [some.ports[1]]


def test_without_a_descriptor_for_the_timer_the_guest_is_signalled(pinged, monkeypatch):
    def none_left():
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(rings, "timer_open", none_left)
    monkeypatch.setattr(pinged.device._rings, "_remind_timer", None)
    pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    assert pinged.answers() and pinged.signals() == (1, 1)


@pytest.mark.parametrize("guest_features", [ALL & ~mask(Feature.EVENT_IDX)])
def test_without_an_event_index_there_is_no_way_to_tell(pinged):
    pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    assert pinged.answers() and pinged.signals() == (1, 1)


def test_many_at_once_are_signalled(pinged):
    for _ in range(QUIET_CHAINS + 1):
        pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    assert len(pinged.answers()) == QUIET_CHAINS + 1
    assert pinged.signals() == (1, 1)


def test_frames_without_an_answer_are_signalled(pinged):
    pinged.driver.send(pinged.bench.frame(1))
    pinged.poller.poll(pinged.now)
    assert pinged.signals() == (0, 1)


def test_a_ring_that_stops_owes_nothing(pinged):
    pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    assert pinged.signals() == (1, 0)
    pinged.guest.stop_ring(1)
    assert pinged.guest.called(1) == 1


def test_the_front_end_has_its_turn_among_many_questions(pinged):
    """Whoever always has a frame in its ring does not keep messages out."""
    pinged.guest._turn = None
    pinged.guest.send(Request.SET_VRING_ENABLE, VringState(0, 0))
    pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    assert pinged.device.link_up and pinged.answers()
    for _ in range(LOOKS_FIRST):
        pinged.driver.send(pinged.request())
        pinged.poller.poll(pinged.now)
    assert not pinged.device.link_up


def test_a_connection_that_ends_before_the_reminder(pinged):
    pinged.driver.send(pinged.request())
    pinged.poller.poll(pinged.now)
    pinged.guest.close()
    for _ in range(3):
        pinged.poller.poll(pinged.now)
    assert not pinged.device.link_up and not pinged.bench.readable
