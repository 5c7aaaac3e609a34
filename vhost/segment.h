/* Outgoing packets as flat descriptors, and their rendering into frames.
 *
 * A segment names a path (who to whom), header fields and where its payload
 * lies; a link says what it can take.  A super-segment becomes as few frames
 * with offload metadata as the link takes it in, and one frame a segment
 * elsewhere. */
#pragma once
#include <stdint.h>
#include "byte_ring.h"
#include "frame.h"

#define BATCH_SEGMENTS 64
#define SEGMENT_HEADER_MAX 160 /* Ethernet 14, IPv6 40, TCP 60, rounded up */

/* segment.kind */
#define SEGMENT_TCP 1
#define SEGMENT_UDP 2
#define SEGMENT_FRAME 3  /* `data` is a whole frame, link header included */

/* link_limits.offloads: what the other end of the link takes from us */
#define OFFLOAD_CHECKSUM 1
#define OFFLOAD_TSO4 2
#define OFFLOAD_TSO6 4

typedef struct {
    uint8_t local[16];   /* IPv4 as ::ffff:a.b.c.d */
    uint8_t remote[16];
    uint16_t local_port; /* host byte order */
    uint16_t remote_port;
    uint8_t link_source[6];
    uint8_t link_destination[6];
    uint8_t hop_limit;
    uint8_t traffic_class;
    uint16_t identification; /* of the next IPv4 packet; counts up */
    uint32_t flow_label;
    double link_known_until; /* by the stack's clock: until then nobody has to be asked for link_destination, unless */
    uint64_t link_known_in;  /* this is not flow_table.links any more */
    uint64_t link_number;    /* the interface that it leads through */
} flow_path;

typedef struct {
    uint64_t path;         /* flow_path *, not for SEGMENT_FRAME */
    uint64_t ring;         /* byte_ring * that holds the payload, or 0 */
    uint64_t position;     /* of the first payload byte in the ring */
    uint64_t data;         /* const uint8_t *: payload or frame when ring is 0 */
    uint32_t length;       /* payload bytes (or frame bytes) */
    uint32_t seq;
    uint32_t ack;
    uint16_t window;       /* as on the wire */
    uint16_t segment_size; /* payload bytes a frame may carry; longer is a super-segment */
    uint8_t kind;
    uint8_t tcp_flags;
    uint8_t ecn;           /* or-ed into the traffic class */
    uint8_t options_length; /* multiple of 4 */
    uint8_t options[40];
    uint8_t reserved[4];
} segment;

typedef struct {
    uint32_t count;     /* segments that are there */
    uint32_t next;      /* first one not yet sent whole */
    uint32_t next_frame; /* frames of it that went out already */
    uint32_t frames;    /* frames sent since batch_clear() */
    uint64_t bytes;     /* of those frames */
    segment segments[BATCH_SEGMENTS];
} segment_batch;

typedef struct {
    uint32_t medium;   /* MEDIUM_* */
    uint32_t offloads; /* OFFLOAD_* */
    uint32_t frame_max; /* longest frame the link carries, super-segments included */
} link_limits;

typedef struct {
    uint32_t length;        /* of the whole frame */
    uint32_t header_length; /* bytes in `header` */
    uint32_t piece_count;   /* payload pieces */
    frame_piece pieces[2];
    uint8_t needs_checksum; /* then the field holds the pseudo-header sum */
    uint8_t gso_type;
    uint16_t gso_size;
    uint16_t checksum_start;
    uint16_t checksum_offset;
    uint8_t header[SEGMENT_HEADER_MAX];
} rendered_frame;

/* How many frames the segment makes on that link; 0 when it can't be sent. */
uint32_t segment_frame_count(const segment *item, const link_limits *limits);

/* Makes frame number `index`.  Returns 0, or -1 when there is no such frame.
 * The payload pieces point into the segment's ring or data. */
int segment_render(const segment *item, uint32_t index, const link_limits *limits, rendered_frame *out);

/* Renders the next frame of the batch into contiguous memory and steps on.
 * Returns its length, 0 when the batch is done, -1 when it does not fit. */
int64_t batch_next_frame(segment_batch *batch, const link_limits *limits, uint8_t *destination, uint64_t room, rendered_frame *out);

/* Steps past the frame that segment_render() made for (next, next_frame). */
void batch_step(segment_batch *batch, const rendered_frame *sent, uint32_t frame_count);

/* Moves what is left of the batch into a burst, as a link does whose ends are the same host: headers are rendered into
 * the burst's arena, payload stays where it is and must stay until the burst is done with.  Returns how many frames
 * were added; fewer than there were when the burst is full. */
uint32_t batch_to_burst(segment_batch *batch, const link_limits *limits, frame_burst *burst);

/* An IP packet (no link header) of one segment, checksums complete, for a
 * packet that has to wait for its neighbour.  Returns its length or -1. */
int64_t segment_packet(const segment *item, uint8_t *destination, uint64_t room);
