#include "byte_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

/* Page-backed so that an idle connection's ring costs no memory until it is
 * used, and so that closing it gives the pages back. */
int byte_ring_open(byte_ring *ring, uint64_t capacity)
{
    if (capacity < 4096 || capacity > (1ull << 32) || (capacity & (capacity - 1)))
        return -1;
    void *data = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return -1;
    ring->data = data;
    ring->capacity = capacity;
    return 0;
}

void byte_ring_close(byte_ring *ring)
{
    if (ring->data)
        munmap(ring->data, ring->capacity);
    memset(ring, 0, sizeof *ring);
}

/* An empty ring starts again at data[0]: a reader that keeps up then works in
 * the same few cache lines and pages for ever. */
static void rewind_if_empty(byte_ring *ring)
{
    if (ring->head == ring->tail && ring->furthest <= ring->tail)
        ring->origin = ring->head;
}

uint8_t *byte_ring_piece(const byte_ring *ring, uint64_t position, uint32_t *length)
{
    uint64_t index = (position - ring->origin) & (ring->capacity - 1);
    uint64_t contiguous = ring->capacity - index;
    if (contiguous < *length)
        *length = (uint32_t)contiguous;
    return ring->data + index;
}

static void copy_in(byte_ring *ring, uint64_t position, const uint8_t *source, uint64_t length)
{
    if (!length)
        return;
    uint64_t index = (position - ring->origin) & (ring->capacity - 1);
    uint64_t first = ring->capacity - index;
    if (first > length)
        first = length;
    memcpy(ring->data + index, source, first);
    memcpy(ring->data, source + first, length - first);
    ring->touched = 1;
}

int byte_ring_trim(byte_ring *ring)
{
    if (!ring->touched || ring->head != ring->tail || ring->furthest > ring->tail)
        return 0;
    ring->touched = 0;
    return madvise(ring->data, ring->capacity, MADV_DONTNEED) == 0;
}

static void wrote_until(byte_ring *ring, uint64_t position)
{
    if (position > ring->furthest)
        ring->furthest = position;
}

uint64_t byte_ring_write(byte_ring *ring, const uint8_t *source, uint64_t length)
{
    uint64_t room = ring->capacity - (ring->tail - ring->head);
    if (length > room)
        length = room;
    copy_in(ring, ring->tail, source, length);
    ring->tail += length;
    wrote_until(ring, ring->tail);
    return length;
}

uint64_t byte_ring_store(byte_ring *ring, uint64_t position, const uint8_t *source, uint64_t length)
{
    uint64_t end = ring->head + ring->capacity;
    if (position < ring->head) {
        uint64_t skip = ring->head - position;
        if (skip >= length)
            return 0;
        source += skip;
        length -= skip;
        position = ring->head;
    }
    if (position >= end)
        return 0;
    if (length > end - position)
        length = end - position;
    copy_in(ring, position, source, length);
    wrote_until(ring, position + length);
    return length;
}

void byte_ring_advance(byte_ring *ring, uint64_t length)
{
    uint64_t room = ring->capacity - (ring->tail - ring->head);
    ring->tail += length < room ? length : room;
    wrote_until(ring, ring->tail);
}

uint64_t byte_ring_peek(const byte_ring *ring, uint64_t offset, uint8_t *destination, uint64_t length)
{
    uint64_t held = ring->tail - ring->head;
    if (offset >= held)
        return 0;
    if (length > held - offset)
        length = held - offset;
    uint64_t index = (ring->head + offset - ring->origin) & (ring->capacity - 1);
    uint64_t first = ring->capacity - index;
    if (first > length)
        first = length;
    memcpy(destination, ring->data + index, first);
    memcpy(destination + first, ring->data, length - first);
    return length;
}

void byte_ring_consume(byte_ring *ring, uint64_t length)
{
    uint64_t held = ring->tail - ring->head;
    ring->head += length < held ? length : held;
    rewind_if_empty(ring);
}

uint64_t byte_ring_read(byte_ring *ring, uint8_t *destination, uint64_t length)
{
    uint64_t got = byte_ring_peek(ring, 0, destination, length);
    byte_ring_consume(ring, got);
    return got;
}

static int split(const byte_ring *ring, uint64_t position, uint64_t length, struct iovec *vectors)
{
    uint64_t index = (position - ring->origin) & (ring->capacity - 1);
    uint64_t first = ring->capacity - index;
    if (first > length)
        first = length;
    vectors[0].iov_base = ring->data + index;
    vectors[0].iov_len = first;
    vectors[1].iov_base = ring->data;
    vectors[1].iov_len = length - first;
    return length > first ? 2 : 1;
}

int64_t byte_ring_fill_from_fd(byte_ring *ring, int fd, int64_t offset, uint64_t length)
{
    uint64_t room = ring->capacity - (ring->tail - ring->head);
    if (length > room)
        length = room;
    if (length == 0)
        return 0;
    struct iovec vectors[2];
    int count = split(ring, ring->tail, length, vectors);
    ssize_t got = offset < 0 ? readv(fd, vectors, count) : preadv(fd, vectors, count, offset);
    if (got < 0)
        return -errno;
    ring->tail += (uint64_t)got;
    ring->touched = 1;
    wrote_until(ring, ring->tail);
    return got;
}

int64_t byte_ring_drain_to_fd(byte_ring *ring, int fd, uint64_t length)
{
    uint64_t held = ring->tail - ring->head;
    if (length > held)
        length = held;
    if (length == 0)
        return 0;
    struct iovec vectors[2];
    int count = split(ring, ring->head, length, vectors);
    ssize_t sent = writev(fd, vectors, count);
    if (sent < 0)
        return -errno;
    byte_ring_consume(ring, (uint64_t)sent);
    return sent;
}
