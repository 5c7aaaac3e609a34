"""A guest from Debian packages: its kernel, and an initramfs with busybox, the virtio modules and an /init.

The guest takes a DHCP lease and an IPv6 address, runs the commands it was built with, then commands it reads from its
console, and powers off.  Lines it prints for the host start with "lab:".  Read initramfs and packages first.
"""

import lzma
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lab.initramfs import Archive
from lab.packages import LabError, Packages, library_folders

# Kernel architecture to Debian's.
ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
CONSOLES = {"aarch64": "ttyAMA0", "x86_64": "ttyS0"}

# Insertion order: each needs those before it.  A module that a kernel has built in is left out.
MODULES = (
    "failover",
    "net_failover",
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_net",
    "af_packet",
    "ipv6",
)

APPLETS = """
sh mount ip insmod udhcpc ping wget sha256sum md5sum nc cat ls sleep stty poweroff dd grep awk sed seq date hostname
dmesg ifconfig time head tail tr wc nslookup traceroute true false test mkdir rm kill ps cut timeout uname free env
chmod ln httpd tcpsvd udpsvd arping sync
""".split()

# A guest whose host has gone powers off after this many seconds without a command.
IDLE = 900

INIT = """\
#!/bin/sh
export PATH=/bin:/usr/bin:/sbin:/usr/sbin HOME=/ LD_LIBRARY_PATH={library_path}
mount -t devtmpfs none /dev 2>/dev/null
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /tmp
mkdir -p /dev/pts
mount -t devpts none /dev/pts 2>/dev/null
for module in {modules}; do insmod /modules/$module.ko || echo "lab: module $module failed"; done
hostname guest
ip link set lo up
echo "lab: up $(uname -m) $(uname -r) $(cut -d' ' -f1 /proc/uptime)"
{network}
{commands}
stty -echo -onlcr
echo "lab: ready $(cut -d' ' -f1 /proc/uptime)"
while read -t {idle} -r token line; do
    [ "$token" = off ] && break
    echo "lab: begin $token"
    sh -c "$line" </dev/null
    echo "lab: end $token $?"
done
echo "lab: power off"
sync
poweroff -f
"""

NETWORK = """\
for wait in $(seq 50); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    echo "lab: link $(cat /sys/class/net/eth0/address) mtu $(cat /sys/class/net/eth0/mtu)"
else
    echo "lab: no network interface"
fi
"""
DHCP = """\
udhcpc -i eth0 -n -q -t 8 -T 1 -s /etc/udhcpc.script >/tmp/udhcpc.log 2>&1 ||
    { cat /tmp/udhcpc.log; echo "lab: no lease"; }
"""
# /proc/net/if_inet6, all hexadecimal: address, index, prefix length, scope (20 link-local), flags (40 tentative), name
SLAAC = """\
for wait in $(seq 80); do
    while read -r address index length scope flags name; do
        case $name-$scope-$flags in eth0-20-* | eth0-*-*[4567cdef]?) ;; eth0-*) break 2 ;; esac
    done < /proc/net/if_inet6
    sleep 0.1
done
address=$(ip -6 addr show dev eth0 | awk '/inet6/ && !/scope link/ && !/tentative/ {print $2; exit}')
router=$(ip -6 route show default | awk '{print $3; exit}')
echo "lab: ipv6 ${address:-none} router ${router:-none}"
"""
UDHCPC_SCRIPT = """\
#!/bin/sh
case $1 in
deconfig)
    ip -4 addr flush dev $interface
    ip link set $interface up
    ;;
bound|renew)
    ip -4 addr flush dev $interface
    ip addr add $ip/${mask:-24} broadcast + dev $interface
    [ -n "$mtu" ] && ip link set $interface mtu $mtu
    for gateway in $router; do ip route replace default via $gateway dev $interface && break; done
    : > /etc/resolv.conf
    for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
    given="router ${router:-none} dns ${dns:-none} mtu ${mtu:-none} seconds $lease"
    echo "lab: lease $ip/${mask:-24} $given" > /dev/console
    ;;
esac
"""


@dataclass(slots=True)
class GuestImage:
    """What QEMU boots: a kernel file, the initramfs as bytes, and the architecture as QEMU names it."""

    architecture: str
    kernel: Path
    initramfs: bytes = field(repr=False)


def kernel_release(folder: Path) -> str:
    """The release of the one kernel in an unpacked linux-image package."""
    images = sorted((folder / "boot").glob("vmlinuz-*"))
    if not images:
        raise LabError(f"{folder} holds no kernel; remove the folder, and it is fetched again")
    return images[-1].name.removeprefix("vmlinuz-")


def find_modules(folder: Path, release: str) -> dict[str, bytes]:
    """{name: module file} of MODULES in their order, decompressed; LabError when one is neither there nor built in."""
    tree = next(
        (path for path in (folder / "lib/modules" / release, folder / "usr/lib/modules" / release) if path.is_dir()),
        None,
    )
    if tree is None:
        raise LabError(f"{folder} holds no modules of kernel {release}")
    files = {}
    for path in (tree / "kernel").glob("**/*.ko*"):
        files[path.name.partition(".")[0].replace("_", "-")] = path
    builtin = {
        Path(line).name.partition(".")[0].replace("_", "-")
        for line in (tree / "modules.builtin").read_text().splitlines()
    }
    found = {}
    for name in MODULES:
        key = name.replace("_", "-")
        if key in files:
            content = files[key].read_bytes()
            found[name] = lzma.decompress(content) if files[key].suffix == ".xz" else content
        elif key not in builtin:
            raise LabError(f"kernel {release} has no module {name}")
    return found


