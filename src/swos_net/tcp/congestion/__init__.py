"""Congestion controllers: small classes chosen by name (`TcpConfig.congestion`)."""

from swos_net.tcp.congestion.base import CongestionController
from swos_net.tcp.congestion.reno import Reno

CONTROLLERS: dict[str, type[CongestionController]] = {"reno": Reno}


def make_controller(name: str, mss: int, initial_window_segments: int) -> CongestionController:
    """KeyError-free: an unknown name is the caller's ValueError with the known ones in its text."""
    try:
        controller = CONTROLLERS[name]
    except KeyError:
        raise ValueError(f"unknown congestion control {name!r}: choose one of {', '.join(CONTROLLERS)}") from None
    return controller(mss, initial_window_segments)
