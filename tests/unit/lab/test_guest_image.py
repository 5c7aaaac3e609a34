"""What a guest's initramfs holds, from made-up packages."""

import gzip
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import guest_image
from lab.packages import LabError


@pytest.fixture
def kernel(tmp_path):
    """An unpacked kernel package with every module, one compressed, and af_packet and ipv6 built in."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1.0-9-cloud-arm64").write_bytes(b"kernel")
    tree = tmp_path / "lib/modules/6.1.0-9-cloud-arm64"
    drivers = tree / "kernel/drivers"
    drivers.mkdir(parents=True)
    for name in guest_image.MODULES:
        if name == "virtio_net":
            (drivers / "virtio_net.ko.xz").write_bytes(lzma.compress(b"module virtio_net"))
        elif name not in ("af_packet", "ipv6"):
            (drivers / f"{name.replace('_', '-') if name == 'virtio_ring' else name}.ko").write_bytes(
                f"module {name}".encode()
            )
    (tree / "modules.builtin").write_text("kernel/net/packet/af_packet.ko\nkernel/net/ipv6/ipv6.ko\n")
    return tmp_path


def test_the_kernels_release_is_found(kernel, tmp_path):
    assert guest_image.kernel_release(kernel) == "6.1.0-9-cloud-arm64"
    (tmp_path / "boot/vmlinuz-6.1.0-9-cloud-arm64").unlink()
    with pytest.raises(LabError, match="no kernel"):
        guest_image.kernel_release(tmp_path)


def test_modules_come_in_order_decompressed_and_without_those_built_in(kernel):
    modules = guest_image.find_modules(kernel, "6.1.0-9-cloud-arm64")
    assert list(modules) == [name for name in guest_image.MODULES if name not in ("af_packet", "ipv6")]
    assert modules["virtio_net"] == b"module virtio_net"
    assert modules["virtio_ring"] == b"module virtio_ring"


def test_a_kernel_without_a_module_is_refused(kernel):
    (kernel / "lib/modules/6.1.0-9-cloud-arm64/kernel/drivers/virtio_mmio.ko").unlink()
    with pytest.raises(LabError, match="virtio_mmio"):
        guest_image.find_modules(kernel, "6.1.0-9-cloud-arm64")


def contents(initramfs):
    return gzip.decompress(initramfs).decode(errors="replace")


def build(tmp_path, **options):
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"BUSYBOX")
    return contents(
        guest_image.build_initramfs(busybox, {"virtio": b"VIRTIO MODULE", "virtio_net": b"NET MODULE"}, **options)
    )


def test_the_init_script_loads_modules_takes_addresses_and_runs_commands(tmp_path):
    text = build(tmp_path, commands="echo 'hello {from} $HOME'")
    assert "for module in virtio virtio_net;" in text
    assert (
        text.index("udhcpc -i eth0")
        < text.index("if_inet6")
        < text.index("hello {from} $HOME")
        < text.index("lab: ready")
    )
    assert "VIRTIO MODULE" in text and "BUSYBOX" in text


@pytest.mark.parametrize(
    "options, absent, present",
    [
        ({"dhcp": False}, "udhcpc -i eth0", "if_inet6"),
        ({"slaac": False}, "if_inet6", "udhcpc -i eth0"),
        ({"network": False}, "ip link set eth0 up", "lab: ready"),
    ],
)
def test_parts_can_be_left_out(tmp_path, options, absent, present):
    text = build(tmp_path, **options)
    assert absent not in text and present in text


def test_scripts_given_as_bytes_are_executable(tmp_path):
    text = build(tmp_path, files={"usr/bin/job": b"#!/bin/sh\ntrue\n", "etc/data": b"plain"})
    modes = {
        name: int(mode, 16) & 0o777
        for mode, name in re.findall(r"070701[0-9A-F]{8}([0-9A-F]{8})[0-9A-F]{88}([a-z/]+)\0", text, re.IGNORECASE)
    }
    assert modes["usr/bin/job"] == 0o755 and modes["etc/data"] == 0o644 and modes["init"] == 0o755


@pytest.mark.parametrize("script", ["INIT", "UDHCPC_SCRIPT"])
def test_the_scripts_are_correct_shell(script):
    text = getattr(guest_image, script).replace("{network}", guest_image.NETWORK + guest_image.DHCP + guest_image.SLAAC)
    result = subprocess.run(["sh", "-n"], input=text.replace("{idle}", "9"), text=True, capture_output=True)
    assert result.returncode == 0, result.stderr


def slaac_case(line):
    """What the loop over /proc/net/if_inet6 does with one line: "leave" or "stay"."""
    pattern = re.search(r"case .* esac", guest_image.SLAAC).group()
    script = (
        "read -r address index length scope flags name\n"
        + "while :; do while :; do "
        + pattern
        + "; echo stay; exit; done; done; echo leave"
    )
    return subprocess.run(
        ["sh", "-c", script], input=line + "\n", text=True, capture_output=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "line, action",
    [
        ("fd005705000000005054 02 40 00 00     eth0", "leave"),
        ("fec00000000000005054 02 40 40 100     eth0", "leave"),
        ("fd005705000000005054 02 40 00 40     eth0", "stay"),
        ("fd005705000000005054 02 40 00 140     eth0", "stay"),
        ("fd005705000000005054 02 40 00 c0     eth0", "stay"),
        ("fe80000000000000005054 02 40 20 80     eth0", "stay"),
        ("00000000000000000000 01 80 10 80       lo", "stay"),
    ],
)
def test_a_usable_global_address_ends_the_wait(line, action):
    assert slaac_case(line) == action


@pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf: apt-get install binutils")
def test_a_programs_libraries_are_found_on_this_machine():
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    listed = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True, env=environment).stdout
    found = guest_image.needed_libraries(Path("/bin/ls"), [Path("/")])
    assert {Path(path).name for path in found} == {
        Path(word).name for word in re.findall(r"\S+\.so\S*", listed) if "vdso" not in word
    }
    assert all(path.is_file() for path in found.values())


@pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf: apt-get install binutils")
def test_a_missing_library_is_named(tmp_path):
    with pytest.raises(LabError, match=r"ls needs .*ld-linux"):
        guest_image.needed_libraries(Path("/bin/ls"), [tmp_path])


def test_an_unknown_architecture_is_refused():
    with pytest.raises(LabError, match="aarch64, x86_64"):
        guest_image.build_guest("riscv64")
