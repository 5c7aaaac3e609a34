"""Pieces that are one segment to a script, and numbers that are its own."""

from swos_net.testing.packetdrill import run_script

SERVER = """    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
   +0 < S {isn}:{isn}(0) win 65535 <mss 1000>
   +0 > S. 0:0(0) ack {next} <mss 1460>
   +0 < . {next}:{next}(0) ack 1 win 65535
   +0 accept(3, ..., ...) = 4
   +0 write(4, ..., 3000) = 3000
"""
PLAIN = SERVER.format(isn=0, next=1)


def test_pieces_of_one_segment():
    run_script(PLAIN + "+0 > P. 1:3001(3000) ack 1\n").check()
    run_script(PLAIN + "+0 > . 1:1001(1000) ack 1\n+0 > P. 1001:3001(2000) ack 1\n").check()
    run_script("--strict_segments\n" + PLAIN + "+0 > . 1:1001(1000) ack 1\n+0 > . 1001:2001(1000) ack 1\n"
               "+0 > P. 2001:3001(1000) ack 1\n").check()  # fmt: skip


def test_pieces_are_not_one_when_the_script_says_so():
    result = run_script("--strict_segments\n" + PLAIN + "+0 > P. 1:3001(3000) ack 1\n")
    assert "3000 bytes expected, 1000 seen" in result.message


def test_where_a_piece_ends_is_not_made_up():
    result = run_script(PLAIN + "+0 > P. 1:1501(1500) ack 1\n")
    assert result.status == "failed" and "1500 bytes expected, 2000 seen" in result.message


def test_psh_of_a_single_piece_is_compared():
    assert "flags" in run_script(PLAIN + "+0 > P. 1:1001(1000) ack 1\n").message


def test_initial_sequence_numbers_of_the_peer():
    for isn in (1, 1 << 31, 0xFFFFFFFE):
        run_script(SERVER.format(isn=isn, next=isn + 1) + f"+0 > P. 1:3001(3000) ack {isn + 1}\n").check()


def test_each_connection_has_its_numbers():
    run_script("""
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 5) = 0
   +0 < 1000>8080 S 0:0(0) win 5000 <mss 1000>
   +0 > 8080>1000 S. 0:0(0) ack 1 <mss 1460>
   +0 < 2000>8080 S 70:70(0) win 5000 <mss 1000>
   +0 > 8080>2000 S. 0:0(0) ack 71 <mss 1460>
   +0 < 2000>8080 P. 71:81(10) ack 1 win 5000
   +0 > 8080>2000 . 1:1(0) ack 81
   +0 < 1000>8080 . 1:1(0) ack 1 win 5000
   +0 accept(3, ..., ...) = 4
   +0 read(4, ..., 100) = 10
""").check()


def test_a_port_that_is_not_used_again_gets_its_reset():
    run_script("""
    0 `true`
   +0 < 1000>9999 S 5:5(0) win 5000
   +0 > 9999>1000 R. 0:0(0)! ack 6 win 0
""").check()
