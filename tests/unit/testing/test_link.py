"""What a simulated wire does to frames."""

from random import Random

import pytest

from swos_net.address import parse_address
from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import FRAMES, Burst, DropReason
from swos_net.link import LinkFeatures, Medium, Offload
from swos_net.testing.clock import FakeClock
from swos_net.testing.impairment import CoDel, GilbertElliott, Impairment
from swos_net.testing.link import SimulatedDevice, Wire
from swos_net.testing.packet import Decoder, Frame, corrupted, marked
from swos_net.wire import ipv4, ipv6, tcp


class Rig:
    """A wire and what arrived at its end: (time, frame)."""

    link = LinkFeatures()

    def __init__(self, seed=1, medium=Medium.ETHERNET, **conditions):
        self.arrivals = []
        self.due = None
        self.wire = Wire(self, Impairment(**conditions), str(seed), self.wake, medium=medium, name="here > there")

    def wake(self, at, wire):
        self.due = at if self.due is None else min(at, self.due)

    def arrive(self, frames, now):
        self.arrivals += [(now, frame[0]) for frame in frames]

    def send(self, *frames, at=0.0):
        for frame in frames:
            self.wire.send(Frame(frame), at)
        return self

    def run(self):
        """Until everything has arrived."""
        while self.due is not None:
            assert self.wire.deliver(self.due - 1e-9) == self.due, "nothing arrives before its time"
            self.due = self.wire.deliver(self.due)
        return self.arrivals


def numbered(count):
    return [number.to_bytes(2, "big") for number in range(count)]


def segment(family=4, payload=b"", seq=0, flags=tcp.ACK, traffic_class=0):
    """An Ethernet frame with a TCP segment."""
    source, destination = (parse_address(text) for text in {4: ("10.0.0.1", "10.0.0.2"), 6: ("2001:db8::1", "2001:db8::2")}[family])
    raw = tcp.emit(tcp.TcpHeader(1000, 80, seq & 0xFFFFFFFF, 0, flags, 1000), payload, source, destination)
    if family == 4:
        packet = ipv4.emit(ipv4.Ipv4Header(source, destination, 6, tos=traffic_class), raw)
        return bytes(12) + b"\x08\x00" + packet
    packet = ipv6.emit(ipv6.Ipv6Header(source, destination, 6, traffic_class=traffic_class), raw)
    return bytes(12) + b"\x86\xdd" + packet


def test_delay():
    assert Rig(delay=0.25).send(b"a", b"b", at=1.0).run() == [(1.25, b"a"), (1.25, b"b")]


def test_jitter_spreads_and_keeps_the_order():
    rig = Rig(delay=0.1, jitter=0.05)
    for number in range(200):
        rig.send(number.to_bytes(2, "big"), at=number / 50)
    arrivals = rig.run()
    assert [frame for _, frame in arrivals] == numbered(200)
    delays = [at - int.from_bytes(frame, "big") / 50 for at, frame in arrivals]
    assert min(delays) >= 0.1 and max(delays) <= 0.15 and max(delays) - min(delays) > 0.03


def test_bandwidth_makes_frames_wait_for_each_other():
    rig = Rig(delay=1.0, bandwidth=8000.0)
    rig.send(bytes(100), bytes(100))
    rig.send(bytes(100), at=50.0)
    assert [at for at, _ in rig.run()] == [pytest.approx(1.1), pytest.approx(1.2), pytest.approx(51.1)]


@pytest.mark.parametrize("limit", [dict(queue_bytes=250), dict(queue_packets=2)])
def test_a_queue_drops_what_does_not_fit_and_recovers(limit):
    rig = Rig(delay=0.0, bandwidth=8000.0, **limit)
    frames = [bytes([number]) * 100 for number in range(6)]
    rig.send(*frames[:4]).send(*frames[4:], at=0.25)
    assert [frame[0] for _, frame in rig.run()] == [0, 1, 4, 5]
    assert rig.wire.overflowed == 2 and rig.wire.lost == 0


def test_an_idle_line_takes_a_frame_that_is_longer_than_its_queue():
    assert len(Rig(bandwidth=1e6, queue_bytes=10).send(bytes(100)).run()) == 1


def test_marks_instead_of_losses_where_the_sender_understands_them():
    rig = Rig(delay=0.0, bandwidth=1e6, ecn_threshold=100)
    frames = [segment(family, bytes(60), traffic_class=traffic_class) for family in (4, 6) for traffic_class in (0, 1, 2, 0xB9)]
    rig.send(bytes(1000), *frames)
    decoded = [Decoder().decode(Frame(frame), 0, Medium.ETHERNET) for _, frame in rig.run()[1:]]
    assert [packet.ecn for packet in decoded] == [0, 3, 3, 3] * 2
    assert not any(packet.problem for packet in decoded), "a mark leaves the checksum right"
    assert decoded[3].frame[15] == 0xBB and rig.wire.marked == 6 == rig.wire.sent - 3


