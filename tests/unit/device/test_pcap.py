"""Captures, read back by a reader of their own: every frame that crossed, once, in both directions."""

import io
import shutil
import struct
import subprocess

import pytest

from swos_net.dataplane.batch import Batch
from swos_net.dataplane.burst import Burst
from swos_net.device.open_device import open_device
from swos_net.device.packets import PacketDevice
from swos_net.device.pair import make_pair
from swos_net.device.pcap import INBOUND, OUTBOUND, PcapTap
from swos_net.link import Medium, Offload
from swos_net.runtime.open_stack import open_stack

START = 1_700_000_000_123_456_789


def read_pcapng(raw: bytes) -> tuple[int, int, list[tuple[int, int, bytes, int]]]:
    """(link type, snaplen, [(time in ns, direction, bytes, original length)]) of a file as PcapTap writes it."""
    at, linktype, snaplen, packets = 0, None, None, []
    kinds = []
    while at < len(raw):
        kind, length = struct.unpack_from("<II", raw, at)
        assert length % 4 == 0 and struct.unpack_from("<I", raw, at + length - 4) == (length,)
        body = raw[at + 8 : at + length - 4]
        kinds.append(kind)
        if kind == 0x0A0D0D0A:
            assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
            assert read_options(body[16:])[4].startswith(b"swos_net")
        elif kind == 1:
            linktype, _reserved, snaplen = struct.unpack_from("<HHI", body)
            assert read_options(body[8:]) == {9: b"\x09"}
        else:
            assert kind == 6
            interface, high, low, captured, original = struct.unpack_from("<IIIII", body)
            assert interface == 0
            options = read_options(body[20 + captured + -captured % 4 :])
            packets.append((high << 32 | low, *struct.unpack("<I", options[2]), body[20 : 20 + captured], original))
        at += length
    assert kinds[:2] == [0x0A0D0D0A, 1] and set(kinds[2:]) <= {6}
    return linktype, snaplen, packets


