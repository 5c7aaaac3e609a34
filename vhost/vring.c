/* Split virtqueues.  Read first: vring.h; VIRTIO 1.2, 2.7.  The checks that
 * comments name (V1, D3, ...): V ring set-up, D descriptors, N net header, R
 * memory, T hand-over between threads.  Whatever a guest can write is read
 * once, into a local, and checked there (D1).  What it does not do: packed
 * rings, dirty logging, waiting for kicks. */
#include "vring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "chain.h"
#include "virtio_net.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rings are little endian (VIRTIO 1.2, 1.4) and this code reads them without swapping"
#endif

enum {
    AVAIL_NO_INTERRUPT = 1,
    USED_NO_NOTIFY = 1,
    ETHERNET_HEADER = 14,
    NET_HEADER_MAX = 12,
};

#define CHAIN_BYTES_MAX (1ull << 32) /* 2.7.5 */

struct vring_scratch {
    frame_piece pieces[VRING_PIECES]; /* where the frame being written goes */
};

vring *vring_new(void)
{
    vring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return NULL;
    ring->scratch = malloc(sizeof *ring->scratch);
    if (!ring->scratch) {
        free(ring);
        return NULL;
    }
    ring->call_fd = ring->err_fd = -1;
    return ring;
}

void vring_free(vring *ring)
{
    if (!ring)
        return;
    free(ring->scratch);
    free(ring);
}

/* --- what both sides share ------------------------------------------------ */

/* 2.5: indices are 16 bits, aligned, loaded and stored whole. */
static uint16_t load_index(const uint8_t *at, memory_order order)
{
    return atomic_load_explicit((const _Atomic uint16_t *)(const void *)at, order);
}

static void store_index(uint8_t *at, uint16_t value, memory_order order)
{
    atomic_store_explicit((_Atomic uint16_t *)(void *)at, value, order);
}

static uint16_t load_avail(const vring *ring)
{
    return load_index(ring->avail + 2, memory_order_acquire);
}

static uint16_t load_head(const vring *ring, uint16_t index)
{
    return load_index(ring->avail + 4 + 2 * (index & (ring->size - 1)), memory_order_relaxed);
}

static void store_used_element(const vring *ring, uint16_t index, uint32_t head, uint32_t length)
{
    uint32_t element[2] = {head, length};
    memcpy(ring->used + 4 + 8 * (index & (ring->size - 1)), element, sizeof element);
}

static uint64_t avail_bytes(uint32_t size)
{
    return 6 + 2 * (uint64_t)size;
}

static uint64_t used_bytes(uint32_t size)
{
    return 6 + 8 * (uint64_t)size;
}

/* V2 and V3 for the three parts; also finds them again after the memory table changed (R5). */
static int find_parts(vring *ring)
{
    const guest_memory *memory = ring->memory;
    uint8_t *desc = guest_memory_translate_user(memory, ring->desc_address, DESCRIPTOR_BYTES * (uint64_t)ring->size);
    uint8_t *avail = guest_memory_translate_user(memory, ring->avail_address, avail_bytes(ring->size));
    uint8_t *used = guest_memory_translate_user(memory, ring->used_address, used_bytes(ring->size));
    if (!desc || !avail || !used)
        return -EFAULT;
    if ((uintptr_t)desc % 16 || (uintptr_t)avail % 2 || (uintptr_t)used % 4)
        return -EINVAL;
    ring->desc = desc;
    ring->avail = avail;
    ring->used = used;
    ring->generation = memory->generation;
    return 0;
}

/* Whether the ring's memory may be touched at all. */
static int ready(vring *ring)
{
    if (!ring->running || ring->broken)
        return 0;
    if (ring->generation == ring->memory->generation)
        return 1;
    if (find_parts(ring) == 0)
        return 1;
    break_ring(ring, VRING_BAD_ADDRESS);
    return 0;
}

