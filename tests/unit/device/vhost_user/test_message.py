"""Round trips and refusals of the vhost-user wire layout."""

import struct

import pytest

from swos_net.device.vhost_user.message import (
    FORMATS,
    HEADER,
    HEADER_SIZE,
    PAYLOAD_MAX,
    U64,
    VRING_NO_FD,
    Config,
    DeviceState,
    Header,
    Inflight,
    Iotlb,
    Log,
    MemoryRegion,
    MemoryTable,
    Message,
    ProtocolError,
    Request,
    SharedObject,
    SingleRegion,
    VringAddress,
    VringState,
    emit_reply,
    emit_request,
    parse_header,
    parse_reply,
    parse_request,
)
from swos_net.errors import WireError

REGION = MemoryRegion(0x40000000, 0x4000000, 0x7F0000000000, 0x1000)

SAMPLES = {
    U64: U64(0x0102030405060708),
    VringState: VringState(1, 256),
    VringAddress: VringAddress(1, 0, 0x10000, 0x20000, 0x30000, 0x40000),
    MemoryTable: MemoryTable([REGION, MemoryRegion(0, 0x1000, 0x5000, 0)]),
    SingleRegion: SingleRegion(REGION),
    Log: Log(0x2000, 0x1000),
    Iotlb: Iotlb(0x1000, 0x2000, 0x3000, 3, 2),
    Config: Config(4, 1, b"config"),
    Inflight: Inflight(4096, 0, 2, 256),
    SharedObject: SharedObject(bytes(range(16))),
    DeviceState: DeviceState(1, 0),
}
# The sizes the specification gives, in bytes.
SIZES = {
    U64: 8,
    VringState: 8,
    VringAddress: 40,
    MemoryTable: 8 + 2 * 32,
    SingleRegion: 40,
    Log: 16,
    Iotlb: 32,
    Config: 18,
    Inflight: 24,
    SharedObject: 16,
    DeviceState: 8,
}


def parse(data: bytes, fd_count: int = 0) -> Message:
    return parse_request(parse_header(data[:HEADER_SIZE]), data[HEADER_SIZE:], fd_count)


def sample(request: Request):
    layout = FORMATS[request].payload
    return None if layout is None else SAMPLES[layout]


def right_fd_count(request: Request) -> int:
    return FORMATS[request].fds(sample(request))[-1]


@pytest.mark.parametrize("payload", SAMPLES.values(), ids=lambda payload: type(payload).__name__)
def test_payload_round_trip(payload):
    data = payload.emit()
    assert len(data) == SIZES[type(payload)]
    assert type(payload).parse(data) == payload


def test_layouts_byte_by_byte():
    assert VringState(2, 3).emit() == struct.pack("=II", 2, 3)
    assert VringAddress(1, 2, 3, 4, 5, 6).emit() == struct.pack("=IIQQQQ", 1, 2, 3, 4, 5, 6)
    region = struct.pack("=QQQQ", 1, 2, 3, 4)
    assert MemoryTable([MemoryRegion(1, 2, 3, 4)]).emit() == struct.pack("=II", 1, 0) + region
    assert SingleRegion(MemoryRegion(1, 2, 3, 4)).emit() == bytes(8) + region
    assert Config(1, 2, b"abc").emit() == struct.pack("=III", 1, 3, 2) + b"abc"
    assert Iotlb(1, 2, 3, 1, 2).emit() == struct.pack("=QQQBB", 1, 2, 3, 1, 2) + bytes(6)
    # "used" comes before "avail"
    parsed = VringAddress.parse(struct.pack("=IIQQQQ", 0, 0, 1, 2, 3, 4))
    assert parsed == VringAddress(0, 0, desc=1, used=2, avail=3, log=4)


@pytest.mark.parametrize("request_id", FORMATS, ids=lambda request: request.name)
@pytest.mark.parametrize("need_reply", [False, True])
def test_request_round_trip(request_id, need_reply):
    data = emit_request(request_id, sample(request_id), need_reply=need_reply)
    assert parse(data, right_fd_count(request_id)) == Message(request_id, sample(request_id), need_reply)


@pytest.mark.parametrize("request_id", FORMATS, ids=lambda request: request.name)
def test_reply_round_trip(request_id):
    payload = SAMPLES[FORMATS[request_id].reply or U64]
    data = emit_reply(request_id, payload)
    header = parse_header(data[:HEADER_SIZE], reply=True)
    assert (header.request, header.flags) == (request_id, 5)
    assert parse_reply(header, data[HEADER_SIZE:]) == payload


def test_need_reply_does_not_come_back():
    assert HEADER.unpack_from(emit_reply(Request.SET_MEM_TABLE, U64(0))) == (5, 0x5, 8)


