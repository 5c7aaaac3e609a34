"""What a script takes for granted about the system it was written for: defaults, words, and how exactly it looks.

A profile is frozen data; `dataclasses.replace` makes another.  `PROFILES` has those that come with the library.
"""

from dataclasses import dataclass, field, replace

from swos_net.config import StackConfig, TcpConfig


@dataclass(frozen=True, slots=True)
class Profile:
    """`config` is what the stack starts with; commands of the script change it.

    `defined` are the names for which `#ifdef` holds.  `options_in_order`: TCP options must be in the script's order with
    the script's padding.  `same_errors` says which errnos a script may write for another one of ours.
    `segment_rounded_buffers`: SO_RCVBUF of a connection is rounded up to whole segments, as BSD does.
    """

    name: str
    config: StackConfig = field(default_factory=StackConfig)
    defined: frozenset[str] = frozenset()
    options_in_order: bool = True
    tolerance_usecs: int = 4000
    mtu: int = 1500
    mtu6: int = 1500
    local_port: int = 8080
    remote_port: int = 8080
    first_remote_port: int = 40000
    same_errors: frozenset[tuple[str, str]] = frozenset()
    segment_rounded_buffers: bool = False
    doubled_buffers: bool = True  # setsockopt(SO_SNDBUF) takes twice what is asked for, as on Linux


LINUX = Profile(
    "linux",
    # what Google's and the kernel's scripts set at their head, for scripts that set nothing
    config=StackConfig(tcp=TcpConfig(receive_buffer_initial=131072, congestion="cubic")),
    mtu6=1520,  # so that the MSS over IPv6 is the 1460 that the scripts name for both families
)

FREEBSD = Profile(
    "freebsd",
    config=StackConfig(
        tcp=TcpConfig(
            receive_buffer=1 << 21,
            receive_buffer_initial=65536,
            send_buffer=1 << 21,
            send_buffer_initial=32768,
            auto_tuning=True,
            quick_acks=0,
            dialect="freebsd",
            rto_min=0.23,
        )
    ),
    # where a script knows both the RFC's and FreeBSD's behaviour; the other name is STANDARD
    defined=frozenset({"FreeBSD"}),
    same_errors=frozenset({
        ("ECONNRESET", "EPIPE"),  # Linux says EPIPE of a reset in CLOSE-WAIT
        # and tells what ICMP said of a connection attempt, where FreeBSD knows one errno
        ("ECONNREFUSED", "EHOSTUNREACH"), ("ECONNREFUSED", "ENETUNREACH"), ("ECONNREFUSED", "EACCES"),
        ("ECONNREFUSED", "ENOPROTOOPT"),
    }),  # fmt: skip
    segment_rounded_buffers=True,
    doubled_buffers=False,
)

PROFILES = {profile.name: profile for profile in (LINUX, FREEBSD)}


def profile_named(name: "str | Profile") -> Profile:
    """ValueError with the names there are."""
    if isinstance(name, Profile):
        return name
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}: there are {', '.join(PROFILES)}")
    return PROFILES[name]


__all__ = ["FREEBSD", "LINUX", "PROFILES", "Profile", "profile_named", "replace"]