/* N5: the one place that knows (5.1.6.1). */
static uint32_t header_size(uint64_t features)
{
    return features >> VIRTIO_F_VERSION_1 & 1 || features >> VIRTIO_NET_F_MRG_RXBUF & 1 ? 12 : 10;
}

/* Asks for a kick once the available index passes `index`, and orders that before the next look at it (2.7.10). */
static void arm_kicks(vring *ring, uint16_t index)
{
    if (has(ring, VIRTIO_F_EVENT_IDX))
        store_index(ring->used + 4 + 8 * ring->size, index, memory_order_relaxed);
    else
        store_index(ring->used, 0, memory_order_relaxed);
    ring->kicks_enabled = 1;
    atomic_thread_fence(memory_order_seq_cst);
}

static void disarm_kicks(vring *ring)
{
    if (!has(ring, VIRTIO_F_EVENT_IDX)) /* with it, an event index left behind is enough */
        store_index(ring->used, USED_NO_NOTIFY, memory_order_relaxed);
    ring->kicks_enabled = 0;
}

static void send_signal(vring *ring)
{
    if (ring->call_fd < 0) {
        ring->notify_pending = 1;
        return;
    }
    ring->notify_pending = 0;
    poke(ring->call_fd);
    ring->signals++;
}

/* Decides whether the guest wants to hear of what it has been given back since the last decision (2.7.7). */
static void decide(vring *ring)
{
    uint16_t used = ring->next_used;
    ring->undecided = 0;
    atomic_thread_fence(memory_order_seq_cst); /* the store of the used index before the load below */
    int wanted;
    if (has(ring, VIRTIO_F_EVENT_IDX)) {
        uint16_t event = load_index(ring->avail + 4 + 2 * ring->size, memory_order_relaxed);
        wanted = !ring->signalled_valid || (uint16_t)(used - event - 1) < (uint16_t)(used - ring->signalled_used);
        ring->signalled_used = used;
        ring->signalled_valid = 1;
    } else {
        wanted = !(load_index(ring->avail, memory_order_relaxed) & AVAIL_NO_INTERRUPT);
    }
    if (wanted)
        send_signal(ring);
}

/* Makes everything up to `used` visible at once. */
static void publish(vring *ring, uint16_t used, int quiet)
{
    if (ring->undecided)
        decide(ring);
    ring->next_used = used;
    store_index(ring->used + 2, used, memory_order_release);
    if (quiet && has(ring, VIRTIO_F_EVENT_IDX) && ring->signalled_valid)
        ring->undecided = 1;
    else
        decide(ring);
}

/* --- set-up --------------------------------------------------------------- */

int vring_start(vring *ring, const guest_memory *memory, uint32_t size, uint64_t features, uint64_t desc,
                uint64_t avail, uint64_t used, uint16_t base)
{
    ring->running = 0;
    if (size == 0 || size > VRING_SIZE_MAX || (size & (size - 1))) /* V1 */
        return -EINVAL;
    if (desc % 16 || avail % 2 || used % 4) /* V2 */
        return -EINVAL;
    ring->memory = memory;
    ring->size = size;
    ring->features = features;
    ring->header_size = header_size(features);
    ring->desc_address = desc;
    ring->avail_address = avail;
    ring->used_address = used;
    int found = find_parts(ring);
    if (found != 0)
        return found;

    ring->broken = VRING_SOUND;
    ring->next_avail = ring->seen_avail = base;
    ring->next_used = load_index(ring->used + 2, memory_order_acquire);
    ring->outstanding = 0;
    ring->signalled_valid = 0;
    ring->notify_pending = ring->undecided = 0;
    if ((uint16_t)(load_avail(ring) - base) > size) { /* V6 */
        break_ring(ring, VRING_AVAIL_JUMP);
        return -EINVAL;
    }
    ring->running = 1;
    store_index(ring->used, 0, memory_order_relaxed); /* 2.7.10.1: stays zero with an event index */
    arm_kicks(ring, base);
    return 0;
}

