"""TCP_INFO: the kernel's layout, and numbers that are true."""

import struct
from dataclasses import fields

import pytest

from swos_net.tcp.info import TCPI_OPT_ECN, TCPI_OPT_SACK, TCPI_OPT_TIMESTAMPS, TCPI_OPT_WSCALE, TcpInfo, tcp_info
from swos_net.tcp.segment import ACK, ECE, FIN, SYN
from swos_net.wire.tcp import TcpOptions

MSS = 1000


def info(harness):
    return tcp_info(harness.tcb, harness.now)


class TestLayout:
    """include/uapi/linux/tcp.h"""

    # (offset, size) where the kernel has them
    PLACES = {
        "tcpi_state": (0, 1), "tcpi_ca_state": (1, 1), "tcpi_options": (5, 1), "tcpi_wscale": (6, 1), "tcpi_rto": (8, 4),
        "tcpi_snd_mss": (16, 4), "tcpi_unacked": (24, 4), "tcpi_last_data_sent": (44, 4), "tcpi_rtt": (68, 4),
        "tcpi_rttvar": (72, 4), "tcpi_snd_ssthresh": (76, 4), "tcpi_snd_cwnd": (80, 4), "tcpi_total_retrans": (100, 4),
        "tcpi_pacing_rate": (104, 8), "tcpi_bytes_acked": (120, 8), "tcpi_bytes_received": (128, 8), "tcpi_segs_out": (136, 4),
        "tcpi_min_rtt": (148, 4), "tcpi_delivery_rate": (160, 8), "tcpi_delivered": (192, 4), "tcpi_bytes_sent": (200, 8),
        "tcpi_dsack_dups": (216, 4), "tcpi_rcv_ooopack": (224, 4), "tcpi_snd_wnd": (228, 4), "tcpi_rcv_wnd": (232, 4),
    }  # fmt: skip

    @pytest.mark.parametrize("name", PLACES)
    def test_each_field_has_its_place(self, name):
        offset, size = self.PLACES[name]
        value = 0x01020304 & (256**size - 1)
        packed = TcpInfo(tcpi_reordering=0, **{name: value}).pack()
        assert int.from_bytes(packed[offset : offset + size], "little" if struct.pack("=H", 1)[0] else "big") == value
        assert sum(packed) == sum(value.to_bytes(size, "little")), "and is nowhere else"

    def test_nothing_is_too_large_for_its_field(self, tcp):
        harness = tcp().established()
        assert len(info(harness).pack()) == 236 and len(fields(TcpInfo)) == 55


class TestNumbers:
    @pytest.fixture
    def sender(self, tcp):
        harness = tcp(sack=True, tail_loss_probe=False).sending(30 * MSS)
        harness.output()
        harness.after(0.1)
        return harness

    def test_a_fresh_connection(self, tcp):
        harness = tcp().established()
        told = info(harness)
        assert (
            told.tcpi_state,
            told.tcpi_ca_state,
            told.tcpi_unacked,
            told.tcpi_bytes_acked,
            told.tcpi_bytes_sent,
        ) == (1, 0, 0, 0, 0)
        assert told.tcpi_snd_cwnd == 10 and told.tcpi_snd_mss == told.tcpi_advmss == 1460 and told.tcpi_options == 0
        assert told.tcpi_snd_ssthresh == 0x7FFFFFFF

    def test_before_and_after_a_connection(self, tcp):
        harness = tcp()
        assert info(harness).tcpi_state == 7
        harness.open()
        told = info(harness)
        assert told.tcpi_state == 2 and told.tcpi_bytes_acked == told.tcpi_bytes_received == told.tcpi_bytes_sent == 0

    def test_round_trips_in_microseconds(self, sender):
        told = info(sender)
        assert told.tcpi_rtt == told.tcpi_min_rtt == pytest.approx(100_000, abs=2)
        assert told.tcpi_rttvar == pytest.approx(50_000, abs=2) and told.tcpi_rto == pytest.approx(300_000, abs=2)

    def test_in_flight_and_not_sent(self, sender):
        told = info(sender)
        assert told.tcpi_unacked == 10 and told.tcpi_notsent_bytes == 20 * MSS and told.tcpi_bytes_sent == 10 * MSS
        sender.acknowledges(1 + 3 * MSS)
        told = info(sender)
        assert told.tcpi_bytes_acked == 3 * MSS and told.tcpi_delivered == 3

    def test_losses(self, sender):
        sender.acknowledges(1, (1 + MSS, 1 + 6 * MSS))
        told = info(sender)
        assert told.tcpi_ca_state == 3 and told.tcpi_sacked == 5 and told.tcpi_snd_ssthresh == 5
        assert (
            told.tcpi_total_retrans >= 1
            and told.tcpi_retrans == told.tcpi_total_retrans
            and told.tcpi_bytes_retrans >= MSS
        )
        sender.acknowledges(1 + 6 * MSS, (1, 1 + MSS))
        assert info(sender).tcpi_dsack_dups == 1

    def test_timeouts(self, tcp):
        harness = tcp().sending(MSS, sack=False)
        harness.passes(1.0)
        told = info(harness)
        assert told.tcpi_retransmits == told.tcpi_backoff == 2 and told.tcpi_ca_state == 4

    def test_what_was_agreed_on(self, tcp):
        harness = tcp(sack=True, timestamps=True, window_scaling=True, ecn="on")
        harness.connection.open(harness.now)
        harness.output()
        harness.arrives(
            SYN | ACK | ECE,
            0,
            1,
            options=TcpOptions(mss=MSS, sack_permitted=True, window_scale=7, ts_val=1, ts_ecr=harness.stamp()),
        )
        told = info(harness)
        assert told.tcpi_options == TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE | TCPI_OPT_ECN
        assert told.tcpi_wscale & 15 == 7 and told.tcpi_wscale >> 4 == harness.tcb.rcv_wscale

    def test_what_was_received(self, tcp):
        harness = tcp().established()
        harness.arrives(ACK, 1, 1, bytes(500))
        harness.arrives(ACK, 2001, 1, bytes(500))
        told = info(harness)
        assert told.tcpi_bytes_received == 500 and told.tcpi_rcv_ooopack == 1 and told.tcpi_data_segs_in == 2
        harness.arrives(ACK | FIN, 501, 1)
        assert info(harness).tcpi_bytes_received == 500

    @pytest.mark.parametrize("data", [b"", b"some"])
    def test_a_fin_is_no_byte(self, tcp, data):
        harness = tcp().established()
        if data:
            harness.connection.send(data)
        harness.connection.shutdown_send(harness.now)
        harness.output()
        assert info(harness).tcpi_bytes_sent == len(data) and info(harness).tcpi_bytes_acked == 0
        harness.acknowledges(2 + len(data))
        told = info(harness)
        assert told.tcpi_state == 5 and told.tcpi_bytes_sent == told.tcpi_bytes_acked == len(data)

    def test_idle_times_in_milliseconds(self, tcp):
        harness = tcp().sending(MSS, sack=False)
        harness.output()
        harness.acknowledges(1 + MSS)
        harness.passes(5.0)
        told = info(harness)
        assert told.tcpi_last_data_sent == pytest.approx(5000, abs=1) and told.tcpi_last_ack_recv == pytest.approx(
            5000, abs=1
        )
