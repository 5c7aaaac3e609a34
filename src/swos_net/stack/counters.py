"""Counters of one stack or interface, named after the SNMP MIBs where these have a name."""

from collections import defaultdict

from swos_net.dataplane.burst import DropReason


class Counters(defaultdict):
    """Name to number; a name that was never counted is 0."""

    def __init__(self) -> None:
        super().__init__(int)

    def drop(self, reason: DropReason) -> None:
        self["Drop" + reason.name.title().replace("_", "")] += 1
