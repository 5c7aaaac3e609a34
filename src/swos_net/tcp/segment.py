"""An incoming segment as TCP sees it, with the flag bits of its header."""

from swos_net.dataplane.burst import BytesPayload, FramePayload
from swos_net.wire.tcp import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG  # bits of `Segment.flags`, imported from here

HAS_TIMESTAMPS = 1
HAS_SACK = 2
HAS_OTHER_OPTIONS = 4

ECT0 = 2  # of the IP header

NO_PAYLOAD = BytesPayload(b"")


class Segment:
    """One segment whose checksum and lengths are known to be good.

    `seq`, `ack`, `ts_val` and `ts_ecr` are 32-bit values of the wire, `window` is not yet scaled, `options_present`
    says which options there are (HAS_*), `option_bytes` holds them where TCP must look closer (SYN, SACK).
    """

    __slots__ = (
        "ack", "ecn", "flags", "length", "option_bytes", "options_present", "payload", "seq", "ts_ecr", "ts_val", "window",
    )  # fmt: skip

    def __init__(self, seq: int, ack: int, flags: int, window: int, payload: "FramePayload | BytesPayload" = NO_PAYLOAD,
                 length: int = 0, options_present: int = 0, ts_val: int = 0, ts_ecr: int = 0, option_bytes: bytes = b""):  # fmt: skip
        self.seq = seq
        self.ecn = 0  # of the IP header (RFC 3168 5); set by who has it
        self.ack = ack
        self.flags = flags
        self.window = window
        self.payload = payload
        self.length = length
        self.options_present = options_present
        self.ts_val = ts_val
        self.ts_ecr = ts_ecr
        self.option_bytes = option_bytes
