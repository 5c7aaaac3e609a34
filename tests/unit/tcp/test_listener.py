"""SYN queue and accept queue."""

from swos_net.tcp.listener import Listener


def test_a_connection_from_syn_to_accept():
    listener = Listener(2, 10)
    assert not listener.accept_queue_full and not listener.syn_queue_full
    listener.syn_taken("a")
    assert listener.half_open == {"a"} and not listener.accepted
    assert listener.may_complete()
    listener.completed("a")
    assert not listener.half_open and list(listener.accepted) == ["a"]


def test_a_full_accept_queue_takes_no_more_syns():
    listener = Listener(2, 10)
    for name in "ab":
        listener.syn_taken(name)
        assert listener.may_complete()
        listener.completed(name)
    assert listener.accept_queue_full or listener.syn_queue_full
    assert not listener.overflows
    assert listener.accepted.popleft() == "a", "first come, first served"
    assert not listener.accept_queue_full and not listener.syn_queue_full


def test_a_full_accept_queue_completes_no_more_handshakes():
    listener = Listener(1, 10)
    listener.syn_taken("a")
    listener.syn_taken("b")
    assert listener.may_complete()
    assert not listener.may_complete(), "the place is promised already"
    listener.completed("a")
    assert not listener.may_complete() and listener.overflows == 2
    listener.accepted.popleft()
    assert listener.may_complete()


def test_too_many_half_open_connections():
    listener = Listener(2, 3)
    for name in "abc":
        assert not listener.accept_queue_full and not listener.syn_queue_full
        listener.syn_taken(name)
    assert listener.accept_queue_full or listener.syn_queue_full
    listener.gone("b")
    assert not listener.accept_queue_full and not listener.syn_queue_full


def test_one_that_is_gone_is_never_accepted():
    listener = Listener(5, 5)
    for name in "ab":
        listener.syn_taken(name)
    assert listener.may_complete()
    listener.completed("a")
    listener.gone("a")
    listener.gone("b")
    listener.gone("never there")
    assert not listener.half_open and not listener.accepted


def test_a_backlog_of_zero_still_takes_one():
    listener = Listener(0, 5)
    assert not listener.accept_queue_full and not listener.syn_queue_full
