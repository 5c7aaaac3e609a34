"""Congestion controllers: small classes chosen by name (`TcpConfig.congestion`, TCP_CONGESTION)."""

from swos_net.tcp.congestion.base import CongestionController
from swos_net.tcp.congestion.cubic import Cubic
from swos_net.tcp.congestion.dctcp import Dctcp
from swos_net.tcp.congestion.reno import Reno

CONTROLLERS: dict[str, type[CongestionController]] = {"cubic": Cubic, "reno": Reno, "dctcp": Dctcp}


def check_controller(name: str) -> None:
    """ValueError with the known names when there is no such one: when a stack is made, not when a SYN arrives."""
    if name not in CONTROLLERS:
        raise ValueError(f"unknown congestion control {name!r}: choose one of {', '.join(CONTROLLERS)}")


def make_controller(name: str, mss: int, initial_window_segments: int, *, hystart: bool = True) -> CongestionController:
    """See `check_controller`."""
    check_controller(name)
    return CONTROLLERS[name](mss, initial_window_segments, hystart=hystart)
