"""The qtest driver against a stand-in for QEMU: guest memory and registers as a dictionary, every store recorded."""

import socket
import struct
import threading

import pytest

from lab.packages import LabError
from lab.qtest import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    DRIVER_FEATURES,
    F_MRG_RXBUF,
    QUEUE_NOTIFY,
    RAM,
    SLOT_SIZE,
    SLOTS,
    STATUS,
    Descriptor,
    MmioNic,
    QtestConnection,
    Ring,
)


class Machine:
    """Answers qtest commands from a bytearray, and keeps the commands."""

    def __init__(self):
        self.memory = bytearray(1 << 20)
        self.registers = {}
        self.commands = []
        self.next_free = RAM + 4096
        ours, theirs = socket.socketpair()
        self.qtest = QtestConnection(ours, timeout=5)
        self.peer = theirs
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        with self.peer, self.peer.makefile("rw") as stream:
            for line in stream:
                self.commands.append(line.split())
                stream.write("IRQ raise 3\n" + self.answer(*line.split()) + "\n")
                stream.flush()

    def answer(self, name, address="0", *values):
        address = int(address, 16)
        if address < RAM:
            if name == "readl":
                return f"OK {self.registers.get(address, 0):#x}"
            if name == "writel":
                self.registers[address] = int(values[0], 16)
                return "OK"
        at = address - RAM
        if name == "readw":
            return f"OK {struct.unpack_from('<H', self.memory, at)[0]:#x}"
        if name == "writew":
            struct.pack_into("<H", self.memory, at, int(values[0], 16))
            return "OK"
        if name == "write":
            data = bytes.fromhex(values[1][2:])
            assert len(data) == int(values[0], 16)
            self.memory[at : at + len(data)] = data
            return "OK"
        if name == "read":
            return "OK 0x" + self.memory[at : at + int(values[0], 16)].hex()
        return "FAIL Unknown command"

    def allocate(self, size, align=16):
        address = -(-self.next_free // align) * align
        self.next_free = address + size
        return address

    def place(self, data, align=16):
        address = self.allocate(len(data), align)
        self.qtest.write(address, data)
        return address

    def at(self, address, layout):
        return struct.unpack_from(layout, self.memory, address - RAM)


BASE = SLOTS + 31 * SLOT_SIZE


@pytest.fixture
def machine():
    machine = Machine()
    machine.registers.update({BASE: 0x74726976, BASE + 4: 2, BASE + 8: 1})
    yield machine
    machine.qtest.close()
    machine.thread.join(5)


@pytest.fixture
def nic(machine):
    return MmioNic(machine)


def test_the_device_is_found_in_its_slot(nic, machine):
    assert nic.base == BASE
    machine.registers[BASE + 4] = 1
    with pytest.raises(LabError, match="force-legacy"):
        MmioNic(machine)
    machine.registers[BASE + 8] = 0
    with pytest.raises(LabError, match="no virtio-net"):
        MmioNic(machine)


def test_memory_round_trip_and_refused_commands(machine):
    machine.qtest.write(RAM + 8, b"\x01\x02\x03")
    assert machine.qtest.read(RAM + 8, 3) == b"\x01\x02\x03"
    with pytest.raises(LabError, match="Unknown"):
        machine.qtest.command("dance 0")


def test_a_lost_connection_is_an_error_of_the_lab(machine):
    machine.peer.shutdown(socket.SHUT_RDWR)
    with pytest.raises(LabError, match="no answer"):
        machine.qtest.readl(0)


def test_descriptors_are_sixteen_bytes_with_hostile_values_cut():
    assert Descriptor(0x1122334455667788, 0x99AABBCC, 3, 7).to_bytes() == bytes.fromhex(
        "8877665544332211ccbbaa9903000700"
    )
    assert Descriptor(-1, -1, 0x10001, 0x10002).to_bytes() == b"\xff" * 12 + b"\x01\x00\x02\x00"


def test_the_ring_entry_is_stored_before_the_index_and_the_index_in_one_store(nic, machine):
    ring = Ring(machine, nic, 1, 8)
    machine.commands.clear()
    ring.expose(5)
    assert [(command[0], int(command[1], 16)) for command in machine.commands] == [
        ("writew", ring.avail + 4),
        ("writew", ring.avail + 2),
        ("writel", BASE + QUEUE_NOTIFY),
    ]
    assert machine.at(ring.avail, "<HHH") == (0, 1, 5)


def test_the_available_ring_wraps(nic, machine):
    ring = Ring(machine, nic, 0, 4)
    for head in (0, 1, 2, 3, 2):
        ring.expose(head, notify=False)
    assert machine.at(ring.avail, "<HHHHHH") == (0, 5, 2, 1, 2, 3)
    ring.avail_idx = 0xFFFF
    ring.expose(1, notify=False)
    assert machine.at(ring.avail + 2, "<H") == (0,)


def test_the_parts_of_a_ring_do_not_overlap(nic, machine):
    ring = Ring(machine, nic, 0, 256)
    assert ring.table % 16 == 0 and ring.avail % 2 == 0 and ring.used % 4 == 0
    assert ring.table + 16 * 256 <= ring.avail and ring.avail + 6 + 512 <= ring.used
    assert ring.used_event_address == ring.avail + 4 + 512 and ring.avail_event_address == ring.used + 4 + 2048


def test_chains_are_linked_and_may_wrap_round_the_table(nic, machine):
    ring = Ring(machine, nic, 0, 4)
    ring.chain(3, [(RAM, 12, 0), (RAM + 64, 60, DESC_WRITE)])
    assert machine.at(ring.table + 48, "<QIHH") == (RAM, 12, DESC_NEXT, 0)
    assert machine.at(ring.table, "<QIHH") == (RAM + 64, 60, DESC_WRITE, 0)


def test_an_indirect_table_may_lie_about_its_length(nic, machine):
    ring = Ring(machine, nic, 0, 4)
    address = ring.indirect(2, [Descriptor(1, 2), Descriptor(3, 4)], length=17)
    assert machine.at(ring.table + 32, "<QIHH") == (address, 17, DESC_INDIRECT, 0)
    assert machine.at(address, "<QIHHQIHH") == (1, 2, 0, 0, 3, 4, 0, 0)


def test_used_entries_are_collected_once_in_order(nic, machine):
    ring = Ring(machine, nic, 0, 2)
    struct.pack_into("<HHIIII", machine.memory, ring.used - RAM, 0, 2, 7, 60, 9, 61)
    assert ring.collect() == [(7, 60), (9, 61)]
    assert ring.collect() == []
    struct.pack_into("<HHII", machine.memory, ring.used - RAM, 0, 3, 4, 5)
    assert ring.wait(1, timeout=0) == [(4, 5)]


def test_features_are_written_in_two_halves(nic, machine):
    machine.commands.clear()
    nic.negotiate(1 << 32 | 1 << 5)
    written = [
        int(command[2], 16)
        for command in machine.commands
        if command[0] == "writel" and int(command[1], 16) == BASE + DRIVER_FEATURES
    ]
    assert written == [1 << 5, 1]
    assert machine.registers[BASE + STATUS] == 11


def test_merged_receive_buffers_become_one_frame(nic, machine):
    nic.features = F_MRG_RXBUF
    ring = nic.add_ring(0, 4)
    nic.post_receive(3, 64)
    buffers = [nic._receive_buffers[0, head][0] for head in range(3)]
    machine.qtest.write(buffers[0], bytes(10) + b"\x02\x00" + b"A" * 52)
    machine.qtest.write(buffers[1], b"B" * 10)
    machine.qtest.write(buffers[2], bytes(10) + b"\x01\x00" + b"C")
    struct.pack_into("<HHIIIIII", machine.memory, ring.used - RAM, 0, 3, 0, 64, 1, 10, 2, 13)
    assert nic.receive(count=3, timeout=0) == [
        (bytes(10) + b"\x02\x00", b"A" * 52 + b"B" * 10),
        (bytes(10) + b"\x01\x00", b"C"),
    ]
    assert machine.at(ring.avail + 2, "<H") == (6,)
