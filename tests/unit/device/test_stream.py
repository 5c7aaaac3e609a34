"""Frames over stream sockets: framing, back-pressure, and an other end that comes, goes and misbehaves."""

import errno
import os
import random
import signal
import socket
import struct
import subprocess
import sys

import pytest

from swos_net.device.stream import StreamDevice
from swos_net.errors import DeviceError
from swos_net.link import Medium, Offload


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)


def read_exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        assert part, "the device closed the connection"
        data += part
    return data


def read_frame(sock: socket.socket) -> bytes:
    return read_exactly(sock, struct.unpack("!I", read_exactly(sock, 4))[0])


@pytest.fixture
def joined(kit):
    """A device over one end of a socket pair, and the other end."""
    ours, peer = socket.socketpair()
    peer.settimeout(5.0)
    device = StreamDevice(sock=ours, mac=kit.OUR_MAC)
    yield device, peer
    device.close()
    peer.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "link.sock")


def connected(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(5.0)
    peer.connect(path)
    return peer


def test_the_link_says_what_it_is(joined, kit):
    device, _peer = joined
    link = device.link
    assert (link.medium, link.mtu, link.address, link.offloads) == (Medium.ETHERNET, 1500, kit.OUR_MAC, Offload.NONE)
    assert device.link_up and not device.wants_write


def test_a_random_address_is_local_and_unicast(kit):
    addresses = set()
    for _ in range(8):
        ours, peer = socket.socketpair()
        device = StreamDevice(sock=ours)
        addresses.add(device.link.address)
        device.close()
        peer.close()
    assert len(addresses) == 8 and all(mac[0] & 3 == 2 for mac in addresses)


@pytest.mark.parametrize("options", [{"mac": b"\x01" + bytes(5)}, {"mac": b"\x02"}, {"mac": bytes(6)}, {"mtu": 20}, {"role": "hub"}])
def test_wrong_options_leave_nothing_behind(path, kit, options):
    with pytest.raises(ValueError):
        StreamDevice(path, **options)
    assert not os.path.exists(path)


def test_either_a_path_or_a_stream_socket(kit):
    with pytest.raises(TypeError):
        StreamDevice()
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with pytest.raises(OSError, match="SOCK_STREAM") as caught:
        StreamDevice(sock=ours)
    assert caught.value.errno == errno.EPROTOTYPE
    ours.close()
    peer.close()


def test_frames_both_ways(joined, kit):
    device, peer = joined
    frames = [kit.udp_frame(b"x" * size) for size in (0, 1, 1400)]
    peer.sendall(framed(*frames))
    assert kit.readable(device)
    assert kit.received(device) == frames
    assert kit.received(device) == [] and not kit.readable(device)
    assert device.transmit(kit.udp_batch(b"one", b"two"))
    assert read_frame(peer)[42:] == b"one" and read_frame(peer)[42:] == b"two"
    counters = device.counters()
    assert (counters["receive_frames"], counters["transmit_frames"]) == (3, 2)
    assert (counters["receive_bytes"], counters["transmit_bytes"]) == (sum(map(len, frames)), 90)


def test_a_frame_byte_by_byte(joined, kit):
    device, peer = joined
    frame = kit.udp_frame(b"slow")
    raw = framed(frame)
    for index in range(len(raw) - 1):
        peer.sendall(raw[index : index + 1])
        assert kit.received(device) == []
    peer.sendall(raw[-1:])
    assert kit.received(device) == [frame]


def test_many_frames_cut_at_random_places_arrive_whole_and_in_order(joined, kit):
    device, peer = joined
    rng = random.Random(1)
    frames = [kit.udp_frame(rng.randbytes(rng.choice((0, 10, 1000, 60000)))) for _ in range(150)]
    raw = framed(*frames)
    received, at = [], 0
    peer.setblocking(False)
    while len(received) < len(frames):
        if at < len(raw):
            try:
                at += peer.send(raw[at : at + rng.choice((1, 7, 4096, 300000))])
            except BlockingIOError:
                pass
        received += kit.received(device)
    assert received == frames


def test_super_segments_are_cut_and_checksummed(joined, kit):
    device, peer = joined
    data = random.Random(2).randbytes(20000)
    assert device.transmit(kit.tcp_batch(data, 1460))
    frames = [read_frame(peer) for _ in range(14)]
    assert b"".join(frame[54:] for frame in frames) == data
    peer.sendall(framed(*frames))
    from swos_net.dataplane.burst import Burst

    burst = Burst()
    assert device.receive(burst) == 14
    assert not any(record[1] for record in burst.records())  # the decoder verifies both checksums


def test_a_full_socket_is_told_and_room_wakes(joined, kit):
    device, peer = joined
    sent = 0
    while True:
        batch = kit.udp_batch(*[bytes(1400)] * 64)
        if not device.transmit(batch):
            break
        sent += 64
    assert not kit.readable(device)
    expected = sent + 64
    frames = 0
    while frames < expected:
        assert len(read_frame(peer)) == 1442
        frames += 1
        if not batch.sent or kit.readable(device):
            kit.received(device)
            while not device.transmit(batch) and frames < expected:
                assert len(read_frame(peer)) == 1442
                frames += 1
                kit.received(device)
    assert batch.sent and device.counters()["transmit_frames"] == expected
    kit.received(device)
    assert not kit.readable(device)


@pytest.mark.parametrize("length", [0, 65601, 0xFFFFFFFF])
def test_a_length_that_no_frame_has_ends_the_connection(joined, kit, length):
    device, peer = joined
    good = kit.udp_frame(b"good")
    peer.sendall(framed(good) + struct.pack("!I", length) + b"rest")
    assert kit.received(device) == [good]
    with pytest.raises(DeviceError, match="has ended"):
        kit.received(device)
    assert not device.link_up


def test_a_given_connection_that_ends_is_the_end_of_the_device(joined, kit):
    device, peer = joined
    peer.close()
    for _ in range(2):
        with pytest.raises(DeviceError, match="has ended"):
            kit.received(device)
    assert device.transmit(kit.udp_batch(b"x"))
    assert device.counters()["transmit_discarded"] == 1


def test_sending_to_one_that_has_gone_does_not_signal_the_process(tmp_path):
    """SIGPIPE is ignored by default in Python; a program may have restored it."""
    program = """
import signal, socket
from swos_net.dataplane.batch import Batch
from swos_net.device.stream import StreamDevice
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
device = StreamDevice(PATH)
peer = socket.socket(socket.AF_UNIX)
peer.connect(PATH)
device.transmit(Batch())
import select
select.select([device], [], [], 5)
from swos_net.dataplane.burst import Burst
device.receive(Burst())
assert device.link_up
peer.close()
batch = Batch()
batch.add_frame(bytes(60))
batch.seal()
assert device.transmit(batch)
assert not device.link_up and device.counters()["transmit_discarded"] == 1
"""
    path = str(tmp_path / "link.sock")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", f"PATH = {path!r}\n{program}"], capture_output=True, text=True, timeout=30, env=environment)
    assert done.returncode != -signal.SIGPIPE and done.returncode == 0, done.stderr


def test_listening_accepts_again_after_an_end_and_forgets_half_a_frame(path, kit):
    device = StreamDevice(path)
    assert not device.link_up and os.stat(path).st_mode & 0o777 == 0o600
    frame = kit.udp_frame(b"x")
    for connections in (1, 2, 3):
        peer = connected(path)
        peer.sendall(framed(frame) + b"\x00\x00\x00\x50half")
        assert kit.readable(device, 5.0)
        assert kit.received(device) == [frame] and device.link_up
        assert device.counters()["connections"] == connections
        peer.close()
        assert kit.readable(device, 5.0)
        assert kit.received(device) == [] and not device.link_up
    assert device.counters()["receive_frames"] == 3
    device.close()
    device.close()
    assert not os.path.exists(path)


def test_a_second_peer_waits_until_the_first_has_gone(path, kit):
    device = StreamDevice(path)
    first = connected(path)
    kit.received(device)
    second = connected(path)
    second.sendall(framed(kit.udp_frame(b"second")))
    kit.received(device)
    assert kit.received(device) == []
    first.sendall(framed(kit.udp_frame(b"first")))
    assert kit.received(device)[0].endswith(b"first")
    first.close()
    assert kit.received(device) == []
    assert kit.readable(device)
    assert kit.received(device)[0].endswith(b"second")
    second.close()
    device.close()


def test_frames_for_nobody_are_discarded_and_counted(path, kit):
    device = StreamDevice(path)
    assert device.transmit(kit.udp_batch(b"one", b"two"))
    assert device.counters()["transmit_discarded"] == 2 and device.counters()["transmit_frames"] == 0
    device.close()


def test_a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not(path, kit):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    device = StreamDevice(path)
    with pytest.raises(OSError, match="another process listens") as caught:
        StreamDevice(path)
    assert caught.value.errno == errno.EADDRINUSE
    device.close()
    with open(path, "w"):
        pass
    with pytest.raises(OSError, match="is not a socket"):
        StreamDevice(path)
    assert os.path.exists(path)


def test_closing_leaves_anothers_socket_alone(path, kit):
    device = StreamDevice(path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        device.close()
        assert os.path.exists(path)


def test_a_path_that_no_socket_can_have(tmp_path, kit):
    with pytest.raises(OSError, match="directory") as caught:
        StreamDevice(tmp_path / "missing" / "link.sock")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(OSError, match="107 bytes") as caught:
        StreamDevice(tmp_path / ("x" * 200))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_connecting_waits_for_one_who_listens_and_comes_back(path, kit):
    device = StreamDevice(path, role="connect")
    assert not device.link_up and kit.received(device) == []
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            while not device.link_up:
                assert kit.readable(device, 5.0)
                kit.received(device)
            peer, _address = listener.accept()
        os.unlink(path)
        peer.sendall(framed(kit.udp_frame(b"hello")))
        assert kit.received(device)[0].endswith(b"hello")
        peer.close()
        assert kit.received(device) == [] and not device.link_up
    device.close()


def test_connecting_where_it_can_never_work_is_told_at_once(tmp_path, kit):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        StreamDevice(tmp_path / "file" / "link.sock", role="connect")


def test_two_devices_join(path, kit):
    one, two = StreamDevice(path), StreamDevice(path, role="connect")
    assert kit.received(one) == [] and one.link_up and two.link_up
    data = bytes(range(256)) * 100
    assert one.transmit(kit.tcp_batch(data, 1460))
    received = b""
    while len(received) < len(data):
        received += b"".join(frame[54:] for frame in kit.received(two))
    assert received == data
    one.close()
    two.close()
