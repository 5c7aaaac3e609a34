"""Feature bits a vhost-user front-end and back-end agree on, by bit number.

VIRTIO 1.2 sections 5.1.3 and 6, and the protocol features of the vhost-user specification.  The meaning of the bits
that change a ring or its frames is with the data plane; nothing here decides anything.
"""

from enum import IntEnum


class Feature(IntEnum):
    """Device and ring features (GET_FEATURES, SET_FEATURES)."""

    CSUM = 0
    GUEST_CSUM = 1
    MTU = 3
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    MRG_RXBUF = 15
    GUEST_ANNOUNCE = 21
    MQ = 22
    LOG_ALL = 26
    ANY_LAYOUT = 27
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    PROTOCOL_FEATURES = 30
    VERSION_1 = 32


class ProtocolFeature(IntEnum):
    """Features of the protocol itself (GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES)."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    NET_MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19


def mask(*bits: int) -> int:
    """The 64-bit word with those bits set."""
    word = 0
    for bit in bits:
        word |= 1 << bit
    return word


# What a feature is no use without (VIRTIO 1.2, 5.1.3.1).
REQUIRES = {
    Feature.GUEST_TSO4: Feature.GUEST_CSUM,
    Feature.GUEST_TSO6: Feature.GUEST_CSUM,
    Feature.HOST_TSO4: Feature.CSUM,
    Feature.HOST_TSO6: Feature.CSUM,
}


def with_requirements(word: int) -> int:
    """`word` without the features whose requirement is not in it."""
    for feature, required in REQUIRES.items():
        if not word & 1 << required:
            word &= ~(1 << feature)
    return word
