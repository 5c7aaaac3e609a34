"""Records of what was sent: split, joined, given up and sent again, with the counters beside them always right."""

import random

import pytest

from swos_net.tcp.scoreboard import Delivered, Scoreboard
from swos_net.testing.invariants import check_scoreboard


def board_of(*sent):
    """(start, end, time) went out in this order."""
    board = Scoreboard()
    for start, end, now in sent:
        board.sent(start, end, now)
    return board


def marks(board):
    return [
        (record.start, record.end, "S" * record.sacked + "L" * record.lost + "R" * record.retransmissions)
        for record in board.records
    ]


def sacked(board, *blocks):
    delivered = Delivered()
    for left, right in blocks:
        board.selectively_acknowledged(left, right, delivered)
    return delivered


def test_what_goes_out_at_once_is_one_record():
    board = board_of((0, 10, 1.0), (10, 20, 1.0), (20, 30, 2.0))
    assert marks(board) == [(0, 20, ""), (20, 30, "")]
    assert board.outstanding == board.in_flight == 30


def test_a_record_that_is_marked_does_not_grow():
    board = board_of((0, 10, 1.0))
    board.mark_all_lost()
    board.sent(10, 20, 1.0)
    assert marks(board) == [(0, 10, "L"), (10, 20, "")]


def test_an_acknowledgment_may_end_inside_a_record():
    board = board_of((0, 30, 1.0), (30, 40, 2.0))
    delivered = Delivered()
    board.acknowledged(12, delivered)
    assert marks(board) == [(12, 30, ""), (30, 40, "")] and delivered.octets == 12
    board.acknowledged(40, delivered)
    assert board.records == [] and delivered.octets == 40
    assert delivered.newest_sent_at == delivered.rtt_sent_at == 2.0 and delivered.newest_end == 40


def test_a_sack_block_splits_and_the_next_joins():
    board = board_of((0, 100, 1.0))
    delivered = sacked(board, (40, 50))
    assert marks(board) == [(0, 40, ""), (40, 50, "S"), (50, 100, "")]
    assert (delivered.octets, delivered.sacked_octets, board.sacked_octets, board.in_flight) == (10, 10, 10, 90)
    delivered = sacked(board, (30, 60))
    assert marks(board) == [(0, 30, ""), (30, 60, "S"), (60, 100, "")]
    assert delivered.octets == 20, "what was known is not news"
    assert board.highest_sacked == 60


def test_the_same_block_again_is_no_news():
    board = board_of((0, 100, 1.0))
    sacked(board, (40, 50))
    delivered = sacked(board, (40, 50))
    assert delivered.octets == 0 and delivered.newest_sent_at < 0 and not delivered.original


def test_the_highest_of_several_blocks_whatever_their_order():
    board = board_of((0, 100, 1.0))
    sacked(board, (80, 90), (40, 50))
    assert board.highest_sacked == 90
    board.acknowledged(95, Delivered())
    sacked(board, (96, 98))
    assert board.highest_sacked == 98
    board.forget_sacked()
    sacked(board, (96, 97))
    assert board.highest_sacked == 97, "what was forgotten does not count"


def test_what_arrives_although_it_was_given_up():
    board = board_of((0, 100, 1.0))
    board.mark_all_lost()
    assert board.in_flight == 0 and board.lost_octets == 100
    sacked(board, (50, 70))
    assert board.lost_octets == 80 and board.in_flight == 0
    board.acknowledged(60, Delivered())
    assert board.lost_octets == 30 and board.sacked_octets == 10


def test_retransmissions_are_told_apart_from_originals():
    board = board_of((0, 30, 1.0))
    board.mark_first_lost(10)
    record = board.take_lost(board.first_lost(), 10, 5.0)
    assert (record.start, record.end, record.sent_at, record.retransmissions) == (0, 10, 5.0, 1)
    delivered = Delivered()
    board.acknowledged(30, delivered)
    assert delivered.retransmitted and delivered.original and delivered.original_start == 10
    assert delivered.newest_sent_at == 5.0 and delivered.newest_retransmitted
    assert delivered.rtt_sent_at == 1.0, "Karn: only what went out once is timed"


def test_a_part_of_what_was_given_up_goes_again():
    board = board_of((0, 100, 1.0))
    board.mark_all_lost()
    board.take_lost(0, 30, 2.0)
    assert marks(board) == [(0, 30, "R"), (30, 100, "L")] and board.lost_octets == 70 and board.first_lost() == 1
    board.take_lost(1, 1000, 2.0)
    assert board.lost_octets == 0 and board.first_lost() == -1


def test_the_first_octets_are_given_up_once():
    board = board_of((0, 100, 1.0))
    board.mark_first_lost(40)
    board.mark_first_lost(40)
    assert marks(board) == [(0, 40, "L"), (40, 100, "")]
    empty = Scoreboard()
    empty.mark_first_lost(40)
    assert empty.records == [] and empty.in_flight == 0 and empty.first_lost() == -1


def test_a_range_is_given_up_without_what_the_peer_has():
    board = board_of((0, 100, 1.0), (100, 200, 2.0))
    sacked(board, (50, 60))
    board.mark_range_lost(40, 120)
    assert marks(board) == [(0, 40, ""), (40, 50, "L"), (50, 60, "S"), (60, 100, "L"), (100, 120, "L"), (120, 200, "")]
    assert board.lost_octets == 70


def test_spurious_losses_are_taken_back():
    board = board_of((0, 100, 1.0))
    board.mark_all_lost()
    board.unmark_lost()
    assert board.lost_octets == 0 and board.in_flight == 100


def test_the_last_octets_go_again_as_a_probe():
    board = board_of((0, 100, 1.0))
    record = board.take_last(30, 4.0)
    assert (record.start, record.end, record.retransmissions) == (70, 100, 1)
    sacked(board, (70, 100))
    assert board.take_last(30, 5.0) is None and Scoreboard().take_last(30, 5.0) is None


@pytest.mark.parametrize("seed", range(20))
def test_counters_and_records_agree_whatever_happens(seed):
    generator = random.Random(seed)
    board = Scoreboard()
    snd_una = snd_nxt = 0
    for turn in range(400):
        now = turn / 4 // 1
        if generator.random() < 0.2:
            board.in_time_order()
        match generator.randrange(8):
            case 0 | 1:
                end = snd_nxt + generator.randint(1, 50)
                board.sent(snd_nxt, end, now)
                snd_nxt = end
            case 2 if snd_una < snd_nxt:
                snd_una = (
                    generator.randint(snd_una + 1, snd_nxt) if generator.random() < 0.3 else min(snd_una + 7, snd_nxt)
                )
                board.acknowledged(snd_una, Delivered())
            case 3 if snd_nxt - snd_una > 2:
                left = generator.randint(snd_una + 1, snd_nxt - 1)
                delivered = sacked(board, (left, generator.randint(left + 1, snd_nxt)))
                assert delivered.octets == delivered.sacked_octets
            case 4:
                board.mark_first_lost(generator.randint(1, 20))
            case 5:
                left = generator.randint(snd_una, snd_nxt)
                board.mark_range_lost(left, left + generator.randint(1, 40))
            case 6:
                while (index := board.first_lost()) >= 0 and generator.random() < 0.8:
                    board.take_lost(index, generator.randint(1, 30), now)
            case 7 if generator.random() < 0.2:
                generator.choice((board.unmark_lost, board.forget_sacked, board.mark_all_lost))()
            case 7:
                board.take_last(generator.randint(1, 30), now)
        check_scoreboard(board, snd_una, snd_nxt)
        assert board.outstanding == snd_nxt - snd_una
