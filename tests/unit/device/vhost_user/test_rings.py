"""The life of rings under a device: stopped, started again, replaced, broken."""

import os
import select

from swos_net.device.vhost_user.message import U64, VRING_NO_FD, Request

ALL = (1 << 64) - 1


def test_stop_and_start_again_loses_and_repeats_nothing(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    for number in range(10):
        driver.send(bench.frame(number))
    assert len(bench.take()) == 10
    for number in range(10, 15):
        driver.send(bench.frame(number))
    base = guest.stop_ring(1)
    assert base == 10
    assert not bench.device._rings.ports[1].vring.running  # T1
    assert guest.stop_ring(1) == 10
    assert bench.take_all() == []
    guest.set_up_ring(1, driver.transmit_queue, base=base)
    assert bench.take_all() == [bench.frame(number) for number in range(10, 15)]


def test_reconnect_at_the_used_index_loses_and_repeats_nothing(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    for number in range(10):
        driver.send(bench.frame(number))
    assert len(bench.take_all()) == 10
    # some of them not taken when the connection goes
    for number in range(10, 15):
        driver.send(bench.frame(number))
    guest.close()
    before = bench.take_all()
    again = bench.connect()
    again.negotiate(ALL)
    again.share(again.ram)
    for index, queue in enumerate((driver.receive_queue, driver.transmit_queue)):
        again.set_up_ring(index, queue, base=queue.used_index)
    # Nothing is enabled from before.
    assert not bench.device.link_up
    for index in (0, 1):
        again.enable_ring(index)
    assert bench.device.link_up
    assert before + bench.take_all() == [bench.frame(number) for number in range(10, 15)]


def test_new_memory_while_frames_wait(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    for number in range(5):
        driver.send(bench.frame(number))
    guest.share(guest.ram)
    assert bench.take_all() == [bench.frame(number) for number in range(5)]
    driver.send(bench.frame(5))
    assert bench.take_all() == [bench.frame(5)]
    bench.device.transmit(bench.batch([bench.frame(6)]))
    assert [data for _, data in driver.receive()] == [bench.frame(6)]


def test_new_kick_descriptor_while_frames_wait(bench):
    """V4: a kick that went to the old one is not missed."""
    guest = bench.start()
    bench.take_all()
    driver = guest.drivers[0]
    driver.kick_transmit = lambda: None
    driver.send(bench.frame(1))
    assert not bench.readable
    guest.set_kick(1)
    assert bench.readable
    assert bench.take_all() == [bench.frame(1)]


def test_t2_replaced_kick_descriptor_is_not_watched(bench):
    """The front-end still has it open, so closing ours alone does not end the watch."""
    guest = bench.start()
    bench.take_all()
    old = os.dup(guest.kicks[1])
    guest.set_kick(1)
    bench.take_all()
    os.eventfd_write(old, 1)
    assert not bench.readable
    guest.stop_ring(1)
    guest.kick(1)
    assert not bench.readable
    os.close(old)


def test_new_call_descriptor_is_signalled_once(bench):
    """A signal may have gone to the one before, which nobody reads any more."""
    guest = bench.start()
    guest.drivers[0].send(bench.frame(1))
    bench.take_all()
    guest.set_call(1)
    assert guest.called(1) == 1
    guest.stop_ring(1)
    guest.set_call(1)
    assert guest.called(1) == 0


def test_signal_without_a_call_descriptor_is_made_up_for(bench):
    guest = bench.start()
    guest.request(Request.SET_VRING_CALL, U64(1 | VRING_NO_FD))
    guest.drivers[0].send(bench.frame(1))
    bench.take_all()
    guest.set_call(1)
    assert guest.called(1)


def test_ring_without_kick_descriptor_is_looked_at(bench):
    guest = bench.start()
    driver = guest.drivers[0]
    bench.take_all()
    guest.request(Request.SET_VRING_KICK, U64(1 | VRING_NO_FD))
    driver.kick_transmit = lambda: None
    bench.take_all()
    for number in range(3):
        driver.send(bench.frame(number))
        assert select.select([bench.device], [], [], 5)[0]
        assert bench.take_all() == [bench.frame(number)]
    assert not bench.of("kicked_in_vain")


def test_kick_descriptor_that_would_block(bench):
    guest = bench.start()
    bench.take_all()
    blocking = os.eventfd(0)
    guest.request(Request.SET_VRING_KICK, U64(1), [blocking])
    guest.drivers[0].kick_transmit = lambda: os.eventfd_write(blocking, 1)
    bench.take_all()
    guest.drivers[0].send(bench.frame(1))
    assert bench.take_all() == [bench.frame(1)]
    os.close(blocking)


def test_full_call_descriptor_is_no_obstacle(bench):
    """T3, M10: neither blocks nor fails."""
    guest = bench.start()
    full = os.eventfd(0)
    os.eventfd_write(full, (1 << 64) - 2)
    guest.request(Request.SET_VRING_CALL, U64(1), [full])
    guest.drivers[0].send(bench.frame(1))
    assert bench.take_all() == [bench.frame(1)]
    os.close(full)


def test_d8_broken_ring_is_left_alone_and_others_go_on(wide):
    guest = wide.start()
    first, second = guest.drivers
    wide.take_all()
    queue = second.transmit_queue
    queue.offer(queue.size)  # D2
    queue.publish()
    guest.kick(3)
    assert wide.take_all() == []
    assert [details["check"][:2] for details in wide.of("ring_broken")] == ["D2"]
    assert wide.of("ring_broken")[0]["index"] == 3
    assert guest.reported(3) == 1
    assert wide.device.counters()["rings_broken"] == 1
    guest.kick(3)
    assert wide.take_all() == []
    assert not wide.readable
    first.send(wide.frame(1))
    assert wide.take_all() == [wide.frame(1)]
    assert wide.device.link_up
    # it can be set up again
    assert guest.stop_ring(3) == 0
    queue.ram.write(queue.avail + 4, b"\0\0")
    queue.avail_index = 0
    guest.set_up_ring(3, queue)
    assert wide.take_all() == []
    assert len(wide.of("ring_broken")) == 1


def test_d8_broken_receive_ring_takes_the_link_down(bench):
    guest = bench.start()
    queue = guest.drivers[0].receive_queue
    queue.avail_index = queue.avail_index + queue.size + 1  # V6
    assert bench.device.transmit(bench.batch([bench.frame(1)]))
    assert not bench.device.link_up
    assert bench.of("ring_broken")[0]["check"].startswith("V6")
    assert bench.device.counters()["transmit_discarded"] == 1
    assert guest.reported(0) == 1


def test_v6_ring_that_is_broken_when_it_starts(bench):
    guest = bench.start()
    queue = guest.drivers[0].transmit_queue
    guest.stop_ring(1)
    queue.avail_index = 300
    guest.set_up_ring(1, queue, base=0)
    assert bench.of("ring_broken")[0]["check"].startswith("V6")
    assert not bench.of("protocol_error")
    assert not bench.device.link_up


def test_kicks_of_memory_that_is_not_shared_are_explained_once(bench, caplog):
    guest = bench.start()
    queue = guest.drivers[0].transmit_queue
    for _ in range(5):
        assert queue.avail_index == 0
        guest.kick(1)
        bench.take_all()
    assert bench.of("kicked_in_vain") == [{"index": 1}]
    assert "share=on" in caplog.text


def test_kicks_of_a_healthy_ring_need_no_explanation(bench):
    guest = bench.start()
    for number in range(10):
        guest.drivers[0].send(bench.frame(number))
        bench.take_all()
        guest.kick(0)
        guest.kick(1)
        bench.take_all()
    assert not bench.of("kicked_in_vain")