def read_options(raw: bytes) -> dict[int, bytes]:
    options, at = {}, 0
    while True:
        code, length = struct.unpack_from("<HH", raw, at)
        if code == 0:
            assert length == 0 and at + 4 == len(raw)
            return options
        options[code] = raw[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


def clock():
    ticks = iter(range(START, START + 1000))
    return lambda: next(ticks)


class Tapped:
    """A tapped end of a pair, the other end and the capture."""

    def __init__(self, **options):
        tap_options = {name: options.pop(name) for name in ("format", "snaplen") if name in options}
        self.device, self.other = make_pair(**options)
        self.file = io.BytesIO()
        self.tap = PcapTap(self.device, self.file, clock=clock(), **tap_options)

    def packets(self):
        return read_pcapng(self.file.getvalue())[2]

    def close(self):
        self.tap.close()
        self.other.close()


@pytest.fixture
def tapped(kit):
    tapped = Tapped()
    yield tapped
    tapped.close()


def assert_sound(frames: list[bytes], medium: Medium = Medium.ETHERNET) -> None:
    """Every checksum of every frame is right, by the decoder's word."""
    burst = Burst()
    for frame in frames:
        assert burst.add(frame, medium)
    assert [record[1] for record in burst.records()] == [0] * len(frames)


def test_both_directions_in_order_with_times(tapped, kit):
    incoming = kit.udp_frame(b"in")
    batch = Batch()
    batch.add_frame(incoming)
    batch.seal()
    tapped.other.transmit(batch)
    assert kit.received(tapped.tap) == [incoming]
    assert tapped.tap.transmit(kit.udp_batch(b"out", b"again"))
    sent = kit.received(tapped.other)
    assert len(sent) == 2
    linktype, snaplen, packets = read_pcapng(tapped.file.getvalue())
    assert (linktype, snaplen) == (1, 262144)
    assert [(time, direction) for time, direction, _data, _length in packets] == [
        (START, INBOUND), (START + 1, OUTBOUND), (START + 1, OUTBOUND)
    ]  # fmt: skip
    assert packets[0][2:] == (incoming, len(incoming))
    assert_sound([data for _time, _direction, data, _length in packets])
    assert [data[42:] for _time, _direction, data, _length in packets[1:]] == [b"out", b"again"]
    assert tapped.tap.counters()["captured_frames"] == 3


@pytest.mark.parametrize("six", [False, True])
def test_a_super_segment_is_one_frame_with_its_checksum_completed(kit, six):
    data = bytes(range(251)) * 100
    tapped = Tapped()
    tapped.tap.transmit(kit.tcp_batch(data, 1440, six=six))
    tapped.other.transmit(kit.tcp_batch(data, 1440, six=six))
    kit.received(tapped.tap)
    packets = tapped.packets()
    headers = 74 if six else 54
    assert [(direction, length) for _time, direction, _data, length in packets] == [
        (OUTBOUND, headers + len(data)), (INBOUND, headers + len(data))
    ]  # fmt: skip
    assert packets[0][2] == packets[1][2] and packets[0][2][headers:] == data
    assert_sound([packets[0][2]])
    tapped.close()


def test_a_partial_udp_checksum_is_completed_and_never_zero(tapped, kit):
    """The payload's last two bytes are chosen so that the sum comes out as zero, which is written as all ones."""
    tapped.tap.transmit(kit.udp_batch(b"\0\0"))
    (frame,) = [data for _time, _direction, data, _length in tapped.packets()]
    checksum = frame[40:42]
    tapped.tap.transmit(kit.udp_batch(checksum))
    frame = tapped.packets()[1][2]
    assert frame[40:42] == b"\xff\xff"
    assert_sound([frame])


def test_frames_are_those_the_link_carries_to_the_byte(kit):
    """Without offloads: segments of one super-segment count up in IPv4 identification, and so do batches."""
    tapped = Tapped(offloads=Offload.NONE)
    path = kit.path(identification=0xFFFE)
    for _ in range(2):
        tapped.tap.transmit(kit.tcp_batch(bytes(4000), 1460, path=path))
        tapped.tap.transmit(kit.udp_batch(b"one", b"two", path=path))
    sent = kit.received(tapped.other)
    assert [data for _time, _direction, data, _length in tapped.packets()] == sent
    assert [int.from_bytes(frame[18:20], "big") for frame in sent] == [(0xFFFE + index) & 0xFFFF for index in range(10)]
    assert path.c.identification == (0xFFFE + 10) & 0xFFFF
    tapped.close()


class Slow:
    """A device that takes `room` frames of a batch at each call."""

    def __init__(self, device, room: int):
        self.device = device
        self.room = room
        self.taken: list[bytes] = []

    def __getattr__(self, name):
        return getattr(self.device, name)

    def transmit(self, batch) -> bool:
        frames = batch.frames(self.device._limits)
        for _ in range(self.room):
            frame = next(frames, None)
            if frame is None:
                break
            self.taken.append(frame[0])
        return batch.sent


@pytest.mark.parametrize("room", [1, 2, 3, 5, 100])
def test_a_batch_that_goes_in_parts_is_captured_once(kit, room):
    first, second = make_pair(offloads=Offload.NONE)
    slow, file = Slow(first, room), io.BytesIO()
    tap = PcapTap(slow, file, clock=clock())
    path = kit.path()
    batch = kit.tcp_batch(bytes(range(200)) * 40, 1460, path=path)
    batch.add_udp(b"between")
    batch.add_frame(bytes(2000))  # longer than the link carries: it is stepped over
    batch.add_frame(kit.udp_frame(b"control"))
    batch.seal()
    calls = 1
    while not tap.transmit(batch):
        calls += 1
    captured = [data for _time, _direction, data, _length in read_pcapng(file.getvalue())[2]]
    assert captured == slow.taken and len(captured) == 8
    assert calls >= 8 // room
    assert_sound(captured)
    tap.close()
    second.close()


def test_what_nobody_took_is_not_captured(tapped, kit):
    tapped.other.close()
    assert tapped.tap.transmit(kit.udp_batch(b"lost"))
    assert tapped.packets() == [] and not tapped.tap.link_up


def test_snaplen_cuts_the_bytes_and_keeps_the_length(kit):
    tapped = Tapped(snaplen=60)
    data = bytes(5000)
    tapped.tap.transmit(kit.tcp_batch(data, 1460))
    tapped.other.transmit(kit.tcp_batch(data, 1460))
    kit.received(tapped.tap)
    _linktype, snaplen, packets = read_pcapng(tapped.file.getvalue())
    assert snaplen == 60
    assert [(len(data), length) for _time, _direction, data, length in packets] == [(60, 5054)] * 2
    assert packets[0][2] == packets[1][2]  # the checksum is still that of the whole
    tapped.close()


def test_frames_that_make_no_sense_are_captured_as_they_came(kit):
    device, other = make_pair()
    file = io.BytesIO()
    tap = PcapTap(device, file, clock=clock())
    frames = [b"\x01", bytes(13), bytes(60), kit.udp_frame(b"x")[:-1], kit.OUR_MAC * 2 + b"\x08\x00" + b"\x45" * 400]
    batch = Batch()
    for frame in frames:
        batch.add_frame(frame)
    batch.seal()
    other.transmit(batch)
    assert kit.received(tap) == frames
    assert [data for _time, _direction, data, _length in read_pcapng(file.getvalue())[2]] == frames
    tap.close()
    other.close()


def test_headers_that_the_sender_changed_meanwhile_are_captured_as_they_were_checked(kit):
    class Shifty(PacketDevice):
        def receive(self, burst) -> int:
            memory = bytearray(packet)
            burst.add(memory, Medium.IP)
            memory[:] = b"\xff" * len(memory)
            return 1

    packet = kit.udp_packet(bytes(600))
    device, file = Shifty(), io.BytesIO()
    tap = PcapTap(device, file)
    tap.receive(Burst())
    ((_time, _direction, data, _length),) = read_pcapng(file.getvalue())[2]
    assert data == packet[:256] + b"\xff" * (len(packet) - 256)
    tap.close()


def test_pcap_has_times_in_nanoseconds_and_ip_packets_their_link_type(kit):
    device = PacketDevice()
    file = io.BytesIO()
    tap = PcapTap(device, file, format="pcap", clock=clock())
    packet = kit.udp_packet(b"hello")
    device.feed(packet)
    kit.received(tap)
    raw = file.getvalue()
    assert struct.unpack_from("<IHHiIII", raw) == (0xA1B23C4D, 2, 4, 0, 0, 262144, 101)
    assert struct.unpack_from("<IIII", raw, 24) == (1_700_000_000, 123_456_789, len(packet), len(packet))
    assert raw[40:] == packet
    tap.close()


def test_the_capture_is_in_the_file_when_the_device_is_idle(tmp_path, kit):
    device, other = make_pair()
    path = tmp_path / "capture.pcapng"
    tap = PcapTap(device, path)
    tap.transmit(kit.udp_batch(b"x"))
    kit.received(tap)
    assert len(read_pcapng(path.read_bytes())[2]) == 1
    tap.close()
    tap.close()
    other.close()


def test_a_full_disk_ends_the_capture_and_not_the_device(kit):
    device, other = make_pair()
    tap = PcapTap(device, "/dev/full")
    for _ in range(3):
        assert tap.transmit(kit.udp_batch(b"x" * 1400))
        kit.received(tap)
    assert len(kit.received(other)) == 3
    tap.close()
    other.close()


def test_a_file_of_the_caller_stays_open_and_one_that_was_closed_is_no_failure(tapped, kit):
    tapped.file.close()
    assert tapped.tap.transmit(kit.udp_batch(b"x"))
    assert kit.received(tapped.tap) == [] and len(kit.received(tapped.other)) == 1
    device, other = make_pair()
    file = io.BytesIO()
    PcapTap(device, file).close()
    assert not file.closed
    other.close()


def test_everything_else_is_the_devices(tapped):
    tap, device = tapped.tap, tapped.device
    assert tap.link is device.link and tap.link_up and tap.fileno() == device.fileno() and not tap.wants_write
    assert tap.counters().items() > device.counters().items()
    tapped.other.close()
    assert not tap.link_up


@pytest.mark.parametrize("options", [{"format": "etl"}, {"snaplen": 0}])
def test_wrong_options(options, tmp_path, kit):
    device = PacketDevice()
    with pytest.raises(ValueError):
        PcapTap(device, tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
    device.close()


def test_open_device_taps_and_closes_the_device_when_the_file_cannot_be(tmp_path, kit):
    spec = f"stream:{tmp_path}/link.sock"
    device = open_device(spec, pcap=tmp_path / "x.pcapng", mac="02:00:00:00:00:07", mtu=9000)
    assert isinstance(device, PcapTap)
    assert (device.link.address, device.link.mtu) == (bytes.fromhex("020000000007"), 9000)
    device.close()
    with pytest.raises(FileNotFoundError):
        open_device(spec, pcap=tmp_path / "missing" / "x.pcapng")
    assert not (tmp_path / "link.sock").exists()


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
@pytest.mark.parametrize("format", ["pcapng", "pcap"])
def test_wireshark_agrees(tmp_path, kit, format):
    device, other = make_pair()
    path = tmp_path / "capture"
    tap = PcapTap(device, path, format=format, clock=clock())
    data = bytes(range(256)) * 64
    for six in (False, True):
        tap.transmit(kit.tcp_batch(data, 1440, six=six))
        other.transmit(kit.tcp_batch(data, 1440, six=six))
    tap.transmit(kit.udp_batch(b"x"))
    other.transmit(kit.udp_batch(b"x"))
    kit.received(tap)
    tap.close()
    other.close()
    command = [
        "tshark", "-r", str(path), "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
        "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.packet_flags_direction", "-e", "tcp.checksum.status",
        "-e", "udp.checksum.status", "-e", "frame.len",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 6, done.stderr
    assert lines[0][0] == "1700000000.123456789"
    if format == "pcapng":
        assert sorted(int(line[1], 0) for line in lines) == [INBOUND] * 3 + [OUTBOUND] * 3
    assert sorted(line[2] for line in lines) == ["", "", "1", "1", "1", "1"]  # 1: good
    assert sorted(line[3] for line in lines) == ["", "", "", "", "1", "1"]
    assert max(int(line[4]) for line in lines) == 74 + len(data)


def test_a_capture_can_be_read_while_nothing_happens(kit, tmp_path):
    """What came and what was answered is in the file when the stack has nothing more to do."""
    device, other = make_pair()
    path = tmp_path / "capture.pcapng"
    poller = open_stack(PcapTap(device, path), addresses=["10.0.0.1/24"], now=0.0)
    now = 100.0
    for deadline in iter(poller.next_deadline, None):  # announcements of the address
        poller.poll(max(now, deadline))
    before = len(read_pcapng(path.read_bytes())[2])
    other.transmit(kit.udp_batch(b"x"))
    while poller.poll(now):
        pass
    assert len(read_pcapng(path.read_bytes())[2]) > before
    poller.ports[0].device.close()
    other.close()
