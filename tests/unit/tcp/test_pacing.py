"""A paced window leaves in quanta, one after the other."""

from swos_net.wire.tcp import TcpOptions

MSS = 1460


def paced(tcp, **config):
    harness = tcp(super_segment=65000, auto_tuning=False, **config)
    harness.connection.open(harness.now)
    harness.output()
    harness.now += 0.1  # the round trip
    harness.arrives(0x12, 0, 1, options=TcpOptions(mss=MSS))
    return harness


def times_of(harness, seconds):
    """(time, octets) of what goes out."""
    start, sent = harness.now, []
    while harness.now <= start + seconds:
        sent += [(harness.now - start, len(segment.data)) for segment in harness.output()]
        deadline = harness.connection.next_deadline()
        if deadline is None or deadline > start + seconds:
            break
        harness.now = max(deadline, harness.now)
        harness.connection.handle_timeout(harness.now)
    return sent


def test_without_pacing_the_window_goes_at_once(tcp):
    harness = paced(tcp)
    harness.connection.send(bytes(10 * MSS))
    assert sum(length for _, length in harness_lengths(harness.output())) == 10 * MSS


def harness_lengths(segments):
    return [(segment.seq, len(segment.data)) for segment in segments]


def test_a_window_is_spread_over_half_a_round_trip_in_slow_start(tcp):
    harness = paced(tcp, pacing=True)
    harness.connection.send(bytes(10 * MSS))
    sent = times_of(harness, 0.09)
    assert sum(length for _, length in sent) == 10 * MSS
    assert len(sent) == 5 and all(length == 2 * MSS for _, length in sent)
    gaps = [later - earlier for (earlier, _), (later, _) in zip(sent, sent[1:])]
    assert all(abs(gap - 0.01) < 1e-6 for gap in gaps)  # 20 segments in 100 ms


def test_a_rate_that_the_user_sets_is_kept(tcp):
    harness = paced(tcp)
    harness.connection.set_pacing_rate(100_000)
    harness.tcb.congestion.cwnd = 1 << 20
    harness.connection.send(bytes(20_000))
    sent = times_of(harness, 0.19)
    assert 17_000 <= sum(length for _, length in sent) <= 22_000 and sent[-1][0] > 0.15
    harness.connection.set_pacing_rate(None)
    harness.connection.send(bytes(5_000))
    assert sum(len(segment.data) for segment in harness.output()) >= 4_000
