"""What RFCs leave open and two families of systems do differently: `TcpConfig.dialect`."""

import pytest

from swos_net.tcp.segment import ACK, FIN, RST, SYN
from swos_net.tcp.state import State
from swos_net.wire.tcp import TcpOptions

EVERYTHING = dict(timestamps=True, window_scaling=True, sack=True)


@pytest.mark.parametrize(
    "offered, options",
    [
        (dict(timestamps=True, window_scaling=True, sack=True), "020405b4 010303xx 0402 080a"),
        (dict(timestamps=True, window_scaling=True), "020405b4 010303xx 0101 080a"),
        (dict(window_scaling=True, sack=True), "020405b4 010303xx 0402 0000"),
        (dict(sack=True), "020405b4 0402 0000"),
        (dict(), "020405b4"),
    ],
)
def test_the_order_of_a_syns_options(tcp, offered, options):
    harness = tcp(dialect="freebsd", **offered)
    harness.connection.open(harness.now)
    (syn,) = harness.output()
    expected = options.replace(" ", "").replace("xx", f"{harness.tcb.rcv_wscale:02x}")
    assert syn.option_bytes.hex().startswith(expected)
    assert len(syn.option_bytes) == len(expected) // 2 + 8 * bool(offered.get("timestamps"))
    assert syn.options == tcp_options_of(tcp, offered)


def tcp_options_of(tcp, offered):
    harness = tcp(dialect="linux", **offered)
    harness.connection.open(harness.now)
    return harness.output()[0].options


@pytest.mark.parametrize("dialect, repeated", [("linux", False), ("freebsd", True)])
def test_the_acknowledgment_of_a_fin_in_closing(tcp, dialect, repeated):
    """RFC 9293 3.10.7.4, eighth: the ACK of the peer's FIN may say our own once more; a challenge ACK does not."""
    harness = tcp(dialect=dialect).established()
    harness.connection.shutdown_send(harness.now)
    harness.output()
    (answer,) = harness.arrives(FIN | ACK, 1, 1)
    assert harness.tcb.state is State.CLOSING
    assert (answer.seq, answer.flags) == ((1, FIN | ACK) if repeated else (2, ACK))
    (challenge,) = harness.arrives(RST, 1000, 0)
    assert (challenge.seq, challenge.ack, challenge.flags) == (2, 2, ACK)


@pytest.mark.parametrize("dialect, acknowledged", [("linux", 0), ("freebsd", 1)])
def test_the_second_short_segment_is_acknowledged(tcp, dialect, acknowledged):
    """RFC 9293 3.8.6.3 asks for every second full-sized one."""
    harness = tcp(dialect=dialect).established()
    assert harness.arrives(ACK, 1, 1, b"a") == []
    assert len(harness.arrives(ACK, 2, 1, b"b")) == acknowledged


@pytest.mark.parametrize("dialect, window", [("linux", 65535), ("freebsd", 60000 - 100)])
def test_the_window_that_is_offered(tcp, dialect, window):
    """All the room there is, or as much as before while there is room for it."""
    harness = tcp(dialect=dialect, receive_buffer=60000 if dialect == "freebsd" else 70000, auto_tuning=False).established()
    harness.arrives(ACK, 1, 1, bytes(100))
    (ack,) = harness.arrives(ACK, 200, 1, bytes(100))
    assert ack.window == window


@pytest.mark.parametrize("dialect, taken", [("linux", 0), ("freebsd", 10)])
def test_text_beyond_the_offered_window_while_there_is_room(tcp, dialect, taken):
    harness = tcp(dialect=dialect, receive_buffer=70000, auto_tuning=False).accepted()
    harness.arrives(ACK, 1, 1)
    harness.arrives(ACK, 65536, 1, bytes(10))
    assert sum(end - start for start, end in harness.tcb.out_of_order.ranges) == taken


def test_a_passive_handshake_takes_only_what_its_syn_ack_offered(tcp):
    harness = tcp(dialect="freebsd", receive_buffer=70000, auto_tuning=False, reset_in_window=True).accepted()
    harness.arrives(RST | ACK, 65536, 0)
    assert harness.tcb.state is State.SYN_RECEIVED
    harness.arrives(RST | ACK, 65535, 0)
    assert harness.tcb.state is State.CLOSED


@pytest.mark.parametrize("flags", [SYN, FIN, SYN | FIN])
@pytest.mark.parametrize("dialect, answers", [("linux", 1), ("freebsd", 0)])
def test_time_wait_and_segments_without_ack(tcp, dialect, answers, flags):
    harness = tcp(dialect=dialect).established()
    harness.connection.shutdown_send(harness.now)
    harness.output()
    harness.arrives(ACK, 1, 2)
    harness.arrives(FIN | ACK, 1, 2)
    assert harness.tcb.state is State.TIME_WAIT
    assert len(harness.arrives(flags, 1, 0)) == answers


@pytest.mark.parametrize("options, stamped", [(TcpOptions(mss=1460, ts_val=5, ts_ecr=0), True), (TcpOptions(mss=1460), False)])
@pytest.mark.parametrize("dialect", ["linux", "freebsd"])
def test_timestamps_on_a_reset(tcp, dialect, options, stamped):
    """RFC 7323 3.2: a MAY."""
    harness = tcp(dialect=dialect, timestamps=True).established(options=options)
    harness.connection.abort(harness.now)
    (reset,) = harness.output()
    assert (reset.options.ts_val is not None) is (stamped and dialect == "linux")
