"""The net header of what a guest sends (checks N1 to N8)."""

import pytest

from swos_net._dataplane import lib
from swos_net.dataplane.vring import RingFault
from swos_net.testing.virtio_driver import Feature, NetHeader

MODERN = Feature.VERSION_1
OFFLOADS = MODERN | Feature.CSUM | Feature.HOST_TSO4 | Feature.HOST_TSO6
HEADER = NetHeader().pack()
FRAME = bytes(12) + b"\x88\xb5" + bytes(range(200))  # an experimental EtherType: the ring does not care


def drops(setup, data, features=OFFLOADS):
    """The frame is no frame, but its chain goes back and the next one is taken."""
    s = setup(features=features)
    s.send(data)
    s.send()
    assert s.receive() == 2
    dropped = s.ring.dropped
    assert s.frames() == ([FRAME] if dropped else [data[12:], FRAME])
    assert s.release() == 0
    assert len(s.queue.take_used()) == 2
    assert s.ring.broken is RingFault.SOUND
    assert s.ring.frames + dropped == 2
    return bool(dropped)


@pytest.mark.parametrize("length", [0, 1, 11, 12, 25, 26])
def test_N1_chain_without_room_for_header_and_frame_is_dropped(setup, length):
    assert drops(setup, (HEADER + FRAME)[:length])


def test_N1_shortest_frame(setup):
    assert not drops(setup, (HEADER + FRAME)[:27])


@pytest.mark.parametrize(
    "start, offset, bad",
    [
        (34, 16, False),
        (14, 0, False),
        (13, 16, True),
        (0, 0, True),
        (len(FRAME) - 2, 0, False),
        (len(FRAME) - 1, 0, True),
        (34, len(FRAME) - 36, False),
        (34, len(FRAME) - 35, True),
        (65535, 65535, True),
        (34, 65535, True),
        (65535, 3, True),
    ],
)
def test_N3_checksum_field_lies_in_the_frame(setup, start, offset, bad):
    assert drops(setup, NetHeader(flags=1, csum_start=start, csum_offset=offset).pack() + FRAME) == bad
    # without the flag the fields mean nothing
    assert not drops(setup, NetHeader(csum_start=start, csum_offset=offset).pack() + FRAME)


def test_N3_checksum_offload_needs_its_feature(setup):
    header = NetHeader(flags=1, csum_start=34, csum_offset=16).pack()
    assert drops(setup, header + FRAME, features=MODERN)
    assert not drops(setup, header + FRAME, features=MODERN | Feature.CSUM)


@pytest.mark.parametrize(
    "features, changes, bad",
    [
        pytest.param(OFFLOADS, {}, False, id="tcp4"),
        pytest.param(OFFLOADS, {"gso_type": 4}, False, id="tcp6"),
        pytest.param(OFFLOADS, {"gso_type": 0x81}, False, id="ecn"),
        pytest.param(OFFLOADS, {"hdr_len": 65535}, False, id="header length is a hint"),
        pytest.param(OFFLOADS, {"hdr_len": 0}, False, id="header length is missing"),
        pytest.param(OFFLOADS, {"gso_size": 0}, True, id="size 0"),
        pytest.param(OFFLOADS, {"flags": 0}, True, id="no checksum"),
        pytest.param(OFFLOADS, {"flags": 2}, True, id="data valid is no checksum"),
        pytest.param(OFFLOADS, {"gso_type": 3}, True, id="ufo"),
        pytest.param(OFFLOADS, {"gso_type": 5}, True, id="uso"),
        pytest.param(OFFLOADS, {"gso_type": 2}, True, id="unknown"),
        pytest.param(OFFLOADS, {"gso_type": 0x7F}, True, id="all bits"),
        pytest.param(OFFLOADS & ~Feature.HOST_TSO4, {}, True, id="tcp4 not negotiated"),
        pytest.param(OFFLOADS & ~Feature.HOST_TSO6, {"gso_type": 4}, True, id="tcp6 not negotiated"),
        pytest.param(OFFLOADS & ~Feature.CSUM, {}, True, id="no feature for checksums"),
    ],
)
def test_N4_segmentation_that_was_negotiated_and_makes_sense(setup, features, changes, bad):
    fields = dict(flags=1, gso_type=1, hdr_len=54, gso_size=100, csum_start=34, csum_offset=16) | changes
    assert drops(setup, NetHeader(**fields).pack() + FRAME, features) == bad


@pytest.mark.parametrize("flags", [2, 4, 0xFE])
def test_N4_unknown_flags_and_claims_of_verification_are_ignored(setup, flags):
    s = setup(features=OFFLOADS)
    s.send(NetHeader(flags=flags, num_buffers=99).pack() + FRAME)
    assert s.receive() == 1
    assert s.burst.offload(0) == (lib.CHECKSUM_UNVERIFIED, lib.GSO_NONE, 0)


def test_N8_frame_longer_than_any_is_dropped(setup):
    frame = FRAME + bytes(lib.FRAME_BYTES_MAX - len(FRAME))
    assert not drops(setup, HEADER + frame)
    assert drops(setup, HEADER + frame + b"!")