@pytest.mark.parametrize("ecn", [False, True])
def test_codel_keeps_a_standing_queue_short(ecn):
    """RFC 8289 4.4: a sender that fills the line by a fifth too much for ten seconds."""
    frame = segment(payload=bytes(946), traffic_class=2 if ecn else 0)  # 1000 bytes: 1 ms each
    rig, plain = (Rig(delay=0.0, bandwidth=8e6, codel=codel) for codel in (CoDel(), None))
    for number in range(12_000):
        for one in (rig, plain):
            one.send(frame, at=number / 1200)
    if ecn:
        assert rig.wire.overflowed == 0 and rig.wire.marked > 50
        return
    assert len(plain.run()) == 12_000 and plain.arrivals[-1][0] - 10 > 1.9
    assert rig.wire.overflowed > 500
    assert rig.run()[-1][0] - 10 < 1.0


def test_codel_leaves_a_burst_alone():
    rig = Rig(delay=0.0, bandwidth=8e6, codel=CoDel())
    rig.send(*[bytes(1000)] * 90)
    assert len(rig.run()) == 90


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_loss(rate):
    rig = Rig(loss=rate).send(*numbered(2000))
    assert len(rig.run()) == pytest.approx(2000 * (1 - rate), abs=80)
    assert rig.wire.sent == 2000 and rig.wire.lost == 2000 - len(rig.arrivals) == 2000 - rig.wire.delivered


def runs_of_losses(rig, count=20_000):
    rig.send(*[number.to_bytes(3, "big") for number in range(count)])
    arrived = {int.from_bytes(frame, "big") for _, frame in rig.run()}
    runs, length = [], 0
    for number in range(count):
        if number not in arrived:
            length += 1
        elif length:
            runs.append(length)
            length = 0
    return runs


def test_losses_come_in_bursts():
    runs = runs_of_losses(Rig(loss=GilbertElliott.bursts(average=0.05, length=5)))
    assert sum(runs) / 20_000 == pytest.approx(0.05, rel=0.2)
    assert sum(runs) / len(runs) == pytest.approx(5, rel=0.15)
    alone = runs_of_losses(Rig(loss=0.05))
    assert sum(alone) / len(alone) < 1.1


def test_a_bad_line_that_is_not_all_bad():
    model = GilbertElliott(to_bad=0.1, to_good=0.1, loss_when_bad=0.4, loss_when_good=0.1)
    assert sum(runs_of_losses(Rig(loss=model))) / 20_000 == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_duplicates(rate):
    rig = Rig(duplicate=rate).send(*numbered(1000))
    assert len(rig.run()) == 1000 + rig.wire.duplicated == pytest.approx(1000 * (1 + rate), abs=60)
    assert sorted(rig.arrivals, key=lambda arrival: arrival[1]) == rig.arrivals, "right behind the original"


def test_reordered_frames_are_overtaken():
    rig = Rig(delay=0.1, reorder=0.2, reorder_delay=0.5).send(*numbered(1000))
    arrivals = rig.run()
    late = [frame for at, frame in arrivals if at > 0.3]
    assert len(late) == rig.wire.reordered == pytest.approx(200, abs=60)
    assert all(at in (pytest.approx(0.1), pytest.approx(0.6)) for at, _ in arrivals)
    assert sorted(frame for _, frame in arrivals) == numbered(1000)


@pytest.mark.parametrize("family", [4, 6])
def test_a_corrupted_segment_is_never_taken_for_a_good_one(family):
    rig = Rig(corrupt=1.0)
    sent = segment(family, bytes(range(256)) * 4)
    rig.send(*[sent] * 2000)
    decoder, harmless = Decoder(), 0
    for _, frame in rig.run():
        assert frame != sent and len(frame) == len(sent)
        packet = decoder.decode(Frame(frame), 0, Medium.ETHERNET)
        if packet.is_tcp and packet.flow == decoder.decode(Frame(sent), 0, Medium.ETHERNET).flow:
            # only what no checksum covers: link addresses, and of IPv6 the first word and the hop limit
            assert frame[18:21] + frame[22:] == sent[18:21] + sent[22:]
            harmless += 1
    assert rig.wire.corrupted == 2000 and harmless < 100


def test_what_has_no_checksum_is_not_corrupted():
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    assert Rig(corrupt=1.0).send(arp).run()[0][1] == arp
    assert corrupted(b"", Medium.IP, Random(1)) == b"" and marked(b"", Medium.IP) is None


def test_what_is_too_long_vanishes():
    rig = Rig(packet_max=100).send(bytes(114), bytes(115))
    assert [len(frame) for _, frame in rig.run()] == [114] and rig.wire.too_long == 1
    assert Rig(packet_max=100, medium=Medium.IP).send(bytes(101)).run() == []


