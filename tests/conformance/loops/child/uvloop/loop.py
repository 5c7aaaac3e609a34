"""The module in which the real package has its loop."""

from swos_loops import Loop

__all__ = ["Loop"]
