/* A burst of received frames, decoded into flat records in one call.
 *
 * The payload of a frame stays where the device put it (guest memory, or the
 * burst's arena) and is copied once, by burst_to_ring() or burst_copy().  The
 * headers are copied out first and only the copy is ever parsed, so a guest
 * that rewrites its memory under us cannot change what was checked. */
#pragma once
#include <stdint.h>
#include "byte_ring.h"

#define BURST_FRAMES 64
#define BURST_PIECES 4096
#define BURST_HEADER_BYTES 256
#define BURST_ARENA_BYTES 1048576
#define FRAME_BYTES_MAX 65600

/* frame_offload.checksum */
#define CHECKSUM_UNVERIFIED 0
#define CHECKSUM_PARTIAL 1 /* VIRTIO_NET_HDR_F_NEEDS_CSUM: the sender trusts the path */
#define CHECKSUM_VALID 2   /* VIRTIO_NET_HDR_F_DATA_VALID */

/* frame_offload.gso_type, the numbers of virtio_net_hdr */
#define GSO_NONE 0
#define GSO_TCPV4 1
#define GSO_TCPV6 4

/* what carries the frames */
#define MEDIUM_IP 0       /* no link header */
#define MEDIUM_ETHERNET 1

/* frame_record.verdict: 0 or the reason to drop.  The order is that of DropReason in Python. */
#define FRAME_OK 0
#define FRAME_TRUNCATED 1
#define FRAME_BAD_ETHERTYPE 2
#define FRAME_BAD_IP_VERSION 3
#define FRAME_BAD_IP_HEADER 4
#define FRAME_BAD_IP_CHECKSUM 5
#define FRAME_BAD_EXTENSION 6
#define FRAME_BAD_TRANSPORT_HEADER 7
#define FRAME_BAD_TRANSPORT_CHECKSUM 8
#define FRAME_BAD_OPTIONS 9
#define FRAME_HEADERS_TOO_LONG 10
#define FRAME_BAD_OFFLOAD 11
#define FRAME_BAD_SOURCE 12
#define FRAME_MERGED 13 /* not a fault: its payload belongs to an earlier frame's run */
#define FRAME_TAKEN 14  /* not a fault: tcp_flow.c has taken it in */

/* frame_record.flags */
#define FRAME_LINK_BROADCAST 1
#define FRAME_LINK_MULTICAST 2
#define FRAME_FRAGMENT 4        /* the IP payload is one fragment; the transport header was not looked at */
#define FRAME_HOP_BY_HOP_ALERT 8
#define FRAME_UNKNOWN_PROTOCOL 16
#define FRAME_CHECKSUM_TRUSTED 32

/* frame_record.options: which TCP options are there */
#define TCP_HAS_TIMESTAMPS 1
#define TCP_HAS_SACK 2
#define TCP_HAS_OTHERS 4        /* MSS, window scale, SACK permitted: read them from the header copy */

typedef struct {
    uint8_t local[16];         /* destination address; IPv4 as ::ffff:a.b.c.d */
    uint8_t remote[16];        /* source address */
    uint16_t local_port;       /* network byte order: local..remote_port is the flow's key */
    uint16_t remote_port;
    uint16_t verdict;          /* host byte order from here on */
    uint16_t ethertype;        /* 0x0800 and 0x86dd also on MEDIUM_IP */
    uint8_t protocol;          /* IP protocol after extension headers */
    uint8_t hop_limit;
    uint8_t traffic_class;     /* TOS */
    uint8_t flags;
    uint8_t tcp_flags;
    uint8_t options;
    uint16_t window;           /* as on the wire, not scaled */
    uint16_t network_offset;   /* of the IP (or ARP) header */
    uint16_t transport_offset; /* of the transport header, or of the fragment's data */
    uint16_t payload_offset;   /* of the transport payload */
    uint16_t segment_size;     /* gso_size when this is a super-segment, else 0 */
    uint32_t payload_length;
    uint32_t frame_length;     /* without link padding */
    uint32_t seq;
    uint32_t ack;
    uint32_t ts_val;
    uint32_t ts_ecr;
    uint16_t fragment_offset;  /* bytes, when FRAME_FRAGMENT */
    uint16_t more_fragments;
    uint32_t identification;
    uint16_t run;              /* frames after this one whose payload continues it (burst_merge_runs) */
    uint16_t reserved;
} frame_record;

typedef struct {
    const uint8_t *base;
    uint32_t length;
} frame_piece;

typedef struct {
    uint8_t checksum;
    uint8_t gso_type;
    uint16_t gso_size;
} frame_offload;

typedef struct {
    uint32_t count;
    uint32_t pieces_used;
    uint64_t arena_used;
    uint64_t bytes;                              /* of all frames */
    frame_record records[BURST_FRAMES];
    frame_offload offloads[BURST_FRAMES];
    uint32_t first_piece[BURST_FRAMES];
    uint32_t piece_count[BURST_FRAMES];
    uint32_t completions;                        /* chains taken so far, frames or not */
    uint16_t completed_heads[BURST_FRAMES];      /* chains to give back, in order */
    uint8_t headers[BURST_FRAMES][BURST_HEADER_BYTES];
    frame_piece pieces[BURST_PIECES];
    uint8_t *arena;                              /* BURST_ARENA_BYTES, or NULL */
} frame_burst;

frame_burst *burst_new(int with_arena);
void burst_free(frame_burst *burst);
void burst_clear(frame_burst *burst);

/* Adds one frame, whose pieces the caller has put at
 * burst->pieces[burst->pieces_used ...], and decodes it.  Returns its index,
 * or -1 when the burst is full.  A bad frame is added too, with its verdict. */
int burst_add(frame_burst *burst, uint32_t piece_count, frame_offload offload, int medium);

/* burst_add() for one contiguous frame that outlives the burst. */
int burst_add_bytes(frame_burst *burst, const uint8_t *frame, uint32_t length, frame_offload offload, int medium);

/* Copies bytes of frame `index` from `offset`; returns how many there were. */
uint32_t burst_copy(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length, uint8_t *destination);

/* Joins consecutive segments of one flow that continue each other and say nothing else: the first one's record then
 * stands for all, with the summed payload, the last acknowledgment and window, and the first timestamp. */
void burst_merge_runs(frame_burst *burst);

/* The same into a ring, at a position (byte_ring_store); payload goes on through the frames of a run. */
uint32_t burst_to_ring(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length, byte_ring *ring, uint64_t position);

/* In-order payload: stores at tail and advances it. */
uint32_t burst_append_to_ring(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length, byte_ring *ring);

/* The answer to an echo request (RFC 792, RFC 4443 4.2), back to the station it came from: a whole frame in `out`, which
 * has room for FRAME_BYTES_MAX.  Returns its length, or 0 when the frame is no plain request (IP options and fragments
 * take the long way). */
uint32_t burst_echo_reply(const frame_burst *burst, uint32_t index, int medium, uint8_t hop_limit, uint8_t *out);
