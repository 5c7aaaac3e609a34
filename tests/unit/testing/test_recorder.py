"""What a recorder keeps and how it reads."""

import io
import struct

import pytest

from swos_net.link import Medium
from swos_net.testing.network import Network
from swos_net.testing.recorder import Recorder
from swos_net.wire.tcp import SYN


def recorded(limit=None, **link):
    network = Network(3)
    recorder = network.observe(Recorder(limit))
    client, server = network.add_host("client", ["10.0.0.1/24"]), network.add_host("server", ["10.0.0.2/24"])
    network.link(client, server, **({"delay": 0.1} | link))
    server.listen(80, lambda stream: stream.send(bytes(20_000)).close())
    stream = client.connect("10.0.0.2", 80)
    network.links[0].towards(client).drop(segment=2)
    network.links[0].towards(client).postpone(0.01, segment=4)
    network.run(until=lambda: stream.ended)
    return network, recorder


def test_the_timeline_counts_as_people_do():
    _, recorder = recorded()
    lines = recorder.timeline().splitlines()
    assert len(lines) == len(recorder)
    assert any("client > server" in line and "ARP who-has 10.0.0.2" in line for line in lines)
    (syn,) = [line for line in lines if "[S]" in line]
    assert "client > server" in syn and "seq 0 win" in syn and "mss 1460" in syn
    (syn_ack,) = [line for line in lines if "[S.]" in line]
    assert "server > client" in syn_ack and "seq 0 ack 1" in syn_ack
    lost = [line for line in lines if line.endswith("[dropped]")]
    assert len(lost) == 1 and "seq 1449:2897 ack 1" in lost[0]
    assert any("sack 2897:" in line for line in lines)
    assert any("[late: 0.5" in line or "[late: 0.6" in line for line in lines)
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)


def test_looking_for_segments():
    _, recorder = recorded()
    assert [crossing.packet.source for crossing in recorder.segments(lambda packet: packet.flags & SYN)] == ["10.0.0.1", "10.0.0.2"]
    assert all(crossing.packet.is_tcp for crossing in recorder.segments())
    assert len(recorder.segments()) < len(recorder)
    recorder.clear()
    assert not len(recorder)


def test_only_the_last_frames():
    _, recorder = recorded(limit=3)
    assert len(recorder) == 3
    assert list(recorder)[-1].time > 0.3


@pytest.mark.parametrize("received", [False, True])
@pytest.mark.parametrize("medium", list(Medium))
def test_a_file_for_wireshark(tmp_path, medium, received):
    _, recorder = recorded(medium=medium)
    count = recorder.write_pcap(tmp_path / "run.pcapng", received=received)
    assert count == len(recorder) - received
    data = (tmp_path / "run.pcapng").read_bytes()
    kinds, times, offset = [], [], 0
    while offset < len(data):
        kind, length = struct.unpack_from("<II", data, offset)
        kinds.append(kind)
        if kind == 6:
            high, low = struct.unpack_from("<II", data, offset + 12)
            times.append((high << 32 | low) / 1e9)
        offset += length
    assert offset == len(data) and kinds == [0x0A0D0D0A, 1] + [6] * count
    assert times == sorted(times) and times[-1] < 10


def test_links_of_two_kinds_do_not_fit_into_one_file():
    network, recorder = recorded()
    one, other = network.add_host("one", ["10.1.0.1/24"]), network.add_host("other", ["10.1.0.2/24"])
    network.link(one, other, medium=Medium.IP)
    one.connect("10.1.0.2", 80)
    network.run(until=network.now + 1)
    with pytest.raises(ValueError, match="one medium"):
        recorder.write_pcap(io.BytesIO())