uint16_t vring_stop(vring *ring)
{
    vring_remind(ring);
    ring->running = 0;
    ring->notify_pending = ring->undecided = 0;
    ring->next_avail = (uint16_t)(ring->next_avail - ring->outstanding);
    ring->outstanding = 0;
    ring->desc = ring->avail = ring->used = NULL; /* T1 */
    ring->memory = NULL;
    return ring->next_avail;
}

int vring_enable_kicks(vring *ring)
{
    if (!ready(ring))
        return 0;
    arm_kicks(ring, ring->seen_avail);
    return load_avail(ring) != ring->seen_avail;
}

int vring_drain(vring *ring, int kick_fd)
{
    uint64_t count;
    struct iovec place = {&count, sizeof count};
    /* M10: whoever shares the descriptor may have made it one that blocks */
    if (preadv2(kick_fd, &place, 1, -1, RWF_NOWAIT) != sizeof count)
        return 0;
    ring->kicks++;
    return 1;
}

int vring_settle(vring *ring, int kick_fd)
{
    /* V4: drained before the last look */
    if (!vring_available(ring))
        vring_drain(ring, kick_fd);
    return vring_enable_kicks(ring);
}

void vring_disable_kicks(vring *ring)
{
    if (ready(ring))
        disarm_kicks(ring);
}

void vring_set_call(vring *ring, int call_fd)
{
    ring->call_fd = call_fd;
    if (call_fd >= 0 && ring->notify_pending && ring->running)
        send_signal(ring);
}

uint32_t vring_available(vring *ring)
{
    if (!ready(ring))
        return 0;
    uint32_t count = (uint16_t)(load_avail(ring) - ring->next_avail);
    return count < ring->size ? count : ring->size;
}

/* --- the guest's transmit queue ------------------------------------------- */

/* CHAIN_BROKEN and FILL_BROKEN are what break_ring() returns. */
enum { CHAIN_BROKEN = -1, CHAIN_DROPPED = 0, CHAIN_FRAME = 1, CHAIN_LATER = 2 };

/* Collects the frame of one chain at burst->pieces[pieces_used ...]. */
static int gather_chain(chain_walk *walk, frame_burst *burst, uint16_t head, uint32_t allowed, frame_offload *offload,
                        uint32_t *piece_count)
{
    vring *ring = walk->ring;
    frame_piece *pieces = burst->pieces + burst->pieces_used;
    uint32_t room = BURST_PIECES - burst->pieces_used;
    uint8_t header[NET_HEADER_MAX];
    uint32_t held = 0, count = 0;
    uint64_t total = 0;
    int more;
    if (walk_begin(walk, head) != 0)
        return CHAIN_BROKEN;
    do {
        descriptor current;
        if (walk_fetch(walk, &current) != 0)
            return CHAIN_BROKEN;
        if (current.flags & DESC_WRITE) /* D6 */
            return break_ring(ring, VRING_BAD_DIRECTION);
        total += current.length;
        if (total > CHAIN_BYTES_MAX) /* D6 */
            return break_ring(ring, VRING_TOO_LONG);
        uint64_t address = current.address;
        uint32_t left = current.length; /* D5: none of zero bytes is ever looked up */
        while (left) {
            uint32_t part;
            const uint8_t *at = reach(walk, address, left, &part);
            if (!at)
                return break_ring(ring, VRING_BAD_ADDRESS);
            left -= part;
            address += part;
            if (left && address == 0) /* R1: past the end of the address space */
                return break_ring(ring, VRING_BAD_ADDRESS);
            if (held < ring->header_size) { /* N2 */
                uint32_t some = ring->header_size - held < part ? ring->header_size - held : part;
                memcpy(header + held, at, some);
                held += some;
                at += some;
                part -= some;
            }
            if (part == 0)
                continue;
            if (count < room)
                pieces[count] = (frame_piece){at, part};
            count++;
        }
        more = walk_next(walk, &current);
        if (more < 0)
            return CHAIN_BROKEN;
    } while (more);

    if (total <= ring->header_size + ETHERNET_HEADER || total - ring->header_size > FRAME_BYTES_MAX) /* N1, N8 */
        return CHAIN_DROPPED;
    if (count > room)
        return burst->pieces_used ? CHAIN_LATER : CHAIN_DROPPED;
    /* 5.1.6.2.1: a driver never says that it verified a checksum, so we never believe it */
    header[0] &= (uint8_t)~VIRTIO_NET_HDR_F_DATA_VALID;
    if (virtio_net_header_parse(header, (uint32_t)total - ring->header_size, allowed, offload) != 0) /* N3, N4 */
        return CHAIN_DROPPED;
    *piece_count = count;
    return CHAIN_FRAME;
}

