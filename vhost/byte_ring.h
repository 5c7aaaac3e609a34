/* A byte ring addressed by absolute positions: the send or receive queue of
 * one connection.  A position is the number of bytes that ever went before. */
#pragma once
#include <stdint.h>

typedef struct {
    uint8_t *data;
    uint64_t capacity; /* bytes */
    uint64_t origin;   /* position that lies at data[0] (modulo capacity) */
    uint64_t head;     /* position of the oldest byte still held */
    uint64_t tail;     /* position after the newest byte in order */
    uint64_t furthest; /* position after the newest byte written, in order or not */
    uint64_t touched;  /* not 0: memory was written to since byte_ring_trim() */
} byte_ring;

/* Maps the memory of a zeroed ring; 0, or -1 when there is none. */
int byte_ring_open(byte_ring *ring, uint64_t capacity);

/* Gives it back.  The ring is zeroed: whoever still looks at it finds it empty and without room. */
void byte_ring_close(byte_ring *ring);

/* Appends at tail; returns how many bytes fitted. */
uint64_t byte_ring_write(byte_ring *ring, const uint8_t *source, uint64_t length);

/* Stores bytes at `position` without moving tail (data that arrived out of
 * order).  What lies outside [head, head + capacity) is left out; returns the
 * number of bytes stored. */
uint64_t byte_ring_store(byte_ring *ring, uint64_t position, const uint8_t *source, uint64_t length);

/* Declares `length` stored bytes after tail to be in order. */
void byte_ring_advance(byte_ring *ring, uint64_t length);

/* Copies from head + offset; returns how many bytes there were. */
uint64_t byte_ring_peek(const byte_ring *ring, uint64_t offset, uint8_t *destination, uint64_t length);

/* Drops bytes at head. */
void byte_ring_consume(byte_ring *ring, uint64_t length);

/* peek + consume. */
uint64_t byte_ring_read(byte_ring *ring, uint8_t *destination, uint64_t length);

/* Moves up to `length` bytes between a file descriptor and the ring; at
 * `offset` of the file, or at its own position when offset is -1.  Returns
 * bytes moved, 0 at end of file or when there is no room, or -errno. */
int64_t byte_ring_fill_from_fd(byte_ring *ring, int fd, int64_t offset, uint64_t length);
int64_t byte_ring_drain_to_fd(byte_ring *ring, int fd, uint64_t length);

/* Gives the memory of an empty ring back to the system; it costs a page fault when it is used again.  Returns whether
 * there was any. */
int byte_ring_trim(byte_ring *ring);

/* The contiguous piece that starts at `position`; its length goes to *length
 * (at most the value passed in). */
uint8_t *byte_ring_piece(const byte_ring *ring, uint64_t position, uint32_t *length);
