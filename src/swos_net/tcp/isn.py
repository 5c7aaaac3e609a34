"""Initial sequence numbers that a stranger cannot guess (RFC 6528) and ports likewise (RFC 6056)."""

import hashlib


def _keyed_hash(secret: bytes, flow: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(flow, key=secret, digest_size=4).digest(), "big")


def flow_numbers(secret: bytes, flow: bytes) -> tuple[int, int, int]:
    """(F of RFC 6528 3, `timestamp_offset`, `flow_label`): parts of one hash, so that a connection takes one."""
    digest = hashlib.blake2b(flow, key=secret, digest_size=12).digest()
    numbers = int.from_bytes(digest, "big")
    return numbers >> 64, numbers >> 32 & 0xFFFFFFFF, numbers & 0xFFFFF or 1


def isn_at(offset: int, now: float) -> int:
    """ISN = M + F(local, remote, secret); M ticks every 4 microseconds (RFC 6528 3)."""
    return (int(now * 250_000) + offset) & 0xFFFFFFFF


def initial_sequence_number(secret: bytes, flow: bytes, now: float) -> int:
    """`isn_at` for a flow."""
    return isn_at(flow_numbers(secret, flow)[0], now)


def timestamp_offset(secret: bytes, flow: bytes) -> int:
    """A per-flow start of the timestamp clock (RFC 7323 5.4)."""
    return flow_numbers(secret, flow)[1]


def flow_label(secret: bytes, flow: bytes) -> int:
    """20 bits, the same for every packet of a flow (RFC 6437 3); 0 would say that there is none."""
    return flow_numbers(secret, flow)[2]


def port_offset(secret: bytes, flow: bytes) -> int:
    """Where the search for an ephemeral port starts for this peer (RFC 6056 3.3.3, algorithm 3)."""
    return _keyed_hash(secret, b"port" + flow)
