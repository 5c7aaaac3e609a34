"""The body of every loop: when it wants to be called again."""

import errno

import pytest

from swos_net.address import UNSPECIFIED4, parse_address
from swos_net.device.pair import PairDevice, make_pair
from swos_net.runtime.open_stack import open_stack
from swos_net.runtime.poll import BATCHES_PER_SEND

PEER, PEER_MAC = parse_address("10.0.0.2"), b"\x02\x00\x00\x00\x00\x02"


class Bottomless(PairDevice):
    """Takes every segment and counts them."""

    taken = 0

    def transmit(self, batch):
        self.taken += batch.count
        return True


def test_what_is_too_much_for_one_turn_is_sent_in_the_next():
    """Nothing comes in and no timer runs: only the deadline says that there is more to send."""
    device = Bottomless(make_pair()[0].link)
    poller = open_stack(device, addresses=["10.0.0.1/24"], now=0.0)
    stack = poller.stack
    stack.interfaces[0].neighbors.add_permanent(PEER, PEER_MAC)
    endpoints = [stack.udp_open(stack.root, UNSPECIFIED4, 0) for _ in range(30)]
    now = 100.0
    for deadline in iter(poller.next_deadline, None):  # announcements of the address
        poller.poll(max(now, deadline))
    device.taken = 0
    for number in range(3600):
        endpoints[number % 30].send_to(b"datagram", PEER, 9, now)
    poller.flush(now)
    assert 0 < device.taken < 3600, f"{BATCHES_PER_SEND} batches are not enough for this test"
    while (deadline := poller.next_deadline()) is not None and deadline <= now:
        poller.poll(now)
    assert device.taken == 3600
    device.close()


class Counting(PairDevice):
    """Notes when its buffers come back."""

    def __init__(self, link):
        super().__init__(link)
        self.released = 0

    def release(self, burst):
        self.released += 1


def test_a_burst_is_given_back_when_it_has_been_read_and_answered_whoever_sends_meanwhile():
    """A finalizer may close a socket in the middle of a burst, and what it leaves is sent at once."""
    device = Counting(make_pair()[0].link)
    poller = open_stack(device, addresses=["10.0.0.1/24"], now=0.0)
    port = poller.ports[0]
    during = []

    def receive_burst(interface, burst, now, taken_in):
        poller.flush(now)
        during.append(device.released)

    poller.stack.input.receive_burst = receive_burst
    device._queue.append((bytes(60), 0, 0, 0))
    poller.take(1.0)
    assert during == [0] and port.held
    poller.flush(1.0)
    assert device.released == 1 and not port.held
    device._queue.append((bytes(60), 0, 0, 0))

    def fail(interface, burst, now, taken_in):
        raise ValueError("a defect")

    poller.stack.input.receive_burst = fail
    with pytest.raises(ValueError):
        poller.take(2.0)
    poller.take(3.0)
    assert device.released == 2, "even so"
    device.close()


def test_what_a_finalizer_leaves_while_a_batch_is_filled_goes_out_and_nothing_is_lost():
    near, far = make_pair()
    poller = open_stack(near, addresses=["10.0.0.1/24"], now=0.0)
    interface = poller.stack.interfaces[0]
    now = 100.0
    for deadline in iter(poller.next_deadline, None):  # announcements of the address
        poller.poll(max(now, deadline))
    far._queue.clear()

    class Endpoint:
        output_pending = True

        def transmit(self, batch, now):
            interface.queue_frame(b"2" * 60)
            poller.flush(now)
            return False

    interface.queue_frame(b"1" * 60)
    interface.output_ready.append(Endpoint())
    poller.flush(now)
    while (deadline := poller.next_deadline()) is not None and deadline <= now:
        poller.poll(now)
    assert [frame[0][:1] for frame in far._queue] == [b"1", b"2"]
    near.close()
    far.close()


class Gone(PairDevice):
    """An interface that somebody has deleted."""

    def transmit(self, batch):
        raise OSError(errno.ENODEV, "gone")


def test_nothing_is_sent_over_a_device_that_failed():
    device = Gone(make_pair()[0].link)
    poller = open_stack(device, addresses=["10.0.0.1/24"], now=0.0)
    interface = poller.stack.interfaces[0]
    interface.queue_frame(bytes(60))
    with pytest.raises(OSError):
        poller.flush(1.0)
    poller.failed(1.0)
    poller.flush(1.0)
    device.close()
