/* Frames over a file descriptor: TAP and TUN (with or without virtio_net_hdr),
 * datagram sockets (a frame each) and stream sockets (32-bit length first). */
#pragma once
#include <stdint.h>
#include "frame.h"
#include "segment.h"

#define FD_LINK_PACKETS 0 /* one read or write is one frame */
#define FD_LINK_STREAM 1  /* big-endian 32-bit length before each frame */

typedef struct {
    int fd;
    uint32_t mode;
    uint32_t medium;
    uint32_t header_size;      /* of virtio_net_hdr: 0, 10 or 12 */
    uint32_t allowed_offloads; /* OFFLOAD_* that we may receive */
    uint64_t frames_received;
    uint64_t frames_sent;
    uint64_t bytes_received;
    uint64_t bytes_sent;
    uint64_t dropped;
    uint8_t *partial;          /* stream: bytes that were read but are not in a burst yet */
    uint32_t partial_start;
    uint32_t partial_length;
    uint8_t *unsent;           /* stream: rest of a frame that a short write left */
    uint32_t unsent_length;
    uint32_t unsent_offset;
} fd_link;

fd_link *fd_link_new(int fd, uint32_t mode, uint32_t medium, uint32_t header_size, uint32_t allowed_offloads);
void fd_link_free(fd_link *link); /* does not close the descriptor */

/* Fills the burst (which needs an arena).  Returns frames read, 0 when there
 * was nothing to read, -1 at end of file, or -errno. */
int fd_link_receive(fd_link *link, frame_burst *burst);

/* Sends the batch.  Returns 0 when all went, 1 when the descriptor would
 * block, or -errno. */
int fd_link_transmit(fd_link *link, segment_batch *batch, const link_limits *limits);