/* What the guest may ask us to do to its frames. */
static uint32_t negotiated_offloads(const vring *ring)
{
    if (!has(ring, VIRTIO_NET_F_CSUM))
        return 0; /* 5.1.3.1: the others need it */
    return OFFLOAD_CHECKSUM | (has(ring, VIRTIO_NET_F_HOST_TSO4) ? OFFLOAD_TSO4 : 0) |
           (has(ring, VIRTIO_NET_F_HOST_TSO6) ? OFFLOAD_TSO6 : 0);
}

int vring_receive(vring *ring, frame_burst *burst, uint32_t budget, int discard)
{
    if (!ready(ring))
        return ring->broken ? -1 : 0;
    uint32_t count = (uint16_t)(load_avail(ring) - ring->next_avail);
    if (count > ring->size - ring->outstanding) /* V6, D7 */
        return break_ring(ring, VRING_AVAIL_JUMP);
    uint32_t filled = burst->completions > burst->count ? burst->completions : burst->count;
    uint32_t limit = BURST_FRAMES - filled; /* T5 */
    if (limit > budget)
        limit = budget;
    if (limit > count)
        limit = count;

    chain_walk walk = {.ring = ring, .memory = ring->memory, .region = ring->memory->regions};
    uint32_t allowed = negotiated_offloads(ring);
    uint32_t taken = 0;
    for (; taken < limit; taken++) {
        uint16_t head = load_head(ring, ring->next_avail);
        if (discard) {
            if (head >= ring->size) /* D2 */
                return break_ring(ring, VRING_BAD_HEAD);
        } else {
            frame_offload offload;
            uint32_t piece_count;
            uint64_t bytes = burst->bytes;
            int result = gather_chain(&walk, burst, head, allowed, &offload, &piece_count);
            if (result == CHAIN_BROKEN)
                return -1;
            if (result == CHAIN_LATER)
                break;
            if (result == CHAIN_FRAME && burst_add(burst, piece_count, offload, MEDIUM_ETHERNET) >= 0) {
                ring->frames++;
                ring->bytes += burst->bytes - bytes;
            } else {
                ring->dropped++;
            }
        }
        burst->completed_heads[burst->completions++] = head;
        ring->next_avail++;
        ring->outstanding++;
    }
    ring->seen_avail = ring->next_avail;
    if (taken)
        ring->bursts++;
    if (taken && discard)
        vring_release(ring, burst, 0);
    return (int)taken;
}

int vring_release(vring *ring, frame_burst *burst, int quiet)
{
    uint32_t count = burst->completions;
    if (!ready(ring) || count > ring->outstanding) { /* T1: it may stem from before the ring's last start */
        burst_clear(burst);
        return ring->broken || count ? -1 : 0;
    }
    for (uint32_t i = 0; i < count; i++)
        store_used_element(ring, (uint16_t)(ring->next_used + i), burst->completed_heads[i], 0);
    burst_clear(burst);
    if (count == 0)
        return 0;
    ring->outstanding -= count;
    publish(ring, (uint16_t)(ring->next_used + count), quiet);
    return 0;
}

