/* One descriptor chain, walked from the device's side: a private part of
 * vring.c.  Read first: VIRTIO 1.2, 2.7.5.  Whatever a guest can write is read
 * once, into a local, and checked there (D1); so many steps and no more. */
#pragma once
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "vring.h"

enum {
    DESC_NEXT = 1,
    DESC_WRITE = 2,
    DESC_INDIRECT = 4,
    DESCRIPTOR_BYTES = 16,
};

typedef struct {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
} descriptor;

static inline int has(const vring *ring, int feature)
{
    return ring->features >> feature & 1;
}

/* Adds one to an eventfd.  A full counter (EAGAIN) has its reader awake already (T3). */
static inline void poke(int fd)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(fd, &one, sizeof one);
    while (written < 0 && errno == EINTR);
}

/* D8: nothing of this ring is read or written any more; other rings go on. */
static inline int break_ring(vring *ring, uint32_t reason)
{
    ring->broken = reason;
    if (ring->err_fd >= 0)
        poke(ring->err_fd);
    return -1;
}

typedef struct {
    vring *ring;
    const guest_memory *memory;
    const memory_region *region; /* where the last address was found */
    const uint8_t *table;        /* NULL: an indirect table that lies in several regions */
    uint64_t table_address;      /* of an indirect table */
    uint32_t table_size;         /* descriptors */
    uint32_t index;
    uint32_t steps;              /* taken in this table */
    uint32_t ring_steps;         /* descriptors of the ring itself, once the chain has been walked */
    int indirect;
} chain_walk;

/* The part of [address, address + length) that lies in the first byte's region (R3). */
static inline uint8_t *reach(chain_walk *walk, uint64_t address, uint32_t length, uint32_t *part)
{
    const memory_region *region = walk->region;
    uint64_t offset = address - region->guest_address;
    if (__builtin_expect(offset >= region->size, 0)) { /* also when the address is below: the difference wraps */
        region = guest_memory_find(walk->memory, address);
        if (!region)
            return NULL;
        walk->region = region;
        offset = address - region->guest_address;
    }
    uint64_t rest = region->size - offset;
    *part = length < rest ? length : (uint32_t)rest;
    return region->host + offset;
}

/* D1: one read of 16 bytes, which need not be aligned in an indirect table. */
static inline descriptor load_descriptor(const uint8_t *at)
{
    typedef uint64_t word __attribute__((aligned(1), may_alias));
    const volatile word *words = (const volatile word *)(const void *)at;
    union {
        uint64_t words[2];
        descriptor fields;
    } local = {{words[0], words[1]}};
    return local.fields;
}

/* A descriptor of a table that enter_indirect() found to be mapped, in pieces. */
static inline descriptor load_scattered(chain_walk *walk, uint64_t address)
{
    union {
        uint8_t bytes[DESCRIPTOR_BYTES];
        descriptor fields;
    } local = {{0}};
    for (uint32_t i = 0; i < DESCRIPTOR_BYTES; i++) {
        uint32_t part;
        const volatile uint8_t *byte = reach(walk, address + i, 1, &part);
        if (byte)
            local.bytes[i] = *byte;
    }
    return local.fields;
}

/* D4 */
static inline int enter_indirect(chain_walk *walk, descriptor from)
{
    vring *ring = walk->ring;
    uint32_t limit = ring->size > VRING_INDIRECT_MAX ? ring->size : VRING_INDIRECT_MAX;
    if (!has(ring, VIRTIO_F_INDIRECT_DESC) || walk->indirect || (from.flags & DESC_NEXT))
        return break_ring(ring, VRING_BAD_INDIRECT);
    if (from.length == 0 || from.length % DESCRIPTOR_BYTES || from.length / DESCRIPTOR_BYTES > limit)
        return break_ring(ring, VRING_BAD_INDIRECT);
    uint32_t part;
    const uint8_t *table = reach(walk, from.address, from.length, &part);
    if (!table)
        return break_ring(ring, VRING_BAD_INDIRECT);
    if (part < from.length) {
        table = NULL;
        uint64_t address = from.address;
        for (uint32_t left = from.length; left > part;) {
            left -= part;
            address += part;
            if (address == 0 || !reach(walk, address, left, &part))
                return break_ring(ring, VRING_BAD_INDIRECT);
        }
    }
    walk->table = table;
    walk->table_address = from.address;
    walk->table_size = from.length / DESCRIPTOR_BYTES;
    walk->index = 0;
    walk->ring_steps = walk->steps;
    walk->steps = 0;
    walk->indirect = 1;
    return 0;
}

static inline int walk_begin(chain_walk *walk, uint16_t head)
{
    vring *ring = walk->ring;
    if (head >= ring->size) /* D2 */
        return break_ring(ring, VRING_BAD_HEAD);
    walk->table = ring->desc;
    walk->table_size = ring->size;
    walk->index = head;
    walk->steps = 0;
    walk->indirect = 0;
    return 0;
}

/* Reads the descriptor at `index`, through the indirect table if there is one. */
static inline int walk_fetch(chain_walk *walk, descriptor *out)
{
    for (;;) {
        if (walk->steps++ >= walk->table_size) /* D3 */
            return break_ring(walk->ring, VRING_LOOP);
        if (__builtin_expect(walk->table != NULL, 1))
            *out = load_descriptor(walk->table + DESCRIPTOR_BYTES * (uint64_t)walk->index);
        else
            *out = load_scattered(walk, walk->table_address + DESCRIPTOR_BYTES * (uint64_t)walk->index);
        if (!(out->flags & DESC_INDIRECT)) /* its WRITE flag means nothing (2.7.5.3.2) */
            return 0;
        if (enter_indirect(walk, *out) != 0)
            return -1;
    }
}

/* 1: there is another descriptor, 0: the chain ends here, -1: broken. */
static inline int walk_next(chain_walk *walk, const descriptor *current)
{
    if (!(current->flags & DESC_NEXT)) {
        if (!walk->indirect)
            walk->ring_steps = walk->steps;
        return 0;
    }
    if (current->next >= walk->table_size) /* D2 */
        return break_ring(walk->ring, VRING_BAD_NEXT);
    walk->index = current->next;
    return 1;
}
