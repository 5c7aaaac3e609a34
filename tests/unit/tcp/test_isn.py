"""RFC 6528: a clock plus a keyed hash; RFC 7323 5.4 and RFC 6056 use the same key."""

from swos_net.tcp.isn import flow_label, initial_sequence_number, port_offset, timestamp_offset

SECRET, FLOW = b"s" * 16, b"f" * 36


def test_the_clock_ticks_every_four_microseconds():
    first = initial_sequence_number(SECRET, FLOW, 10.0)
    assert (initial_sequence_number(SECRET, FLOW, 11.0) - first) & 0xFFFFFFFF == 250_000
    assert (initial_sequence_number(SECRET, FLOW, 10.0 + 2**32 * 4e-6) - first) & 0xFFFFFFFF == 0


def test_32_bits_for_any_time():
    assert all(0 <= initial_sequence_number(SECRET, FLOW, now) < 1 << 32 for now in (0.0, 1e5, 1e12))


def test_other_flows_and_other_secrets_give_unrelated_numbers():
    flows = [bytes([number]) * 36 for number in range(64)]
    for function in (lambda secret, flow: initial_sequence_number(secret, flow, 1.0), timestamp_offset, port_offset):
        numbers = {function(SECRET, flow) for flow in flows}
        others = {function(b"t" * 16, flow) for flow in flows}
        assert len(numbers) == len(others) == 64
        assert not numbers & others
        assert max(numbers) - min(numbers) > 1 << 30, "not spread over the circle"


def test_the_three_uses_do_not_share_a_value():
    assert (
        len({initial_sequence_number(SECRET, FLOW, 0.0), timestamp_offset(SECRET, FLOW), port_offset(SECRET, FLOW)})
        == 3
    )


def test_a_flow_label_belongs_to_the_flow():
    labels = {flow_label(bytes(16), bytes(35) + bytes([number])) for number in range(50)}
    assert len(labels) > 45 and all(0 < label < 1 << 20 for label in labels)  # RFC 6437 3
    assert flow_label(bytes(16), b"a") == flow_label(bytes(16), b"a") != flow_label(b"1" * 16, b"a")
