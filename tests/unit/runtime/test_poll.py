"""The body of every loop: when it wants to be called again."""

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
