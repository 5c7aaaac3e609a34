"""The device over a real socket, with a front-end in the same process: its socket file, its connection, its link."""

import errno
import fcntl
import logging
import os
import select
import socket
import stat

import pytest

from swos_net.dataplane.burst import Burst
from swos_net.device.vhost_user.device import VhostUserDevice
from swos_net.device.vhost_user.features import Feature, mask
from swos_net.device.vhost_user.message import (
    U64,
    MemoryRegion,
    MemoryTable,
    Request,
    SingleRegion,
    VringState,
    emit_request,
)
from swos_net.link import Medium, Offload
from swos_net.testing.vhost_front_end import FrontEndError, VhostFrontEnd, memory_table
from swos_net.testing.virtio_driver import DriverQueue, GuestRam

ALL = (1 << 64) - 1


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_descriptor_is_left():
    before = open_fds()
    yield
    assert open_fds() == before


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


class Recorder:
    def __init__(self):
        self.events = []

    def __call__(self, name, **details):
        self.events.append((name, details))

    def names(self):
        return [name for name, _ in self.events]

    def last(self, name):
        return [details for seen, details in self.events if seen == name][-1]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def make(path, recorder):
    """Makes devices at `path` and closes them."""
    devices = []

    def make_device(**options):
        device = VhostUserDevice(path, event=recorder, **options)
        devices.append(device)
        return device

    yield make_device
    for device in devices:
        device.close()


@pytest.fixture
def device(make):
    return make()


@pytest.fixture
def ram():
    ram = GuestRam(1 << 20)
    yield ram
    ram.close()


@pytest.fixture
def front_end(device, path):
    front_end = VhostFrontEnd.connect(path, turn=device.handle_ready)
    yield front_end
    front_end.close()


def bring_up(front_end, ram):
    """Empty rings that run: what a driver does with them is in test_frames.py."""
    front_end.negotiate(ALL)
    front_end.share(ram)
    for index in (0, 1):
        front_end.enable_ring(index)
        front_end.set_up_ring(index, DriverQueue(ram, 64))


def readable(device, seconds=0.0):
    return bool(select.select([device], [], [], seconds)[0])


def settle(device):
    """Gives the device its turn until it has nothing to do; it must come to rest."""
    burst = Burst(False)
    for _ in range(20):
        assert device.receive(burst) == 0
        if not readable(device):
            return
    raise AssertionError("the device does not come to rest")


# the socket file


def test_socket_file_is_ours_alone_and_goes_with_the_device(make, path):
    device = make()
    status = os.stat(path)
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    device.close()
    assert not os.path.exists(path)
    device.close()


