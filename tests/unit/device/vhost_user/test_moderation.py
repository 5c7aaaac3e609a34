"""Rings with bulk data are left alone for a moment; nothing is lost by it and small traffic is not delayed."""

import select

from swos_net.device.vhost_user.device import BULK_BYTES, REST_MAX, REST_MIN


def readable_within(bench, seconds):
    return bool(select.select([bench.device], [], [], seconds)[0])


def send_bulk(bench, driver):
    """More than the threshold, in frames of 1,400 bytes; returns how many."""
    count = BULK_BYTES // 1400 + 1
    for number in range(count):
        driver.send(bench.frame(number).ljust(1400, b"."))
    return count


def test_small_frames_are_told_of_by_a_kick(moderated):
    driver = moderated.start().drivers[0]
    moderated.take_all()
    for number in range(5):
        driver.send(moderated.frame(number))
        assert moderated.readable
        assert moderated.take_all() == [moderated.frame(number)]
        driver.reap()


def test_a_ring_with_bulk_rests_and_is_looked_at_again(moderated):
    driver = moderated.start().drivers[0]
    moderated.take_all()
    moderated.device._rest = moderated.device._rest_max = 0.05  # longer than this machine may keep the test waiting
    sent = send_bulk(moderated, driver)
    assert len(moderated.take_all()) == sent
    driver.reap()
    # nothing is left, kicks are off: the guest's next frame waits for the timer, not for a kick
    kicks = moderated.device.counters()["receive_kicks"]
    driver.send(moderated.frame(1000))
    assert readable_within(moderated, 1.0)
    assert moderated.take_all() == [moderated.frame(1000)]
    assert moderated.device.counters()["receive_kicks"] == kicks
    # what came was little: the ring is waiting for a kick again
    assert not moderated.readable
    driver.reap()
    driver.send(moderated.frame(1001))
    assert moderated.readable
    assert moderated.take_all() == [moderated.frame(1001)]


def test_rests_grow_and_shrink_within_their_bounds(moderated):
    driver = moderated.start().drivers[0]
    moderated.take_all()
    for _ in range(30):
        send_bulk(moderated, driver)
        assert readable_within(moderated, 1.0)
        moderated.take_all()
        driver.reap()
    assert moderated.device._rest == REST_MAX
    assert REST_MIN < REST_MAX


def test_a_connection_that_ends_during_a_rest(moderated):
    guest = moderated.start()
    moderated.take_all()
    send_bulk(moderated, guest.drivers[0])
    moderated.take_all()
    guest.close()
    moderated.device.handle_ready()
    assert not moderated.device.link_up
    assert not readable_within(moderated, 2 * REST_MAX)
    moderated.start()
    assert moderated.device.link_up