void vring_remind(vring *ring)
{
    if (ring->undecided && ready(ring))
        decide(ring);
}

/* --- the guest's receive queue -------------------------------------------- */

enum { FILL_BROKEN = -1, FILL_FEW = 0, FILL_ENOUGH = 1, FILL_NEVER = 2 };

/* Buffers on their way to one frame.  Nothing in it is committed: to rewind is to forget it (T4). */
typedef struct {
    uint16_t next_avail;
    uint16_t next_used;
    uint16_t avail;          /* available index as last seen */
    uint32_t piece_count;
    uint32_t buffers;
    uint64_t bytes;          /* room in them */
    uint32_t descriptors;    /* of the ring, held by these buffers */
    uint32_t longest;        /* most descriptors in one of them */
} buffer_fill;

/* Adds the next chain, whose used element goes into its slot ahead of the used index.  Walks only as far as
 * `needs` bytes, so a chain is read to its end exactly when it is too short. */
static int fill_from_chain(chain_walk *walk, buffer_fill *fill, uint64_t needs)
{
    vring *ring = walk->ring;
    frame_piece *pieces = ring->scratch->pieces;
    uint64_t wanted = needs - fill->bytes, room = 0;
    uint32_t count = fill->piece_count;
    uint16_t head = load_head(ring, fill->next_avail);
    int more;
    if (walk_begin(walk, head) != 0)
        return FILL_BROKEN;
    do {
        descriptor current;
        if (walk_fetch(walk, &current) != 0)
            return FILL_BROKEN;
        if (!(current.flags & DESC_WRITE)) /* D6 */
            return break_ring(ring, VRING_BAD_DIRECTION);
        room += current.length;
        uint64_t address = current.address;
        uint32_t left = current.length; /* D5 */
        while (left) {
            uint32_t part;
            uint8_t *at = reach(walk, address, left, &part);
            if (!at)
                return break_ring(ring, VRING_BAD_ADDRESS);
            left -= part;
            address += part;
            if (left && address == 0) /* R1 */
                return break_ring(ring, VRING_BAD_ADDRESS);
            if (count == VRING_PIECES)
                return FILL_NEVER;
            pieces[count++] = (frame_piece){at, part};
        }
        if (room >= wanted)
            break;
        more = walk_next(walk, &current);
        if (more < 0)
            return FILL_BROKEN;
    } while (more);

    if (room < wanted) {
        if (room < ring->header_size) /* N1; 5.1.6.3.1: each buffer holds at least the header */
            return break_ring(ring, VRING_RUNT);
        fill->descriptors += walk->ring_steps;
        if (fill->longest < walk->ring_steps)
            fill->longest = walk->ring_steps;
    }
    store_used_element(ring, fill->next_used, head, (uint32_t)(room < wanted ? room : wanted));
    fill->piece_count = count;
    fill->bytes += room;
    fill->buffers++;
    fill->next_avail++;
    fill->next_used++;
    return FILL_ENOUGH;
}

/* Looks for buffers that came since; when there are none, leaves kicks armed for the first that does. */
static int look_again(vring *ring, buffer_fill *fill)
{
    arm_kicks(ring, fill->avail);
    uint16_t avail = load_avail(ring);
    uint16_t offered = (uint16_t)(avail - ring->next_avail), taken = (uint16_t)(fill->next_avail - ring->next_avail);
    if (offered > ring->size || offered < taken) /* V6, D7; and what was offered stays so */
        return break_ring(ring, VRING_AVAIL_JUMP);
    int came = avail != fill->avail;
    fill->avail = avail;
    return came ? FILL_ENOUGH : FILL_FEW;
}

