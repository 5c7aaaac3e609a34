"""cffi builder of swos_net._dataplane: the headers beside this file are both C headers and declarations."""

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODULES = ("checksum", "byte_ring", "frame", "segment", "tcp_flow", "virtio_net", "guest_memory", "vring", "echo", "flow_turn", "prompter", "fd_link", "timer", "processor")

NOT_DECLARATIONS = re.compile(r"^\s*#\s*(include|pragma)\b.*$", re.MULTILINE)
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "src/swos_net/version.py").read_text()).group(1)

ffibuilder = FFI()
for module in MODULES:
    ffibuilder.cdef(NOT_DECLARATIONS.sub("", (HERE / f"{module}.h").read_text()))
ffibuilder.cdef("const char *dataplane_version(void);")

compile_args = ["-std=c11", "-O3", "-g", "-D_GNU_SOURCE"]
link_args = []
if os.environ.get("SWOS_NET_WARNINGS_AS_ERRORS"):
    # cffi's own generated code is not ours to mend: it leaves parameters unused.
    compile_args += ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
if os.environ.get("SWOS_NET_SANITIZE"):
    compile_args += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    link_args += ["-fsanitize=address,undefined"]

ffibuilder.set_source(
    "swos_net._dataplane",
    "\n".join(f'#include "{module}.h"' for module in MODULES)
    + f'\nstatic const char *dataplane_version(void) {{ return "{VERSION}"; }}\n',
    sources=[os.path.relpath(HERE / f"{module}.c", ROOT) for module in MODULES],
    include_dirs=[os.path.relpath(HERE, ROOT)],
    depends=[os.path.relpath(header, ROOT) for header in sorted(HERE.glob("*.h"))],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
