"""What is agreed on SYN, and the options of later segments (RFC 9293 3.7.1, 7323, 2018, 6691)."""

import pytest

from swos_net.tcp.options import window_scale_for
from swos_net.tcp.segment import ACK, SYN
from swos_net.wire.tcp import TcpOptions

ALL = dict(timestamps=True, window_scaling=True, sack=True)
EVERYTHING = TcpOptions(mss=1400, window_scale=7, sack_permitted=True, ts_val=77, ts_ecr=0)


@pytest.mark.parametrize(
    "buffer, shift", [(4096, 0), (65535, 0), (65536, 1), (65537, 1), (1 << 21, 6), (1 << 30, 14), (1 << 40, 14)]
)
def test_the_shift_makes_the_window_fit_16_bits(buffer, shift):
    assert window_scale_for(buffer) == shift
    assert shift == 14 or (buffer - 1) >> shift <= 65535


def test_a_syn_offers_what_the_configuration_says(tcp):
    harness = tcp(**ALL, now=3.0, ts_offset=1000)
    harness.connection.open(harness.now)
    (syn,) = harness.output()
    assert syn.options == TcpOptions(mss=1460, window_scale=6, sack_permitted=True, ts_val=4000, ts_ecr=0)
    harness = tcp()
    harness.connection.open(harness.now)
    (syn,) = harness.output()
    assert syn.options == TcpOptions(mss=1460)


@pytest.mark.parametrize("name", ["timestamps", "window_scaling", "sack"])
def test_a_syn_ack_offers_nothing_that_the_syn_did_not(tcp, name):
    harness = tcp(**ALL)
    offered = {
        "timestamps": dict(ts_val=5, ts_ecr=0),
        "window_scaling": dict(window_scale=3),
        "sack": dict(sack_permitted=True),
    }
    harness.connection.accept_syn(harness.segment(SYN, options=TcpOptions(mss=1460, **offered[name])), harness.now)
    (answer,) = harness.output()
    assert (answer.options.ts_val is not None) is (name == "timestamps")
    assert (answer.options.window_scale is not None) is (name == "window_scaling")
    assert answer.options.sack_permitted is (name == "sack")


@pytest.mark.parametrize("name", ["timestamps", "window_scaling", "sack"])
def test_what_is_switched_off_is_not_answered(tcp, name):
    harness = tcp(**(ALL | {name: False}))
    harness.accepted(options=EVERYTHING)
    assert (harness.tcb.timestamps, harness.tcb.window_scaling, harness.tcb.sack_permitted) == (
        name != "timestamps", name != "window_scaling", name != "sack")  # fmt: skip


def test_without_window_scaling_neither_side_scales(tcp):
    harness = tcp(window_scaling=True).established(options=TcpOptions(mss=1460))
    assert (harness.tcb.snd_wscale, harness.tcb.rcv_wscale) == (0, 0)


def test_a_shift_beyond_14_counts_as_14(tcp):
    harness = tcp(window_scaling=True).established(options=TcpOptions(mss=1460, window_scale=200))
    assert harness.tcb.snd_wscale == 14  # RFC 7323 2.3


@pytest.mark.parametrize("ipv4, default", [(True, 536), (False, 1220)])
def test_a_peer_that_names_no_mss_gets_the_default(tcp, ipv4, default):
    harness = tcp(ipv4=ipv4)
    harness.connection.accept_syn(harness.segment(SYN), harness.now)
    assert harness.tcb.mss == default  # RFC 9293 3.7.1


def test_the_smaller_mss_wins_and_timestamps_are_taken_off(tcp):
    assert tcp(link_mss=1000).accepted(options=TcpOptions(mss=1400)).tcb.mss == 1000
    assert tcp().accepted(options=TcpOptions(mss=1400)).tcb.mss == 1400
    assert tcp(timestamps=True).accepted(options=EVERYTHING).tcb.mss == 1388  # RFC 6691


def test_an_absurd_mss_leaves_room_for_data(tcp):
    harness = tcp(**ALL).accepted(options=TcpOptions(mss=1, ts_val=1, ts_ecr=0, sack_permitted=True))
    assert harness.tcb.mss >= 36


def test_broken_options_on_a_syn_are_no_options(tcp):
    harness = tcp(**ALL)
    segment = harness.segment(SYN)
    segment.option_bytes = b"\x02\x04\x05"
    harness.connection.accept_syn(segment, harness.now)
    assert harness.tcb.mss == 536


def test_every_segment_after_the_handshake_has_timestamps(tcp):
    harness = tcp(timestamps=True, ts_offset=50, now=2.0).established(
        options=TcpOptions(mss=1460, ts_val=900, ts_ecr=2050)
    )
    harness.now = 3.5
    harness.connection.send(b"x")
    (sent,) = harness.output()
    assert (sent.options.ts_val, sent.options.ts_ecr) == (3550, 900)
    assert len(sent.option_bytes) == 12


def test_sack_blocks_name_the_newest_first(tcp):
    harness = tcp(sack=True).established(options=TcpOptions(mss=1460, sack_permitted=True))
    for seq in (1001, 3001, 5001, 7001, 9001, 3101):
        (ack,) = harness.arrives(ACK, seq, 1, bytes(100))
    blocks = [((left + 0x10) & 0xFFFFFFFF, (right + 0x10) & 0xFFFFFFFF) for left, right in ack.options.sack_blocks]
    assert blocks[0] == (3001, 3201)  # RFC 2018 4
    assert len(blocks) == 4 and set(blocks) <= {(3001, 3201), (1001, 1101), (5001, 5101), (7001, 7101), (9001, 9101)}


def test_timestamps_leave_room_for_three_sack_blocks(tcp):
    harness = tcp(**ALL).established(options=EVERYTHING)
    for seq in (1001, 3001, 5001, 7001):
        (ack,) = harness.arrives(ACK, seq, 1, bytes(100), options=TcpOptions(ts_val=78, ts_ecr=0))
    assert len(ack.options.sack_blocks) == 3 and len(ack.option_bytes) == 40


def test_sack_that_was_not_agreed_on_is_not_sent(tcp):
    harness = tcp(sack=True).established()
    (ack,) = harness.arrives(ACK, 1001, 1, bytes(100))
    assert ack.option_bytes == b""


@pytest.mark.parametrize("timestamps", [False, True])
def test_data_with_sack_blocks_still_fits_the_link(tcp, timestamps):
    """RFC 6691: the options a segment really carries come off its payload."""
    options = TcpOptions(
        mss=1460, sack_permitted=True, ts_val=1 if timestamps else None, ts_ecr=0 if timestamps else None
    )
    harness = tcp(timestamps=timestamps, sack=True).established(options=options)
    harness.arrives(ACK, 1001, 1, bytes(100), options=TcpOptions(ts_val=2, ts_ecr=0) if timestamps else None)
    harness.connection.send(bytes(10_000))
    sent = harness.output()
    assert sum(len(segment.data) for segment in sent) == 10_000
    for segment in sent:
        assert segment.options.sack_blocks
        assert segment.segment_size + len(segment.option_bytes) <= 1460