def needed_libraries(program: Path, roots: list[Path]) -> dict[str, Path]:
    """{path in the guest: file} of the dynamic loader and every library that `program` needs, found below `roots`.

    `roots` are folders of unpacked packages, or "/" for this machine.  Works for programs of any architecture.
    """
    found: dict[str, Path] = {}
    waiting = [program]
    looked_at = set()
    while waiting:
        current = waiting.pop()
        facts = _read_elf(current)
        for path in re.findall(r"program interpreter: (\S+?)\]", facts):
            found.setdefault(path, _find_library(Path(path).name, roots, program))
        for name in re.findall(r"\(NEEDED\).*\[(\S+?)\]", facts):
            if name not in looked_at:
                looked_at.add(name)
                library = _find_library(name, roots, program)
                if not any(Path(path).name == name for path in found):
                    found[f"/usr/lib/{name}"] = library
                waiting.append(library)
    return found


def _read_elf(path: Path) -> str:
    try:
        return subprocess.run(
            ["readelf", "-W", "-l", "-d", str(path)], check=True, capture_output=True, text=True
        ).stdout
    except FileNotFoundError:
        raise LabError("there is no readelf on this machine; run: apt-get install binutils") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"{path} is no program: {error.stderr.strip()}") from None


def _find_library(name: str, roots: list[Path], program: Path) -> Path:
    for root in roots:
        for folder in library_folders(root):
            if (folder / name).is_file():
                return folder / name
    raise LabError(f"{program.name} needs {name}, which is not below {', '.join(map(str, roots))}")


def build_initramfs(
    busybox: Path,
    modules: dict[str, bytes],
    *,
    commands: str = "",
    dhcp: bool = True,
    slaac: bool = True,
    network: bool = True,
    files: dict[str, bytes | Path] | None = None,
    compress: bool = True,
) -> bytes:
    """The initramfs as bytes.

    `commands` is shell text run once the network is up.  `files` adds {path in the guest: content, or a file of this
    machine}; scripts and programs keep their permission bits, bytes that start with "#!" become executable.
    """
    archive = Archive()
    for folder in ("dev", "proc", "sys", "tmp", "etc", "bin", "usr/bin", "usr/lib", "root"):
        archive.folder(folder)
    archive.copy("bin/busybox", busybox, 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for name, content in modules.items():
        archive.file(f"modules/{name}.ko", content)
    for path, content in (files or {}).items():
        if isinstance(content, Path):
            archive.copy(path, content)
        else:
            archive.file(path, content, 0o755 if content.startswith(b"#!") else 0o644)
    archive.file("etc/udhcpc.script", UDHCPC_SCRIPT, 0o755)
    steps = (NETWORK + (DHCP if dhcp else "") + (SLAAC if slaac else "")) if network else ""
    archive.file(
        "init",
        INIT.format(
            modules=" ".join(map(shlex.quote, modules)),
            network=steps,
            commands=commands,
            idle=IDLE,
            library_path="/usr/lib",
        ),
        0o755,
    )
    return archive.to_bytes(compress=compress)


def build_guest(
    architecture: str,
    *,
    programs: tuple[str, ...] = (),
    commands: str = "",
    dhcp: bool = True,
    slaac: bool = True,
    network: bool = True,
    files: dict[str, bytes | Path] | None = None,
    compress: bool = True,
) -> GuestImage:
    """Fetch what is missing and put a guest together.

    `architecture` is "aarch64" or "x86_64".  `programs` names Debian packages whose programs of the same name the
    guest gets with their libraries ("iperf3", "curl", "wrk"); "package:path" names another file of a package.
    """
    if architecture not in ARCHITECTURES:
        raise LabError(f"no guest for {architecture}; choose one of {', '.join(ARCHITECTURES)}")
    debian = ARCHITECTURES[architecture]
    packages = Packages(debian)
    kernel = packages.unpack(f"linux-image-cloud-{debian}*")
    busybox_folder = packages.unpack("busybox-static")
    busybox = next(
        (path for path in (busybox_folder / "bin/busybox", busybox_folder / "usr/bin/busybox") if path.is_file()), None
    )
    if busybox is None:
        raise LabError(f"{busybox_folder} holds no busybox; remove the folder, and it is fetched again")
    release = kernel_release(kernel)
    extra = dict(files or {})
    for name in programs:
        package, _, path = name.partition(":")
        root = packages.unpack(package, dependencies=True)
        program = root / (path or f"usr/bin/{package}")
        if not program.is_file():
            raise LabError(f"the package {package} has no {path or f'usr/bin/{package}'}")
        extra[f"usr/bin/{program.name}"] = program
        extra.update(needed_libraries(program, [root]))
    image = build_initramfs(
        busybox,
        find_modules(kernel, release),
        commands=commands,
        dhcp=dhcp,
        slaac=slaac,
        network=network,
        files=extra,
        compress=compress,
    )
    return GuestImage(architecture, kernel / "boot" / f"vmlinuz-{release}", image)