@pytest.mark.parametrize("flags", [0x0, 0x2, 0x3, 0x5, 0xD, 0x4], ids=hex)
def test_m1_wrong_version_or_reply_bit(flags):
    with pytest.raises(ProtocolError) as caught:
        parse_header(HEADER.pack(Request.GET_FEATURES, flags, 0))
    assert (caught.value.check_id, caught.value.message_name) == ("M1", "GET_FEATURES")


def test_m1_unknown_flag_bits_are_ignored():
    assert parse(HEADER.pack(Request.SET_OWNER, 0xFFFFFFF9, 0)) == Message(Request.SET_OWNER, None, True)


@pytest.mark.parametrize("flags", [0x1, 0xD, 0x4, 0x6, 0x15], ids=hex)
def test_m1_flags_of_a_reply_are_exact(flags):
    with pytest.raises(ProtocolError, match="M1"):
        parse_header(HEADER.pack(Request.GET_FEATURES, flags, 8), reply=True)


@pytest.mark.parametrize("request_id", FORMATS, ids=lambda request: request.name)
def test_m2_size_must_be_exact(request_id):
    payload = sample(request_id)
    data = b"" if payload is None else payload.emit()
    layout = FORMATS[request_id].payload
    allowed = (0,) if layout is None else layout.sizes()
    wrong = [size for size in range(300) if size not in allowed]
    for size in wrong:
        with pytest.raises(ProtocolError) as caught:
            parse_request(Header(request_id, 1, size), (data + bytes(300))[:size], right_fd_count(request_id))
        assert caught.value.check_id == "M2"
        assert isinstance(caught.value, WireError)


def test_m2_size_above_the_cap_is_refused_with_the_header():
    parse_header(HEADER.pack(Request.SET_MEM_TABLE, 1, PAYLOAD_MAX))
    for size in (PAYLOAD_MAX + 1, 0xFFFFFFFF):
        with pytest.raises(ProtocolError, match="M2"):
            parse_header(HEADER.pack(Request.SET_MEM_TABLE, 1, size))
        with pytest.raises(ProtocolError, match="M2"):
            parse_header(HEADER.pack(Request.SET_MEM_TABLE, 5, size), reply=True)


@pytest.mark.parametrize("count", [0, 1, 3, 0xFFFFFFFF])
def test_m2_region_count_has_to_match_the_size(count):
    data = struct.pack("=II", count, 0) + MemoryTable([REGION, REGION]).emit()[8:]
    with pytest.raises(ProtocolError, match="M2"):
        parse_request(Header(Request.SET_MEM_TABLE, 1, len(data)), data, 2)


def test_m2_nine_regions_are_too_many():
    data = MemoryTable([REGION] * 9).emit()
    with pytest.raises(ProtocolError, match="M2"):
        parse_request(Header(Request.SET_MEM_TABLE, 1, len(data)), data, 9)


def test_m2_configuration_length_has_to_match_the_size():
    data = struct.pack("=III", 0, 5, 0) + bytes(4)
    with pytest.raises(ProtocolError, match="M2"):
        parse_request(Header(Request.GET_CONFIG, 1, len(data)), data, 0)


@pytest.mark.parametrize("request_id", FORMATS, ids=lambda request: request.name)
def test_m3_number_of_descriptors_is_exact(request_id):
    allowed = FORMATS[request_id].fds(sample(request_id))
    for fd_count in set(range(10)) - set(allowed):
        with pytest.raises(ProtocolError) as caught:
            parse(emit_request(request_id, sample(request_id)), fd_count)
        assert caught.value.check_id == "M3"


@pytest.mark.parametrize("request_id", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_m3_descriptor_or_the_bit_that_there_is_none(request_id):
    assert parse(emit_request(request_id, U64(3)), 1).payload == U64(3)
    assert parse(emit_request(request_id, U64(3 | VRING_NO_FD)), 0).payload == U64(3 | VRING_NO_FD)
    for value, fd_count in ((3, 0), (3 | VRING_NO_FD, 1), (3, 2)):
        with pytest.raises(ProtocolError, match="M3"):
            parse(emit_request(request_id, U64(value)), fd_count)


def test_unknown_request_has_no_payload_and_a_name():
    message = parse(HEADER.pack(200, 9, 3) + b"abc", 2)
    assert message == Message(200, None, True)
    assert message.name == "request 200"


def test_inflight_keeps_the_size_the_peer_uses():
    for size in (20, 24):
        data = Inflight(1, 2, 3, 4).emit()[:size]
        assert Inflight.parse(data).emit() == data


def test_reply_of_a_wrong_size():
    with pytest.raises(ProtocolError, match="M2"):
        parse_reply(Header(Request.GET_VRING_BASE, 5, 12), bytes(12))