def test_stale_socket_file_is_replaced(make, path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    make()
    VhostFrontEnd.connect(path).close()


@pytest.mark.parametrize("full", [False, True])
def test_socket_somebody_listens_on_is_left_alone(path, full):
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(path)
        other.listen(0)
        if full:
            waiting.connect(path)
        with pytest.raises(OSError, match="another process listens") as caught:
            VhostUserDevice(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)


def test_file_that_is_no_socket_is_left_alone(path):
    with open(path, "w"):
        pass
    with pytest.raises(OSError, match="not a socket") as caught:
        VhostUserDevice(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert os.path.isfile(path)


def test_another_ones_socket_file_is_not_removed(make, path):
    device = make()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        device.close()
        assert os.path.exists(path)


def test_path_too_long(tmp_path):
    longest = str(tmp_path) + "/" + "s" * (107 - len(str(tmp_path)) - 1)
    VhostUserDevice(longest).close()
    with pytest.raises(OSError, match="107 bytes") as caught:
        VhostUserDevice(longest + "s")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="directory"):
        VhostUserDevice(str(tmp_path / "none" / "socket"))


@pytest.mark.parametrize(
    "options",
    [{"role": "both"}, {"queue_pairs": 0}, {"queue_pairs": 129}, {"mac": b"\x01abcde"}, {"mac": b"x"}, {"mtu": 67}],
)
def test_arguments_that_make_no_card(path, options):
    with pytest.raises(ValueError):
        VhostUserDevice(path, **options)
    assert not os.path.exists(path)


def test_link_before_there_is_a_guest(make):
    device = make(mac=b"\x02abcde", mtu=1400)
    assert (device.link.medium, device.link.mtu, device.link.address) == (Medium.ETHERNET, 1400, b"\x02abcde")
    assert (device.link.offloads, device.link.frame_max) == (Offload.NONE, 1414)
    assert not device.link_up
    assert not readable(device)


def test_random_address_is_local_and_unicast(make, tmp_path):
    first, second = make(), VhostUserDevice(str(tmp_path / "other"))
    second.close()
    assert first.link.address[0] == second.link.address[0] == 2
    assert first.link.address != second.link.address


# connections and the link


def test_rings_up_is_link_up(device, front_end, ram, recorder):
    bring_up(front_end, ram)
    assert device.link_up
    started = ["ring_started", "ring_started"]
    assert recorder.names() == ["connected", "negotiated", "memory_can_shrink", *started, "link_up"]
    assert recorder.last("negotiated")["features"] == front_end.features
    settle(device)


def test_link_needs_both_rings_and_the_receive_ring_enabled(device, front_end, ram):
    bring_up(front_end, ram)
    front_end.enable_ring(0, False)
    assert not device.link_up
    front_end.enable_ring(0, True)
    assert device.link_up
    front_end.stop_ring(1)
    assert not device.link_up
    front_end.set_up_ring(1, DriverQueue(ram, 64))
    assert device.link_up
    front_end.stop_ring(0)
    assert not device.link_up


def test_offloads_follow_what_the_guest_accepts(device, front_end):
    tso = mask(Feature.GUEST_TSO4, Feature.GUEST_TSO6)
    base = mask(Feature.VERSION_1, Feature.PROTOCOL_FEATURES)
    expected = {
        base: Offload.NONE,
        base | mask(Feature.GUEST_CSUM): Offload.CHECKSUM,
        base | mask(Feature.GUEST_CSUM, Feature.GUEST_TSO4): Offload.CHECKSUM | Offload.TSO4,
        base | mask(Feature.GUEST_CSUM, Feature.GUEST_TSO6): Offload.CHECKSUM | Offload.TSO6,
        base | mask(Feature.GUEST_CSUM) | tso: Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6,
        base | tso: Offload.NONE,  # they need GUEST_CSUM
        base | mask(Feature.CSUM, Feature.HOST_TSO4): Offload.NONE,
    }
    front_end.negotiate(ALL)
    for features, offloads in expected.items():
        front_end.request(Request.SET_FEATURES, U64(features))
        assert device.link.offloads == offloads
        super_frames = offloads & (Offload.TSO4 | Offload.TSO6)
        assert device.link.frame_max == (65549 if super_frames else 1514)


def test_mtu_of_the_front_end_holds_for_a_guest_that_knows(device, front_end, recorder):
    front_end.negotiate(ALL & ~mask(Feature.MTU))
    front_end.request(Request.NET_SET_MTU, U64(9000))
    assert device.link.mtu == 1500
    front_end.request(Request.SET_FEATURES, U64(front_end.features | mask(Feature.MTU)))
    assert device.link.mtu == 9000
    front_end.request(Request.NET_SET_MTU, U64(4000))
    assert device.link.mtu == 4000
    with pytest.raises(FrontEndError, match="refused"):
        front_end.request(Request.NET_SET_MTU, U64(67))
    assert device.link.mtu == 4000
    assert recorder.last("mtu_set") == {"mtu": 4000}


def test_features_off_take_along_what_needs_them(make, path):
    device = make(features_off=(Feature.CSUM, Feature.GUEST_CSUM, Feature.EVENT_IDX))
    front_end = VhostFrontEnd.connect(path, turn=device.handle_ready)
    offered = front_end.request(Request.GET_FEATURES).value
    gone = mask(
        Feature.CSUM, Feature.GUEST_CSUM, Feature.EVENT_IDX,
        Feature.HOST_TSO4, Feature.HOST_TSO6, Feature.GUEST_TSO4, Feature.GUEST_TSO6,
    )  # fmt: skip
    assert not offered & gone
    assert offered & mask(Feature.MRG_RXBUF)
    front_end.close()


def test_front_end_that_leaves_may_come_back(device, path, ram, recorder):
    for _ in range(3):
        front_end = VhostFrontEnd.connect(path, turn=device.handle_ready)
        bring_up(front_end, ram)
        assert device.link_up
        front_end.close()
        assert readable(device)
        settle(device)
        assert not device.link_up
        assert recorder.last("disconnected")["reason"].startswith("the peer closed")
    assert device.counters()["connections"] == 3


def test_link_of_a_guest_does_not_outlive_it(device, path):
    first = VhostFrontEnd.connect(path, turn=device.handle_ready)
    first.negotiate(ALL)
    first.request(Request.NET_SET_MTU, U64(9000))
    assert device.link.mtu == 9000
    first.close()
    settle(device)
    second = VhostFrontEnd.connect(path, turn=device.handle_ready)
    second.negotiate(mask(Feature.VERSION_1, Feature.MTU))
    assert (device.link.mtu, device.link.offloads) == (1500, Offload.NONE)
    second.close()
    settle(device)


def test_one_front_end_at_a_time_the_next_one_waits(device, front_end, path, ram):
    bring_up(front_end, ram)
    second = VhostFrontEnd.connect(path, turn=device.handle_ready)
    settle(device)
    assert device.link_up
    with pytest.raises(FrontEndError, match="no answer"):
        second.request(Request.GET_FEATURES)
    front_end.close()
    device.handle_ready()
    assert not device.link_up
    device.handle_ready()
    assert second.receive(Request.GET_FEATURES).value
    second.close()
    settle(device)


def test_memory_and_descriptors_go_with_the_connection(device, path, ram):
    settle(device)
    before = open_fds()
    front_end = VhostFrontEnd.connect(path, turn=device.handle_ready)
    bring_up(front_end, ram)
    front_end.close()
    settle(device)
    assert open_fds() == before
    with open("/proc/self/maps") as maps:
        assert sum("memfd:guest-ram" in line for line in maps) == 1  # the test's own


def test_close_in_the_middle_gives_everything_back(device, front_end, ram):
    """The fixture counts descriptors."""
    bring_up(front_end, ram)
    device.close()
    assert not device.link_up
    with pytest.raises(FrontEndError, match="closed"):
        front_end.request(Request.GET_FEATURES)


def test_m6_endless_repetition_needs_no_more_descriptors(device, front_end, ram):
    bring_up(front_end, ram)
    before = open_fds()
    for _ in range(50):
        front_end.share(ram)
        for index in (0, 1):
            front_end.set_kick(index)
            front_end.set_call(index)
            front_end.set_err(index)
    assert open_fds() == before
    assert device.link_up


# mistakes of the front-end


def test_protocol_error_is_one_line_and_ends_the_connection(device, front_end, ram, recorder, caplog):
    bring_up(front_end, ram)
    with caplog.at_level(logging.WARNING), pytest.raises(FrontEndError, match="closed"):
        front_end.send(Request.SET_VRING_NUM, VringState(77, 256))
        front_end.request(Request.GET_FEATURES)
    assert len(caplog.records) == 1
    text = caplog.records[0].getMessage()
    assert "SET_VRING_NUM" in text and "M4" in text and "\n" not in text
    assert recorder.last("protocol_error") == {"message": "SET_VRING_NUM", "check": "M4", "text": "ring 77 of 2"}
    assert not device.link_up
    assert device.counters()["protocol_errors"] == 1


def test_m3_descriptors_of_a_refused_message_are_closed(device, front_end):
    front_end.negotiate(ALL)
    before = open_fds()
    for request_id, payload, count in (
        (Request.SET_VRING_KICK, U64(77), 1),
        (Request.SET_MEM_TABLE, MemoryTable([MemoryRegion(0, 0, 0, 0)] * 8), 8),
        (Request.ADD_MEM_REG, SingleRegion(MemoryRegion(0, 0, 0, 0)), 1),
    ):
        front_end.send(request_id, payload, [0] * count, need_reply=True)
        assert front_end.receive(request_id).value
        assert open_fds() == before


def test_refused_memory_leaves_the_connection(device, front_end, ram):
    bring_up(front_end, ram)
    table = memory_table(ram)
    table.regions[0].size *= 2
    with pytest.raises(FrontEndError, match="refused"):
        front_end.request(Request.SET_MEM_TABLE, table, [ram.fd])
    assert device.link_up
    front_end.kick(1)
    settle(device)


@pytest.mark.parametrize(
    "change, check",
    [
        (lambda region: setattr(region, "size", 0), "R1"),
        (lambda region: setattr(region, "guest_address", (1 << 64) - 4096), "R1"),
        (lambda region: setattr(region, "user_address", (1 << 64) - 4096), "R1"),
        (lambda region: setattr(region, "offset", (1 << 64) - 4096), "R1"),
        (lambda region: setattr(region, "offset", 4096), "R2"),
    ],
)
def test_memory_checks_are_named(device, front_end, ram, recorder, change, check):
    front_end.negotiate(ALL, 0)
    table = memory_table(ram)
    change(table.regions[0])
    front_end.send(Request.SET_MEM_TABLE, table, [ram.fd])
    assert recorder.last("protocol_error")["check"] == check


def test_r2_memory_that_is_no_file(device, front_end, ram, recorder):
    front_end.negotiate(ALL, 0)
    eventfd = os.eventfd(0)
    front_end.send(Request.SET_MEM_TABLE, memory_table(ram), [eventfd])
    os.close(eventfd)
    assert recorder.last("protocol_error")["check"] == "R2"


def test_r4_regions_that_overlap(device, front_end, ram, recorder):
    front_end.negotiate(ALL, 0)
    front_end.send(Request.SET_MEM_TABLE, MemoryTable(memory_table(ram).regions * 2), [ram.fd] * 2)
    assert recorder.last("protocol_error")["check"] == "R4"


def test_v3_ring_outside_memory(device, front_end, ram, recorder):
    bring_up(front_end, ram)
    queue = DriverQueue(ram, 64)
    queue.desc = ram.guest_address + ram.size - 16
    with pytest.raises(FrontEndError, match="refused"):
        front_end.set_up_ring(0, queue)
    assert "V3" in recorder.last("warning")["text"]
    assert not device.link_up


@pytest.mark.parametrize("sealed", [False, True])
def test_memory_that_may_shrink_is_mentioned(device, front_end, recorder, sealed):
    front_end.negotiate(ALL)
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    front_end.request(Request.SET_MEM_TABLE, MemoryTable([MemoryRegion(0, 4096, 0, 0)]), [fd])
    os.close(fd)
    assert ("memory_can_shrink" in recorder.names()) != sealed


@pytest.mark.parametrize("path_of_it", ["/", "/dev/null", "memory"])
def test_m3_kick_descriptor_that_cannot_be_watched(device, front_end, ram, recorder, path_of_it):
    bring_up(front_end, ram)
    fd = os.dup(ram.fd) if path_of_it == "memory" else os.open(path_of_it, os.O_RDONLY)
    front_end.send(Request.SET_VRING_KICK, U64(1), [fd])
    os.close(fd)
    assert recorder.last("protocol_error")["check"] == "M3"


def test_kick_descriptor_that_ends_is_not_watched_for_ever(device, front_end, ram, recorder):
    bring_up(front_end, ram)
    settle(device)
    for index in (0, 1):
        reader, writer = os.pipe()
        front_end.send(Request.SET_VRING_KICK, U64(index), [reader])
        os.close(reader)
        os.close(writer)
        settle(device)
        assert "no longer watched" in recorder.last("warning")["text"]
    assert device.link_up


def test_m10_front_end_that_never_reads(device, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    sent = 0
    while device.counters()["protocol_errors"] == 0:
        try:
            sock.send(emit_request(Request.GET_FEATURES) * 100)
        except BlockingIOError:
            pass
        sent += 1
        assert sent < 10_000
        device.handle_ready()
    sock.close()
    settle(device)


def test_t5_endless_messages_leave_the_owner_its_turn(device, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    device.handle_ready()
    message = emit_request(Request.SET_OWNER)
    for _ in range(1000):
        try:
            sock.send(message)
        except BlockingIOError:
            break
    device.handle_ready()
    assert readable(device)
    settle(device)
    sock.close()
    settle(device)


def test_half_a_message_is_waited_for(device, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    message = emit_request(Request.GET_FEATURES)
    sock.send(message[:5])
    device.handle_ready()
    assert not readable(device)
    sock.send(message[5:])
    device.handle_ready()
    assert len(sock.recv(100)) == 20
    sock.close()
    settle(device)


def test_unknown_request(device, front_end, recorder):
    front_end.negotiate(ALL)
    front_end.send(200, None, [0, 1], need_reply=True)
    assert front_end.receive(200).value != 0
    front_end.send(Request.GET_STATUS)
    assert front_end.request(Request.GET_FEATURES).value
    assert "GET_STATUS" in recorder.last("warning")["text"]


def test_guest_that_moved_here(device, front_end, recorder):
    front_end.negotiate(ALL)
    front_end.request(Request.SEND_RARP, U64.parse(b"\x52\x54\x00\x01\x02\x03\0\0"))
    assert recorder.last("guest_moved") == {"address": b"\x52\x54\x00\x01\x02\x03"}


# connecting to a front-end that listens


@pytest.fixture
def listener(path):
    """Lets a front-end listen at `path`, as QEMU's server=on does."""
    sockets = []

    def listen():
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen(1)
        sockets.append(sock)
        return sock

    yield listen
    for sock in sockets:
        sock.close()


def accept(listener, device):
    for _ in range(10):
        device.handle_ready()
        if select.select([listener], [], [], 0)[0]:
            return VhostFrontEnd(listener.accept()[0], turn=device.handle_ready)
        assert readable(device, 5), "no retry"
    raise AssertionError("no connection")


def test_connects_to_a_front_end_that_is_there(make, listener, ram):
    sock = listener()
    device = make(role="connect")
    front_end = accept(sock, device)
    bring_up(front_end, ram)
    assert device.link_up
    front_end.close()
    device.close()


def test_connects_to_a_front_end_that_comes_later_and_comes_back(make, listener, path, ram):
    device = make(role="connect")
    assert not readable(device)
    sock = listener()
    for _ in range(2):
        front_end = accept(sock, device)
        bring_up(front_end, ram)
        front_end.close()
        device.handle_ready()
        assert not device.link_up
    # and when it restarts as a whole
    sock.close()
    os.unlink(path)
    assert readable(device, 5)
    device.handle_ready()
    front_end = accept(listener(), device)
    bring_up(front_end, ram)
    assert device.link_up
    front_end.close()


def test_connecting_leaves_the_front_ends_socket_file(make, listener, path):
    listener()
    make(role="connect").close()
    assert os.path.exists(path)


def test_connect_reports_what_cannot_get_better(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        VhostUserDevice(str(tmp_path / "file" / "socket"), role="connect")
