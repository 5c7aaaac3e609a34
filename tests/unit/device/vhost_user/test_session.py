"""Negotiation as scripts: the sequences front-ends send, and each rule a message can break."""

from dataclasses import dataclass, field

import pytest

from swos_net.device.vhost_user.features import Feature, ProtocolFeature, mask
from swos_net.device.vhost_user.message import (
    FORMATS,
    HEADER_SIZE,
    U64,
    VRING_F_LOG,
    VRING_NO_FD,
    DeviceState,
    MemoryRegion,
    MemoryTable,
    Message,
    ProtocolError,
    Request,
    SingleRegion,
    VringAddress,
    VringState,
    parse_header,
    parse_reply,
)
from swos_net.device.vhost_user.session import DEVICE_FEATURES, PROTOCOL_FEATURES, Refused, Session

GUEST_FEATURES = mask(Feature.CSUM, Feature.GUEST_CSUM, Feature.MRG_RXBUF, Feature.VERSION_1, Feature.PROTOCOL_FEATURES)
REGION = MemoryRegion(0x40000000, 0x4000000, 0x7F0000000000, 0)
BASE_OF_A_RING_THAT_RAN = 77


@dataclass
class FakePerformer:
    """Notes what it is told, and fails where a test wants it to."""

    calls: list[tuple] = field(default_factory=list)
    refuse_memory: Refused | None = None
    refuse_start: dict[int, Refused] = field(default_factory=dict)
    refuse_kick: Refused | None = None
    running: dict[int, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def take(self) -> list[tuple]:
        calls, self.calls = self.calls, []
        return calls

    def map_memory(self, regions, fds):
        assert not self.running, "a ring runs while memory changes"
        self.calls.append(("map", len(regions), list(fds)))
        if self.refuse_memory:
            raise self.refuse_memory

    def start_ring(self, index, ring, features):
        assert index not in self.running, "started twice"
        if index in self.refuse_start:
            raise self.refuse_start[index]
        self.running[index] = ring.base
        self.calls.append(("start", index, ring.size, ring.base, ring.address.desc, features))

    def stop_ring(self, index):
        assert self.running.pop(index) is not None
        self.calls.append(("stop", index))
        return BASE_OF_A_RING_THAT_RAN

    def enable_ring(self, index, enabled):
        self.calls.append(("enable", index, enabled))

    def set_kick(self, index, fd):
        if self.refuse_kick:
            raise self.refuse_kick
        self.calls.append(("kick", index, fd))

    def drop_kick(self, index):
        self.calls.append(("drop_kick", index))

    def set_call(self, index, fd):
        self.calls.append(("call", index, fd))

    def set_err(self, index, fd):
        self.calls.append(("err", index, fd))

    def features_negotiated(self, features):
        self.calls.append(("features", features))

    def mtu_set(self, mtu):
        self.calls.append(("mtu", mtu))

    def guest_moved(self, address):
        self.calls.append(("moved", address))

    def warn(self, text):
        self.log.append(text)


class Script:
    """A front-end whose messages are method calls: `script.send(Request.X, payload)` returns the reply or None."""

    def __init__(self, queue_pairs: int = 1, **options):
        self.performer = FakePerformer()
        self.session = Session(self.performer, queue_pairs, **options)
        self.next_fd = 1000

    def send(self, request, payload=None, fds=0, need_reply=False):
        numbers = list(range(self.next_fd, self.next_fd + fds))
        self.next_fd += fds
        self.left = numbers
        self.session.message_received(Message(request, payload, need_reply), numbers)
        replies = self.session.messages_to_send()
        assert len(replies) <= 1
        if not replies:
            return None
        header = parse_header(replies[0][:HEADER_SIZE], reply=True)
        assert header.request == request
        assert header.size == len(replies[0]) - HEADER_SIZE
        return parse_reply(header, replies[0][HEADER_SIZE:])

    def take(self):
        return self.performer.take()

    def negotiate(self, protocol=PROTOCOL_FEATURES):
        """Sequence A, for one queue pair."""
        assert self.send(Request.GET_FEATURES) == U64(self.session.offered)
        assert self.send(Request.GET_PROTOCOL_FEATURES) == U64(self.session.offered_protocol)
        assert self.send(Request.SET_PROTOCOL_FEATURES, U64(protocol)) is None
        assert self.send(Request.GET_QUEUE_NUM) == U64(self.session.queue_pairs)
        assert self.send(Request.SET_OWNER) is None
        assert self.send(Request.GET_FEATURES) == U64(self.session.offered)
        for index in (0, 1):
            assert self.send(Request.SET_VRING_CALL, U64(index), fds=1) is None
            assert self.send(Request.SET_VRING_ERR, U64(index), fds=1) is None

    def share_memory(self):
        assert self.send(Request.SET_MEM_TABLE, MemoryTable([REGION]), fds=1, need_reply=True) == U64(0)

    def set_up(self, index, base=0, size=256):
        assert self.send(Request.SET_VRING_NUM, VringState(index, size)) is None
        assert self.send(Request.SET_VRING_BASE, VringState(index, base)) is None
        assert self.send(Request.SET_VRING_ADDR, address(index)) is None
        assert self.send(Request.SET_VRING_KICK, U64(index), fds=1) is None
        assert self.send(Request.SET_VRING_CALL, U64(index), fds=1) is None

    def driver_ok(self, base=0):
        """Sequence B, for one queue pair."""
        for index in (0, 1):
            assert self.send(Request.SET_VRING_ENABLE, VringState(index, 1)) is None
        assert self.send(Request.SET_FEATURES, U64(GUEST_FEATURES)) is None
        self.share_memory()
        for index in (0, 1):
            self.set_up(index, base)


def address(index, desc=0x10000, flags=0):
    start = desc + 0x4000 * index
    return VringAddress(index, flags, desc=start, used=start + 0x2000, avail=start + 0x1000)


def up() -> Script:
    script = Script()
    script.negotiate()
    script.driver_ok()
    script.take()
    return script


def check_refused(script, check, request, payload=None, fds=0):
    """The operation fails with a negative acknowledgement where one is asked for, else with the connection.

    A request with a reply of its own has no acknowledgement.
    """
    for need_reply in (True, False):
        if need_reply and script.session.protocol_features and FORMATS[request].reply is None:
            assert script.send(request, payload, fds, need_reply=True).value != 0
            assert check in script.performer.log[-1]
        else:
            with pytest.raises(ProtocolError) as caught:
                script.send(request, payload, fds, need_reply)
            assert (caught.value.check_id, caught.value.message_name) == (check, request.name)


# the sequences of real front-ends


def test_sequence_a_connect():
    script = Script()
    script.negotiate()
    for _ in range(3):
        for index in (0, 1):
            assert script.send(Request.SET_VRING_ENABLE, VringState(index, 1)) is None
    assert script.take() == [
        ("call", 0, 1000), ("err", 0, 1001), ("call", 1, 1002), ("err", 1, 1003),
        ("enable", 0, True), ("enable", 1, True),
    ]  # fmt: skip
    assert script.performer.running == {}


def test_sequence_b_driver_ok():
    script = Script()
    script.negotiate()
    script.take()
    assert script.send(Request.NET_SET_MTU, U64(9000), need_reply=True) == U64(0)
    script.driver_ok()
    assert script.take() == [
        ("mtu", 9000), ("enable", 0, True), ("enable", 1, True), ("features", GUEST_FEATURES), ("map", 1, [1004]),
        ("kick", 0, 1005), ("start", 0, 256, 0, 0x10000, GUEST_FEATURES), ("call", 0, 1006),
        ("kick", 1, 1007), ("start", 1, 256, 0, 0x14000, GUEST_FEATURES), ("call", 1, 1008),
    ]  # fmt: skip


def test_descriptors_of_memory_stay_the_callers_and_others_are_handed_over():
    script = Script()
    script.negotiate()
    script.share_memory()
    assert len(script.left) == 1
    script.send(Request.SET_VRING_CALL, U64(0), fds=1)
    assert script.left == []


def test_sequence_c_stop_and_start_again():
    script = up()
    for index in (0, 1):
        assert script.send(Request.GET_VRING_BASE, VringState(index, 0)) == VringState(index, BASE_OF_A_RING_THAT_RAN)
        assert script.take() == [("stop", index), ("drop_kick", index)]
    assert script.send(Request.SET_VRING_ENABLE, VringState(0, 1)) is None
    assert script.take() == []
    script.driver_ok(base=BASE_OF_A_RING_THAT_RAN)
    assert script.performer.running == {0: BASE_OF_A_RING_THAT_RAN, 1: BASE_OF_A_RING_THAT_RAN}


def test_sequence_c_new_features_after_a_reset():
    script = up()
    for index in (0, 1):
        script.send(Request.GET_VRING_BASE, VringState(index, 0))
    features = GUEST_FEATURES | mask(Feature.EVENT_IDX)
    assert script.send(Request.SET_FEATURES, U64(features)) is None
    assert script.take()[-1] == ("features", features)


def test_sequence_d_two_queue_pairs():
    script = Script(queue_pairs=2)
    script.negotiate()
    # once more for the second pair
    assert script.send(Request.GET_FEATURES).value >> Feature.MQ & 1
    script.send(Request.GET_PROTOCOL_FEATURES)
    assert script.send(Request.SET_PROTOCOL_FEATURES, U64(PROTOCOL_FEATURES)) is None
    for index in (2, 3):
        script.send(Request.SET_VRING_CALL, U64(index), fds=1)
        script.send(Request.SET_VRING_ERR, U64(index), fds=1)
        script.send(Request.SET_VRING_ENABLE, VringState(index, 0))
    script.driver_ok()
    # The second pair sends the features again while the first one's rings run.
    assert script.send(Request.SET_FEATURES, U64(GUEST_FEATURES)) is None
    for index in (2, 3):
        script.set_up(index)
    assert sorted(script.performer.running) == [0, 1, 2, 3]
    script.take()
    for index in range(4):
        script.send(Request.SET_VRING_ENABLE, VringState(index, 1))
    assert script.take() == [("enable", 2, True), ("enable", 3, True)]


def test_sequence_e_reconnect_at_the_used_index():
    script = Script()
    script.negotiate()
    script.driver_ok(base=4660)
    assert script.performer.running == {0: 4660, 1: 4660}


def test_sequence_f_virtio_user_of_dpdk():
    script = Script(queue_pairs=2)
    assert script.send(Request.SET_OWNER) is None
    script.send(Request.GET_FEATURES)
    script.send(Request.GET_PROTOCOL_FEATURES)
    script.send(Request.SET_PROTOCOL_FEATURES, U64(mask(ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK)))
    for index in (0, 2, 1, 3):
        script.send(Request.SET_VRING_CALL, U64(index), fds=1)
    assert script.send(Request.SET_FEATURES, U64(GUEST_FEATURES)) is None
    script.share_memory()
    for index in (0, 2, 1, 3):
        script.send(Request.SET_VRING_NUM, VringState(index, 1024))
        script.send(Request.SET_VRING_BASE, VringState(index, 0))
        script.send(Request.SET_VRING_ADDR, address(index))
        script.send(Request.SET_VRING_KICK, U64(index), fds=1)
    assert sorted(script.performer.running) == [0, 1, 2, 3]
    for index in range(4):
        script.send(Request.SET_VRING_ENABLE, VringState(index, 1))
    for index in range(4):
        script.send(Request.SET_VRING_ENABLE, VringState(index, 0))
    for index in range(4):
        garbage = VringState(index, 0xDEADBEEF)
        assert script.send(Request.GET_VRING_BASE, garbage) == VringState(index, BASE_OF_A_RING_THAT_RAN)


# features


def test_offers():
    session = Script().session
    names = {Feature(bit).name for bit in range(64) if session.offered >> bit & 1}
    assert names == {
        "CSUM", "GUEST_CSUM", "MTU", "GUEST_TSO4", "GUEST_TSO6", "HOST_TSO4", "HOST_TSO6", "MRG_RXBUF",
        "GUEST_ANNOUNCE", "ANY_LAYOUT", "INDIRECT_DESC", "EVENT_IDX", "PROTOCOL_FEATURES", "VERSION_1",
    }  # fmt: skip
    assert Script(queue_pairs=2).session.offered == session.offered | mask(Feature.MQ)
    assert session.offered_protocol == mask(0, 2, 3, 4)


def test_a_feature_switched_off_is_neither_offered_nor_accepted():
    offered = DEVICE_FEATURES & ~mask(Feature.MRG_RXBUF)
    script = Script(offered=offered, offered_protocol=mask(ProtocolFeature.REPLY_ACK))
    assert not script.send(Request.GET_FEATURES).value >> Feature.MRG_RXBUF & 1
    script.send(Request.SET_PROTOCOL_FEATURES, U64(mask(ProtocolFeature.REPLY_ACK)))
    check_refused(script, "M7", Request.SET_FEATURES, U64(GUEST_FEATURES))
    # and what belongs to a protocol feature that is off is an unknown request
    assert script.send(Request.NET_SET_MTU, U64(1500), need_reply=True).value != 0
    assert script.take() == []


@pytest.mark.parametrize("bit", [26, 33, 34, 35, 40, 63])
def test_m7_features_that_were_not_offered(bit):
    script = Script()
    script.negotiate()
    check_refused(script, "M7", Request.SET_FEATURES, U64(GUEST_FEATURES | 1 << bit))
    assert script.session.features is None


@pytest.mark.parametrize("bit", [1, 5, 9, 12, 14, 15, 16, 20, 63])
def test_m7_protocol_features_that_were_not_offered(bit):
    script = Script()
    script.negotiate()
    check_refused(script, "M7", Request.SET_PROTOCOL_FEATURES, U64(1 << bit))
    assert script.session.protocol_features == PROTOCOL_FEATURES


def test_m7_logging_of_a_ring_was_not_offered():
    script = up()
    check_refused(script, "M7", Request.SET_VRING_ADDR, address(0, flags=VRING_F_LOG))
    assert 0 in script.performer.running


def test_without_protocol_features_all_rings_are_enabled():
    script = Script()
    script.send(Request.SET_FEATURES, U64(mask(Feature.VERSION_1)))
    assert script.take() == [("features", mask(Feature.VERSION_1)), ("enable", 0, True), ("enable", 1, True)]


def test_with_protocol_features_no_ring_is_enabled_by_itself():
    script = Script()
    script.send(Request.SET_FEATURES, U64(GUEST_FEATURES))
    assert script.take() == [("features", GUEST_FEATURES)]
    assert not any(ring.enabled for ring in script.session.rings)


def test_the_same_features_again_do_not_touch_running_rings():
    script = up()
    assert script.send(Request.SET_FEATURES, U64(GUEST_FEATURES)) is None
    assert script.take() == []


# acknowledgements and unknown requests


def test_acknowledgement_only_where_it_was_negotiated():
    script = Script()
    assert script.send(Request.SET_OWNER, need_reply=True) is None
    script.send(Request.SET_PROTOCOL_FEATURES, U64(mask(ProtocolFeature.REPLY_ACK)))
    assert script.send(Request.SET_OWNER, need_reply=True) == U64(0)
    assert script.send(Request.SET_OWNER) is None


def test_a_reply_is_not_followed_by_an_acknowledgement():
    script = up()
    # Script.send() insists on one message at most
    assert script.send(Request.GET_FEATURES, need_reply=True) == U64(script.session.offered)
    reply = script.send(Request.GET_VRING_BASE, VringState(0, 0), need_reply=True)
    assert reply == VringState(0, BASE_OF_A_RING_THAT_RAN)


@pytest.mark.parametrize(
    "request_id, payload, fds",
    [
        (200, None, 2),
        (Request.SET_STATUS, U64(15), 0),
        (Request.GET_MAX_MEM_SLOTS, None, 0),
        (Request.ADD_MEM_REG, SingleRegion(REGION), 1),
        (Request.RESET_DEVICE, None, 0),
        (Request.SET_DEVICE_STATE_FD, DeviceState(0, 0), 1),
        (Request.SET_BACKEND_REQ_FD, None, 1),
    ],
)
def test_unknown_request_is_refused_or_ignored(request_id, payload, fds):
    script = up()
    assert script.send(request_id, payload, fds, need_reply=True).value != 0
    assert len(script.left) == fds
    assert script.send(request_id, payload, fds) is None
    assert len(script.left) == fds
    assert script.take() == []
    assert len(script.performer.log) == 2


def test_every_request_has_an_answer_in_every_state():
    """M8: no order of messages leads to anything but an answer or a ProtocolError."""
    samples = {U64: U64(0), VringState: VringState(0, 0), VringAddress: address(0), MemoryTable: MemoryTable([])}
    for prepare in (Script, up):
        for request_id, layout in FORMATS.items():
            payload = samples.get(layout.payload)
            script = prepare()
            try:
                script.send(request_id, payload, fds=layout.fds(payload)[-1] if payload else 0)
            except ProtocolError as error:
                assert error.message_name == request_id.name


# ring set-up


@pytest.mark.parametrize("index", [2, 3, 255, 0x10000, 0x80000001, 0xFFFFFFFF])
@pytest.mark.parametrize(
    "request_id", [Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.GET_VRING_BASE, Request.SET_VRING_ENABLE]
)
def test_m4_ring_index_of_a_state(request_id, index):
    check_refused(up(), "M4", request_id, VringState(index, 1))


@pytest.mark.parametrize("index", [2, 0x10000, 0xFFFFFFFF])
def test_m4_ring_index_of_an_address(index):
    check_refused(up(), "M4", Request.SET_VRING_ADDR, VringAddress(index, 0, 0, 0, 0))


@pytest.mark.parametrize("request_id", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
@pytest.mark.parametrize("value", [2, 255, 0x200, 0x10000, 1 << 32, 1 << 63])
def test_m4_ring_index_of_a_descriptor(request_id, value):
    script = up()
    check_refused(script, "M4", request_id, U64(value), fds=1)
    assert len(script.left) == 1
    check_refused(script, "M4", request_id, U64(value | VRING_NO_FD))
    assert script.take() == []


@pytest.mark.parametrize("size", [0, 3, 100, 257, 65536, 0x80000000, 0xFFFFFFFF])
def test_v1_ring_size(size):
    script = Script()
    script.negotiate()
    check_refused(script, "V1", Request.SET_VRING_NUM, VringState(0, size))


@pytest.mark.parametrize("size", [1, 2, 256, 1024, 32768])
def test_v1_good_ring_sizes(size):
    script = Script()
    script.negotiate()
    script.driver_ok()
    for index in (0, 1):
        script.send(Request.GET_VRING_BASE, VringState(index, 0))
    script.take()
    script.set_up(0, size=size)
    assert ("start", 0, size, 0, 0x10000, GUEST_FEATURES) in script.take()


@pytest.mark.parametrize(
    "wrong",
    [VringAddress(0, 0, 8, 0, 0), VringAddress(0, 0, 0, used=2, avail=0), VringAddress(0, 0, 0, used=0, avail=1)],
)
def test_v2_alignment(wrong):
    script = up()
    check_refused(script, "V2", Request.SET_VRING_ADDR, wrong)
    assert 0 in script.performer.running


def test_v3_parts_outside_memory():
    script = up()
    script.performer.refuse_start = {0: Refused("V3", "not in memory")}
    check_refused(script, "V3", Request.SET_VRING_ADDR, address(0, desc=0x90000))
    assert 0 not in script.performer.running
    # stopped where it was
    assert script.send(Request.GET_VRING_BASE, VringState(0, 0)) == VringState(0, BASE_OF_A_RING_THAT_RAN)


@pytest.mark.parametrize("base", [0x10000, 0x80008000, 0xFFFFFFFF])
def test_v6_base_has_16_bits(base):
    script = up()
    check_refused(script, "V6", Request.SET_VRING_BASE, VringState(0, base))
    assert script.send(Request.SET_VRING_BASE, VringState(1, 0xFFFF)) is None


def test_m8_address_before_memory_or_size():
    script = Script()
    script.negotiate()
    check_refused(script, "M8", Request.SET_VRING_ADDR, address(0))
    script.share_memory()
    check_refused(script, "M8", Request.SET_VRING_ADDR, address(0))
    script.send(Request.SET_VRING_NUM, VringState(0, 256))
    assert script.send(Request.SET_VRING_ADDR, address(0)) is None


def test_m8_features_or_size_change_while_a_ring_runs():
    script = up()
    check_refused(script, "M8", Request.SET_FEATURES, U64(GUEST_FEATURES & ~1))
    check_refused(script, "M8", Request.SET_VRING_NUM, VringState(0, 512))
    assert script.send(Request.SET_VRING_NUM, VringState(0, 256)) is None
    assert script.take() == []


ORDERED = ("features", "memory", "enable", "base", "addr", "kick")


@pytest.mark.parametrize("first", range(len(ORDERED)))
@pytest.mark.parametrize("backwards", [False, True])
def test_v5_any_order_starts_the_ring_once_all_is_known(first, backwards):
    """The size comes first, as addresses are nothing without it (M8), and so memory before the addresses."""
    steps = list(ORDERED[first:] + ORDERED[:first])
    if backwards:
        steps.reverse()
    steps.remove("addr")
    steps.insert(max(steps.index("memory") + 1, 3), "addr")
    script = Script()
    script.negotiate()
    script.take()
    script.send(Request.SET_VRING_NUM, VringState(0, 256))
    send = {
        "features": lambda: script.send(Request.SET_FEATURES, U64(GUEST_FEATURES)),
        "memory": script.share_memory,
        "enable": lambda: script.send(Request.SET_VRING_ENABLE, VringState(0, 1)),
        "base": lambda: script.send(Request.SET_VRING_BASE, VringState(0, 5)),
        "addr": lambda: script.send(Request.SET_VRING_ADDR, address(0)),
        "kick": lambda: script.send(Request.SET_VRING_KICK, U64(0), fds=1),
    }
    for position, step in enumerate(steps):
        send[step]()
        known = {"features", "memory", "addr", "kick"} <= set(steps[: position + 1])
        assert (0 in script.performer.running) == known
    assert script.performer.running == {0: 5}
    assert script.session.rings[0].enabled


def test_base_of_a_ring_that_never_started():
    script = Script()
    script.negotiate()
    assert script.send(Request.GET_VRING_BASE, VringState(0, 0)) == VringState(0, 0)
    script.send(Request.SET_VRING_BASE, VringState(0, 99))
    assert script.send(Request.GET_VRING_BASE, VringState(0, 0)) == VringState(0, 99)


def test_base_of_a_ring_that_stopped_already():
    script = up()
    for _ in range(2):
        assert script.send(Request.GET_VRING_BASE, VringState(1, 0)) == VringState(1, BASE_OF_A_RING_THAT_RAN)
    assert script.take() == [("stop", 1), ("drop_kick", 1)]


def test_a_stopped_ring_waits_for_a_new_kick():
    script = up()
    script.send(Request.GET_VRING_BASE, VringState(0, 0))
    script.send(Request.SET_VRING_NUM, VringState(0, 256))
    script.send(Request.SET_VRING_ADDR, address(0))
    assert 0 not in script.performer.running
    script.send(Request.SET_VRING_KICK, U64(0), fds=1)
    assert 0 in script.performer.running


def test_new_addresses_of_a_running_ring_keep_its_indices():
    script = up()
    assert script.send(Request.SET_VRING_ADDR, address(0)) is None
    assert script.take() == []
    script.send(Request.SET_VRING_ADDR, address(0, desc=0x80000))
    assert script.take() == [("stop", 0), ("start", 0, 256, BASE_OF_A_RING_THAT_RAN, 0x80000, GUEST_FEATURES)]


def test_base_after_the_kick_moves_the_ring():
    script = up()
    script.send(Request.SET_VRING_BASE, VringState(0, 12))
    assert script.take() == [("stop", 0), ("start", 0, 256, 12, 0x10000, GUEST_FEATURES)]


def test_kick_without_descriptor_starts_the_ring():
    script = up()
    script.send(Request.GET_VRING_BASE, VringState(0, 0))
    script.take()
    script.send(Request.SET_VRING_KICK, U64(0 | VRING_NO_FD))
    assert [call[:3] for call in script.take()] == [("kick", 0, None), ("start", 0, 256)]


def test_kick_descriptor_that_cannot_be_used():
    script = Script()
    script.negotiate()
    script.performer.refuse_kick = Refused("M3", "not pollable")
    check_refused(script, "M3", Request.SET_VRING_KICK, U64(0), fds=1)
    assert script.left == []


def test_call_and_err_may_change_while_the_ring_runs():
    script = up()
    script.send(Request.SET_VRING_CALL, U64(1), fds=1)
    script.send(Request.SET_VRING_CALL, U64(1 | VRING_NO_FD))
    script.send(Request.SET_VRING_ERR, U64(1 | VRING_NO_FD))
    script.send(Request.SET_VRING_KICK, U64(1), fds=1)
    fd = script.next_fd
    assert script.take() == [("call", 1, fd - 2), ("call", 1, None), ("err", 1, None), ("kick", 1, fd - 1)]
    assert 1 in script.performer.running


# memory


def test_r5_new_memory_restarts_every_running_ring():
    script = up()
    script.send(Request.GET_VRING_BASE, VringState(1, 0))
    script.take()
    script.share_memory()
    calls = script.take()
    assert [call[:2] for call in calls] == [("stop", 0), ("map", 1), ("start", 0)]
    assert calls[2][3] == BASE_OF_A_RING_THAT_RAN


def test_memory_that_cannot_be_mapped_leaves_the_rings_running():
    script = up()
    script.performer.refuse_memory = Refused("R2", "file too short")
    check_refused(script, "R2", Request.SET_MEM_TABLE, MemoryTable([REGION]), fds=1)
    assert len(script.left) == 1
    assert sorted(script.performer.running) == [0, 1]


def test_memory_without_a_ring_in_it_stops_that_ring_only():
    script = up()
    script.performer.refuse_start = {0: Refused("V3", "not in memory")}
    check_refused(script, "V3", Request.SET_MEM_TABLE, MemoryTable([REGION]), fds=1)
    assert sorted(script.performer.running) == [1]


def test_no_memory_at_all_stops_the_rings_until_there_is_some():
    script = up()
    assert script.send(Request.SET_MEM_TABLE, MemoryTable([]), need_reply=True) == U64(0)
    assert script.performer.running == {}
    script.share_memory()
    assert sorted(script.performer.running) == [0, 1]


def test_m6_repeated_messages_replace_what_was_there():
    script = up()
    for _ in range(50):
        script.share_memory()
        for index in (0, 1):
            script.set_up(index)
            script.send(Request.SET_VRING_ERR, U64(index), fds=1)
    assert sorted(script.performer.running) == [0, 1]
    assert len(script.session.rings) == 2
    # what was handed over by number was handed over once
    numbers = [call[2] for call in script.take() if call[0] in ("kick", "call", "err")]
    assert len(numbers) == len(set(numbers)) == 300


# the network


def test_send_rarp_names_the_guest():
    script = up()
    address_bytes = bytes.fromhex("525400123456")
    assert script.send(Request.SEND_RARP, U64.parse(address_bytes + bytes(2)), need_reply=True) == U64(0)
    assert script.take() == [("moved", address_bytes)]


@pytest.mark.parametrize("mtu", [0, 67, 65536, 1 << 63])
def test_an_mtu_that_is_none(mtu):
    script = Script()
    script.negotiate()
    script.take()
    check_refused(script, "M2", Request.NET_SET_MTU, U64(mtu))
    assert script.take() == []


def test_owner_messages_change_nothing():
    script = up()
    assert script.send(Request.RESET_OWNER) is None
    assert script.send(Request.SET_OWNER) is None
    assert script.take() == []
    assert sorted(script.performer.running) == [0, 1]
