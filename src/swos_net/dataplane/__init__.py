"""Thin typed wrappers over the C data plane (the sources are in vhost/)."""

from swos_net._dataplane import ffi, lib
from swos_net.version import __version__

compiled_for = ffi.string(lib.dataplane_version()).decode()
if compiled_for != __version__:
    raise ImportError(
        f"swos_net is {__version__} but its C data plane was built for {compiled_for}: build it again with pip install"
    )
