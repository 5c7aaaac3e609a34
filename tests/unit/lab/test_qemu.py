"""Command lines, the console reader and the exit statuses of guests, without QEMU."""

import os
import signal
import threading

import pytest

from lab import qemu
from lab.qemu import Console


def joined(arguments):
    return " ".join(arguments)


def test_guest_memory_is_shared_and_attached():
    line = joined(qemu.machine_arguments("aarch64", memory=256))
    assert "memory-backend-memfd,id=mem,size=256M,share=on" in line
    assert "-M virt,memory-backend=mem" in line and "-m 256" in line and "-accel tcg -cpu cortex-a72" in line


def test_kvm_uses_the_hosts_processor_unless_told():
    assert "-accel kvm -cpu host" in joined(qemu.machine_arguments("x86_64", accelerator="kvm"))
    assert "-cpu max,-erms" in joined(qemu.machine_arguments("x86_64", cpu="max,-erms"))


def test_the_seeds_own_nic_on_aarch64():
    line = joined(qemu.network_arguments("aarch64", qemu.vhost_user_network("nic.sock")))
    assert line == (
        "-chardev socket,id=c0,path=nic.sock -netdev vhost-user,id=n0,chardev=c0 "
        "-global virtio-mmio.force-legacy=false "
        "-device virtio-net-device,netdev=n0,mac=52:54:00:12:34:56"
    )


@pytest.mark.parametrize(
    "version, accelerator, vectors, expected",
    [
        ((7, 2, 22), "tcg", None, ",vectors=0"),
        ((7, 2, 22), "kvm", None, ""),
        ((10, 0, 2), "tcg", None, ""),
        ((10, 0, 2), "tcg", 4, ",vectors=4"),
        ((7, 2, 22), "tcg", 2, ",vectors=2"),
    ],
)
def test_msi_x_is_avoided_where_qemu_crashes_with_it(version, accelerator, vectors, expected):
    line = joined(
        qemu.network_arguments(
            "x86_64", qemu.vhost_user_network("nic.sock"), version=version, accelerator=accelerator, vectors=vectors
        )
    )
    assert line.endswith(f"-device virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56,romfile={expected}")


def test_user_networking_keeps_msi_x():
    line = joined(qemu.network_arguments("x86_64", qemu.user_network("hostfwd=tcp::80-:80")))
    assert line.startswith("-netdev user,id=n0,hostfwd=tcp::80-:80 ") and "vectors" not in line


def test_queue_pairs_reach_the_back_end_and_the_device():
    network = qemu.vhost_user_network("nic.sock", queue_pairs=2, reconnect=1)
    line = joined(qemu.network_arguments("x86_64", network, version=(10, 0)))
    assert "path=nic.sock,reconnect=1 " in line
    assert "chardev=c0,queues=2 " in line and "mq=on,romfile=,vectors=6" in line
    assert "mq=on" in joined(qemu.network_arguments("aarch64", network)) and "vectors" not in joined(
        qemu.network_arguments("aarch64", network)
    )


def test_qemu_may_be_the_one_that_listens():
    assert "path=nic.sock,server=on,wait=off " in joined(qemu.vhost_user_network("nic.sock", server=True).arguments)


def test_pci_on_aarch64_is_a_choice():
    line = joined(
        qemu.network_arguments("aarch64", qemu.vhost_user_network("nic.sock"), transport="pci", device="csum=off")
    )
    assert "virtio-net-pci" in line and "force-legacy" not in line and line.endswith("vectors=0,csum=off")


def test_other_back_ends():
    assert joined(qemu.stream_network("/a").arguments) == "-netdev stream,id=n0,addr.type=unix,addr.path=/a,server=off"
    assert joined(qemu.dgram_network("/a", "/b").arguments) == (
        "-netdev dgram,id=n0,local.type=unix,local.path=/a,remote.type=unix,remote.path=/b"
    )
    assert qemu.network_arguments("x86_64", qemu.no_network()) == []


def test_kernel_command_lines():
    assert "console=ttyAMA0" in qemu.kernel_command_line("aarch64")
    assert "no_timer_check" not in qemu.kernel_command_line("aarch64")
    line = qemu.kernel_command_line("x86_64", "extra=1")
    assert "console=ttyS0" in line and "no_timer_check" in line and line.endswith(" extra=1")


@pytest.mark.parametrize(
    "status, words",
    [
        (-signal.SIGSEGV, "vectors=0"),
        (139, "vectors=0"),
        (-signal.SIGKILL, "SIGKILL"),
        (1, "status 1"),
        (0, "status 0"),
    ],
)
def test_exit_statuses_are_explained(status, words):
    assert words in qemu.describe_exit(status)


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reading, open(write_end, "wb", buffering=0) as writing:
        yield reading, writing


def test_the_console_finds_text_that_comes_in_pieces(pipe):
    reading, writing = pipe
    lines = []
    console = Console(reading, lines.append)
    writing.write(b"first\r")
    writing.write(b"\nlab: rea")
    assert console.wait_for(r"^lab: ready$", 0) is None
    writing.write(b"dy\r\nmore")
    assert console.wait_for(r"^lab: ready$", 10)
    writing.close()
    console.join()
    assert console.text == "first\nlab: ready\nmore"
    assert lines == ["first", "lab: ready"]


def test_waiting_ends_with_the_stream(pipe):
    reading, writing = pipe
    console = Console(reading)
    threading.Timer(0.01, writing.close).start()
    assert console.wait_for("never", 60) is None
    console.join()


def test_a_match_can_be_looked_for_after_a_place(pipe):
    reading, writing = pipe
    console = Console(reading)
    writing.write(b"end 1\nend 2\n")
    assert console.wait_for(r"end 2", 10)
    assert console.wait_for(r"end (\d)", 0, 3).group(1) == "2"
    writing.close()
    console.join()