/* Finds room for `needs` bytes: as many buffers as it takes, or one when they don't merge (5.1.6.3.2). */
static int fill_buffers(chain_walk *walk, buffer_fill *fill, uint64_t needs, int mergeable)
{
    vring *ring = walk->ring;
    while (fill->bytes < needs) {
        if (fill->buffers && !mergeable)
            return FILL_NEVER; /* N6 */
        int result;
        if (fill->next_avail != fill->avail) {
            result = fill_from_chain(walk, fill, needs);
        } else if (fill->buffers && fill->descriptors + fill->longest > ring->size) {
            /* N6: the guest has no descriptors left to offer another such buffer with */
            return FILL_NEVER;
        } else {
            result = look_again(ring, fill);
        }
        if (result != FILL_ENOUGH)
            return result;
    }
    return FILL_ENOUGH;
}

/* Copies the net header, the frame's headers and its payload into the collected pieces. */
static void write_frame(const vring *ring, const buffer_fill *fill, const rendered_frame *frame)
{
    uint8_t head[NET_HEADER_MAX + SEGMENT_HEADER_MAX];
    virtio_net_header_emit(head, ring->header_size, frame, (uint16_t)fill->buffers); /* N7 */
    memcpy(head + ring->header_size, frame->header, frame->header_length);
    frame_piece sources[3] = {{head, ring->header_size + frame->header_length}};
    uint32_t source_count = 1;
    for (uint32_t i = 0; i < frame->piece_count; i++)
        sources[source_count++] = frame->pieces[i];

    const frame_piece *piece = ring->scratch->pieces;
    uint8_t *to = (uint8_t *)(uintptr_t)piece->base;
    uint32_t room = piece->length;
    for (uint32_t i = 0; i < source_count; i++) {
        const uint8_t *from = sources[i].base;
        uint32_t left = sources[i].length;
        while (left) {
            if (room == 0) {
                piece++;
                to = (uint8_t *)(uintptr_t)piece->base;
                room = piece->length;
            }
            uint32_t part = left < room ? left : room;
            memcpy(to, from, part);
            to += part;
            room -= part;
            from += part;
            left -= part;
        }
    }
}

int vring_transmit(vring *ring, segment_batch *batch, const link_limits *limits)
{
    if (!ready(ring))
        return ring->broken ? -1 : 1;
    uint16_t next_avail = ring->next_avail, next_used = ring->next_used;
    uint16_t avail = load_avail(ring);
    if ((uint16_t)(avail - next_avail) > ring->size) /* V6, D7 */
        return break_ring(ring, VRING_AVAIL_JUMP);
    chain_walk walk = {.ring = ring, .memory = ring->memory, .region = ring->memory->regions};
    int mergeable = has(ring, VIRTIO_NET_F_MRG_RXBUF);
    int result = 0;
    rendered_frame frame;
    while (batch->next < batch->count) {
        const segment *item = &batch->segments[batch->next];
        uint32_t frame_count = segment_frame_count(item, limits);
        if (segment_render(item, batch->next_frame, limits, &frame) != 0) {
            ring->dropped++;
            batch_step(batch, NULL, 0);
            continue;
        }
        buffer_fill fill = {.next_avail = next_avail, .next_used = next_used, .avail = avail};
        int filled = fill_buffers(&walk, &fill, (uint64_t)ring->header_size + frame.length, mergeable);
        avail = fill.avail;
        if (filled == FILL_BROKEN)
            return -1;
        if (filled == FILL_FEW) {
            result = 1;
            break;
        }
        if (filled == FILL_NEVER) {
            ring->dropped++;
            batch_step(batch, NULL, frame_count);
            continue;
        }
        write_frame(ring, &fill, &frame);
        next_avail = fill.next_avail;
        next_used = fill.next_used;
        ring->frames++;
        ring->bytes += frame.length;
        batch_step(batch, &frame, frame_count);
    }
    int some = next_avail != ring->next_avail;
    ring->next_avail = next_avail;
    ring->seen_avail = result ? avail : next_avail;
    if (some) {
        ring->bursts++;
        publish(ring, next_used, 0);
    }
    if (result == 0 && ring->kicks_enabled)
        disarm_kicks(ring);
    return result;
}
