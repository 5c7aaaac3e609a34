/* Split virtqueues (VIRTIO 1.2, 2.7), seen from the device.
 *
 * One thread owns a ring: set-up and data calls never overlap.  A guest that
 * breaks a rule breaks its ring (vring.broken gets the check's name) and
 * nothing else.  Completion is strictly in order. */
#pragma once
#include <stdint.h>
#include "frame.h"
#include "guest_memory.h"
#include "segment.h"

#define VRING_SIZE_MAX 32768

/* virtio feature bits that change how a ring or its frames look */
#define VIRTIO_NET_F_CSUM 0
#define VIRTIO_NET_F_GUEST_CSUM 1
#define VIRTIO_NET_F_MTU 3
#define VIRTIO_NET_F_GUEST_TSO4 7
#define VIRTIO_NET_F_GUEST_TSO6 8
#define VIRTIO_NET_F_HOST_TSO4 11
#define VIRTIO_NET_F_HOST_TSO6 12
#define VIRTIO_NET_F_MRG_RXBUF 15
#define VIRTIO_NET_F_GUEST_ANNOUNCE 21
#define VIRTIO_NET_F_MQ 22
#define VHOST_F_LOG_ALL 26
#define VIRTIO_F_ANY_LAYOUT 27
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VHOST_USER_F_PROTOCOL_FEATURES 30
#define VIRTIO_F_VERSION_1 32

/* vring.broken */
#define VRING_SOUND 0
#define VRING_AVAIL_JUMP 1        /* V6: more available than the ring holds */
#define VRING_BAD_HEAD 2          /* D2 */
#define VRING_BAD_NEXT 3          /* D2 */
#define VRING_LOOP 4              /* D3 */
#define VRING_BAD_INDIRECT 5      /* D4 */
#define VRING_BAD_DIRECTION 6     /* D6 */
#define VRING_BAD_ADDRESS 7       /* D8 */
#define VRING_TOO_LONG 8          /* D6: more than 4 GiB in one chain (VIRTIO 1.2, 2.7.5) */
#define VRING_RUNT 9              /* N1: a receive buffer without room for the header */

/* Descriptors that one indirect table may have, if the ring is not larger. */
#define VRING_INDIRECT_MAX 1024
/* Pieces of guest memory that one transmitted frame may be spread over. */
#define VRING_PIECES 4096

typedef struct vring_scratch vring_scratch;

typedef struct {
    const guest_memory *memory;
    uint8_t *desc;
    uint8_t *avail;
    uint8_t *used;
    uint64_t desc_address;     /* where the front-end has the three parts */
    uint64_t avail_address;
    uint64_t used_address;
    uint32_t generation;       /* of the memory that desc, avail and used were found in (R5) */
    uint32_t outstanding;      /* chains taken and not given back (D7) */
    uint32_t size;             /* descriptors */
    uint64_t features;         /* negotiated */
    uint32_t header_size;      /* of virtio_net_hdr, from the features (N5) */
    uint16_t next_avail;       /* next available entry to take */
    uint16_t next_used;        /* next used entry to write */
    uint16_t seen_avail;       /* available index up to which there was nothing (more) to do */
    uint16_t signalled_used;   /* used index at the last decision to signal */
    uint8_t signalled_valid;
    uint8_t running;
    uint8_t kicks_enabled;
    uint8_t notify_pending;    /* the guest wanted a signal while there was no call_fd */
    uint8_t undecided;         /* whether to signal the last chains that were given back quietly */
    int call_fd;               /* -1: never signal */
    int err_fd;                /* -1: none */
    uint32_t broken;           /* VRING_* */
    uint64_t frames;
    uint64_t bytes;
    uint64_t dropped;          /* chains that held no acceptable frame; frames that fit nowhere */
    uint64_t bursts;           /* calls that took or filled at least one chain */
    uint64_t signals;
    uint64_t kicks;            /* for whoever reads the kick descriptor to count */
    vring_scratch *scratch;
} vring;

vring *vring_new(void);
void vring_free(vring *ring);

/* Points the ring at the three parts (front-end-virtual addresses) and starts
 * it at `base`, asking for kicks.  Checks V1..V3 and V6.  Returns 0 or -EINVAL,
 * -EFAULT.  The memory has to outlive the ring's run; its regions may change
 * between calls while no burst is out. */
int vring_start(vring *ring, const guest_memory *memory, uint32_t size, uint64_t features, uint64_t desc,
                uint64_t avail, uint64_t used, uint16_t base);
/* Stops it and returns the next available index not yet completed: chains of
 * a burst that was not released count as never taken. */
uint16_t vring_stop(vring *ring);

/* Guest's transmit queue: takes up to `budget` chains, adds their frames to the
 * burst.  `discard` is for a disabled ring: takes and completes (also what the
 * burst still held), delivers nothing.  Returns chains taken, 0 when there was
 * nothing or the ring is stopped, -1 when broken.  The frames' pieces are
 * guest memory until vring_release(). */
int vring_receive(vring *ring, frame_burst *burst, uint32_t budget, int discard);

/* Gives the burst's chains back to the guest, signals it if it wants that and
 * clears the burst.  Returns 0, or -1 when the ring is broken or was stopped
 * meanwhile (then nothing is given back).
 *
 * `quiet`: the guest has just been signalled for another ring, and finds these
 * chains on its own when it looks there; vring_remind() follows a while later.
 * For rings with an event index alone, which shows whether it did. */
int vring_release(vring *ring, frame_burst *burst, int quiet);

/* Signals what was given back quietly, unless the guest has seen it. */
void vring_remind(vring *ring);

/* Guest's receive queue: renders the batch from (next, next_frame) into guest
 * buffers, publishes once and signals once.  Returns 0 when the whole batch
 * went, 1 when the guest has no more buffers (kicks are enabled then) or the
 * ring is stopped, -1 when broken.  A frame that no buffer could ever hold is
 * dropped and counted. */
int vring_transmit(vring *ring, segment_batch *batch, const link_limits *limits);

/* Asks for a kick, then looks once more (the store-load race of 2.7.10).
 * Returns 1 when there is work after all: chains not yet received, or buffers
 * that came after vring_transmit() found too few. */
int vring_enable_kicks(vring *ring);

/* The same for a ring with an event index that nobody but its kick descriptor is to tell of: drains that before, when
 * there is nothing left in the ring.  Returns 1 when there is work that perhaps no kick tells of. */
int vring_settle(vring *ring, int kick_fd);
void vring_disable_kicks(vring *ring);

/* Takes a kick from the ring's descriptor, if there is one; never blocks. */
int vring_drain(vring *ring, int kick_fd);

/* Sets the eventfd that signals the guest (-1: none).  A signal that was due
 * while there was none is made up for. */
void vring_set_call(vring *ring, int call_fd);

/* Chains the guest has made available and we have not taken. */
uint32_t vring_available(vring *ring);
