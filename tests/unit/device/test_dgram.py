"""Frames over datagram sockets: one each, with an other end that comes, goes and misbehaves."""

import os
import socket

import pytest

from swos_net.device.dgram import DgramDevice
from swos_net.link import Medium, Offload


class Peer:
    """A datagram socket at a path of its own, not connected, as QEMU has it."""

    def __init__(self, path: str):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.sock.settimeout(5.0)

    def send(self, frame: bytes, device: DgramDevice) -> None:
        self.sock.sendto(frame, device.path)

    def close(self) -> None:
        self.sock.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


class Device(DgramDevice):
    """With its own path at hand."""

    def __init__(self, local: str, *arguments, **options):
        self.path = local
        super().__init__(local, *arguments, **options)


@pytest.fixture
def paths(tmp_path):
    return str(tmp_path / "ours"), str(tmp_path / "peers")


@pytest.fixture
def peer(paths, kit):
    peer = Peer(paths[1])
    yield peer
    peer.close()


@pytest.fixture
def device(paths, peer, kit):
    device = Device(*paths, mac=kit.OUR_MAC)
    yield device
    device.close()
    device.close()
    assert not os.path.exists(paths[0])


def test_the_link_says_what_it_is(device, paths, kit):
    link = device.link
    assert (link.medium, link.mtu, link.address, link.offloads) == (Medium.ETHERNET, 1500, kit.OUR_MAC, Offload.NONE)
    assert device.link_up and os.stat(paths[0]).st_mode & 0o777 == 0o600


def test_frames_both_ways(device, peer, kit):
    frames = [kit.udp_frame(b"x" * size) for size in (0, 1, 1400)]
    for frame in frames:
        peer.send(frame, device)
    assert kit.readable(device)
    assert kit.received(device) == frames
    assert kit.received(device) == [] and not kit.readable(device)
    assert device.transmit(kit.udp_batch(b"one", b"two"))
    assert [peer.sock.recv(2000)[42:] for _ in range(2)] == [b"one", b"two"]
    counters = device.counters()
    assert (counters["receive_frames"], counters["transmit_frames"], counters["transmit_bytes"]) == (3, 2, 90)


def test_a_full_socket_is_told_and_room_wakes(device, peer, kit):
    sent = 0
    while device.transmit(batch := kit.udp_batch(*[bytes(1400)] * 64)):
        sent += 64
    assert not kit.readable(device)
    expected, frames = sent + 64, 0
    while not batch.sent:
        while not kit.readable(device):
            assert len(peer.sock.recv(2000)) == 1442
            frames += 1
        kit.received(device)
        device.transmit(batch)
    while frames < expected:
        assert len(peer.sock.recv(2000)) == 1442
        frames += 1
    assert device.counters()["transmit_frames"] == expected


def test_empty_datagrams_are_no_end_and_hold_nobody(device, peer, kit):
    peer.sock.setblocking(False)
    for _ in range(20):
        try:
            peer.send(b"", device)
        except BlockingIOError:
            break
    peer.sock.settimeout(5.0)
    kit.received(device)
    peer.send(kit.udp_frame(b"after"), device)
    assert kit.received(device)[0].endswith(b"after") and device.link_up


def test_what_is_no_frame_is_received_with_its_verdict_and_what_is_too_long_dropped(device, peer, kit):
    peer.send(b"\x01", device)
    assert kit.received(device) == [b"\x01"]
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    peer.send(bytes(70000), device)
    assert kit.received(device) == [] and device.counters()["dropped"] == 1


def test_strangers_cannot_send_to_a_connected_device(device, peer, tmp_path, kit):
    stranger = Peer(str(tmp_path / "stranger"))
    with pytest.raises(PermissionError):
        stranger.send(kit.udp_frame(b"x"), device)
    stranger.close()


def test_one_that_is_not_there_yet_is_found(paths, kit):
    device = Device(*paths)
    assert not device.link_up
    assert device.transmit(kit.udp_batch(b"one", b"two"))
    assert device.counters()["transmit_discarded"] == 2
    peer = Peer(paths[1])
    assert kit.readable(device, 5.0)  # its timer
    kit.received(device)
    assert device.link_up
    device.transmit(kit.udp_batch(b"three"))
    assert peer.sock.recv(2000).endswith(b"three")
    peer.close()
    device.close()


def test_a_frame_of_one_that_was_not_there_finds_it_at_once(paths, kit):
    device = Device(*paths)
    peer = Peer(paths[1])
    peer.send(kit.udp_frame(b"hello"), device)
    assert kit.received(device)[0].endswith(b"hello") and device.link_up
    peer.close()
    device.close()


def test_one_that_has_gone_is_noticed_when_sending_and_may_come_back(device, peer, paths, kit):
    peer.close()
    assert device.transmit(kit.udp_batch(b"one", b"two"))
    assert not device.link_up and device.counters()["transmit_discarded"] == 2
    again = Peer(paths[1])
    again.send(kit.udp_frame(b"again"), device)
    assert kit.received(device)[0].endswith(b"again") and device.link_up
    again.close()


def test_one_that_was_restarted_while_nothing_was_sent_is_found_by_looking(device, peer, paths, kit):
    peer.close()
    again = Peer(paths[1])
    with pytest.raises(PermissionError):
        again.send(kit.udp_frame(b"early"), device)
    assert kit.readable(device, 5.0)  # its timer
    kit.received(device)
    again.send(kit.udp_frame(b"again"), device)
    assert kit.received(device)[0].endswith(b"again")
    again.close()


def test_the_other_end_is_learned_from_the_first_frame(paths, tmp_path, kit):
    device = Device(paths[0])
    assert not device.link_up and device.remote is None
    for name in ("first", "second"):
        peer = Peer(str(tmp_path / name))
        peer.send(kit.udp_frame(name.encode()), device)
        assert kit.received(device)[0].endswith(name.encode())
        assert device.link_up and device.remote == peer.path
        device.transmit(kit.udp_batch(b"answer"))
        assert peer.sock.recv(2000).endswith(b"answer")
        peer.close()
        device.transmit(kit.udp_batch(b"into the void"))
        assert not device.link_up and device.remote is None
    device.close()


def test_a_sender_without_a_path_is_heard_but_not_answered(paths, kit):
    device = Device(paths[0])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(kit.udp_frame(b"hello"), paths[0])
        assert kit.received(device)[0].endswith(b"hello") and not device.link_up
    device.close()


def test_two_devices_join(paths, kit):
    one = Device(*paths)
    two = Device(*reversed(paths))
    assert two.link_up
    data = bytes(range(256)) * 60
    batch, received = kit.tcp_batch(data, 1460), b""
    two.transmit(kit.udp_batch(b"hello"))
    assert kit.received(one) and one.link_up
    while not one.transmit(batch) or len(received) < len(data):
        kit.received(one)
        received += b"".join(frame[54:] for frame in kit.received(two))
    assert received == data
    one.close()
    two.close()


def test_wrong_options_leave_nothing_behind(paths, kit):
    for options in ({"mac": b"\x03" + bytes(5)}, {"mtu": 70000}):
        with pytest.raises(ValueError):
            DgramDevice(*paths, **options)
    with pytest.raises(OSError, match="107 bytes"):
        DgramDevice(paths[0], "x" * 108)
    assert not os.path.exists(paths[0])