def test_frames_are_handed_over_together():
    rig = Rig(delay=0.0103, coalesce=0.001)
    for number in range(10):
        rig.send(bytes([number]), at=number / 10_000)
    assert [round(at, 6) for at, _ in rig.run()] == [0.011] * 8 + [0.012] * 2


def test_one_kind_of_luck_changes_nothing_about_another():
    def lost(**conditions):
        rig = Rig(loss=0.3, **conditions).send(*numbered(300))
        return set(numbered(300)) - {frame for _, frame in rig.run()}

    assert lost() == lost(duplicate=0.5) == lost(reorder=0.5, jitter=0.3, corrupt=0.2)


def test_conditions_change_in_the_middle():
    rig = Rig(delay=0.1)
    rig.send(b"a")
    rig.wire.change(loss=1.0)
    rig.send(b"b")
    rig.wire.change(loss=0.0, delay=0.2)
    assert rig.send(b"c").run() == [(pytest.approx(0.1), b"a"), (pytest.approx(0.2), b"c")]


def test_a_shorter_way_lets_later_frames_overtake():
    rig = Rig(delay=0.5).send(b"a")
    rig.wire.change(delay=0.1)
    assert [frame for _, frame in rig.send(b"b").run()] == [b"b", b"a"]


def test_observers_see_every_frame_and_its_fate():
    seen = []
    rig = Rig(delay=1.0)
    rig.wire.observe(lambda crossing: seen.append((crossing.time, crossing.frame.data, crossing.fate, crossing.arrivals)))
    rig.wire.drop(where=lambda packet: packet.number == 1)
    rig.send(b"a", b"b", at=2.0)
    rig.wire.change(duplicate=1.0)
    rig.send(b"c", at=3.0)
    assert seen == [(2.0, b"a", "", (3.0,)), (2.0, b"b", "dropped", ()), (3.0, b"c", "duplicated", (4.0, 4.0))]
    assert "1 dropped" in repr(rig.wire)


def test_injected_frames_arrive_at_once():
    rig = Rig(delay=5.0, loss=1.0)
    rig.wire.inject(b"forged", 1.0)
    assert rig.run() == [(1.0, b"forged")] and rig.wire.sent == 0


@pytest.mark.parametrize(
    "conditions",
    [dict(loss=-0.1), dict(loss=5), dict(duplicate=2), dict(reorder=-1), dict(corrupt=1.5), dict(delay=-1), dict(jitter=-1),
     dict(bandwidth=0), dict(queue_bytes=1000), dict(bandwidth=1e6, queue_packets=0), dict(ecn_threshold=1), dict(packet_max=0)],
)  # fmt: skip
def test_conditions_that_make_no_sense(conditions):
    with pytest.raises(ValueError):
        Impairment(**conditions)


@pytest.mark.parametrize("arguments", [(1.5, 2), (0.9, 2), (0.1, 0.5)])
def test_bursts_that_make_no_sense(arguments):
    with pytest.raises(ValueError):
        GilbertElliott.bursts(*arguments)


def test_a_device_hands_over_what_arrived_in_bursts():
    device = SimulatedDevice(LinkFeatures(Medium.IP, 1500, None, Offload.NONE, 1500), FakeClock())
    device.arrive([Frame(frame, 2) for frame in numbered(FRAMES + 5)], 0.0)
    burst = Burst()
    assert device.receive(burst) == FRAMES
    device.release(burst)
    assert burst.offload(0) == (2, 0, 0)
    burst.clear()
    assert device.receive(burst) == 5
    burst.clear()
    assert device.receive(burst) == 0
    assert device.counters()["receive_frames"] == FRAMES + 5


def test_a_device_sends_into_its_wire_until_it_is_closed():
    clock = FakeClock(7.0)
    device = SimulatedDevice(LinkFeatures(Medium.ETHERNET, 1500, bytes(6), Offload.NONE, 1514), clock)
    rig = Rig(delay=1.0)
    device.wire = rig.wire
    for _ in range(2):
        batch = Batch()
        batch.add_frame(b"frame")
        batch.seal()
        assert device.transmit(batch)
        device.close()
    assert rig.run() == [(8.0, b"frame")]


def test_packets_say_what_is_in_them():
    packet = Decoder().decode(Frame(segment(6, b"hello", seq=7, flags=tcp.ACK | tcp.PSH)), 3, Medium.ETHERNET)
    assert packet.is_tcp and packet.problem == DropReason.NONE and packet.number == 3
    assert (packet.source, packet.source_port, packet.destination, packet.destination_port) == ("2001:db8::1", 1000, "2001:db8::2", 80)
    assert (packet.seq, packet.length, packet.occupied, packet.payload) == (7, 5, 5, b"hello")
    assert "Flags [P.]" in str(packet)
    assert packet.options.ts_val is None
