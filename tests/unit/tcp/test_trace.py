"""The look into one connection."""

from swos_net.tcp.segment import ACK, FIN, PSH, SYN, Segment
from swos_net.tcp.trace import SentSegment, flag_letters, log_to


def traced(harness):
    events = []
    harness.tcb.trace = lambda event, now, tcb, detail: events.append((event, now, tcb.state.name, detail))
    return events


def test_each_segment_and_timeout_is_told(tcp):
    harness = tcp()
    events = traced(harness)
    harness.established()
    harness.connection.send(b"data")
    harness.output()
    harness.passes(0.3)
    kinds = [event for event, *_ in events]
    assert kinds == ["sent", "received", "sent", "sent", "timeout", "sent"]
    assert isinstance(events[1][3], Segment) and events[1][3].flags == SYN | ACK
    sent = events[3][3]
    assert isinstance(sent, SentSegment) and sent.length == 4 and sent.flags == ACK | PSH


def test_what_arrives_is_told_before_it_takes_effect_and_what_goes_out_after(tcp):
    harness = tcp()
    events = traced(harness)
    harness.established()
    assert [(event, state) for event, _, state, _ in events] == [
        ("sent", "SYN_SENT"),
        ("received", "SYN_SENT"),
        ("sent", "ESTABLISHED"),
    ]


def test_the_time_of_a_timeout_is_the_deadline(tcp):
    harness = tcp()
    events = traced(harness)
    harness.open()
    harness.passes(1.5)
    (timeout,) = [each for each in events if each[0] == "timeout"]
    assert timeout[1] == timeout[3] == 101.0


def test_it_changes_nothing(tcp):
    plain, looked_at = tcp().established(), tcp()
    traced(looked_at)
    looked_at.established()
    for harness in (plain, looked_at):
        harness.connection.send(bytes(3000))
    assert plain.output() == looked_at.output()


def test_lines_with_relative_numbers(tcp):
    harness = tcp()
    lines = []
    harness.tcb.trace = log_to(lines.append)
    harness.established()
    harness.connection.send(b"data")
    harness.output()
    harness.arrives(ACK | FIN, 1, 5, b"bye")
    harness.passes(0.5)
    assert "> S 0(0) ack 0" in lines[0] and "SYN_SENT" in lines[0]
    assert "< S. " in lines[1] and "(0) ack 1" in lines[1]
    assert any("> P. 1(4) ack 1" in line and "in flight 4" in line for line in lines)
    assert any("< F. 1(3) ack 5" in line for line in lines)
    assert all("cwnd" in line and line.startswith("100.") for line in lines)


def test_a_timeout_in_a_line(tcp):
    harness = tcp()
    lines = []
    harness.tcb.trace = log_to(lines.append)
    harness.open()
    harness.passes(1.5)
    assert any("! timeout 101.000000" in line for line in lines)


def test_flags_as_tcpdump_writes_them():
    assert flag_letters(SYN | ACK) == "S." and flag_letters(FIN | PSH | ACK) == "FP." and flag_letters(0) == "-"
    assert flag_letters(0xC2) == "SEW"
