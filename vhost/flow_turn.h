/* A turn of a transfer to the guest, while Python sleeps: acknowledgments come in, what they make room for goes out.
 *
 * Python is told of what only it can do: that a writer may go on, that a timer is earlier, that a flow has to be taken
 * back.  Bursts with anything else in them are left where they are.  Read first: tcp_flow.h, vring.h. */
#pragma once
#include <stdint.h>
#include "frame.h"
#include "segment.h"
#include "tcp_flow.h"
#include "vring.h"

typedef struct {
    flow_table *table;
    frame_burst *burst;   /* the device's */
    segment_batch *batch; /* the device's; not empty while the guest has no buffers for the rest */
    uint64_t link_number; /* of the device's interface */
    int kick;             /* the kick descriptors of the guest's transmit and receive queue */
    int back_kick;
    uint32_t output_waits; /* Python has something to send after what is in `batch` */
    const tcp_flow *due;  /* whose timer Python was going to look at first, or NULL */
    double due_after;     /* when it has to look at another */
    /* Interrupt moderation, as in device.py: after bulk data the ring is looked at again after a rest instead of a kick, which
     * is as long as it takes for about `rest_bytes` to gather, within bounds (seconds; at most 0: never). */
    uint32_t bulk_bytes;
    uint32_t rest_bytes;
    double rest_min;
    double rest_max;
    double rest;
    uint64_t moved;       /* bytes since the last rest, or since the ring was empty */
    double look_at;       /* INFINITY: when it kicks */
    uint32_t unsettled;   /* its kicks are disabled */
    uint32_t more;        /* there are frames left that perhaps no kick tells of */
    double remind_at;     /* INFINITY, or when the guest has to be told of what it has been given back quietly */
    uint32_t left;        /* frames of `burst` that Python has to look at; it has not been given back then */
    uint32_t news_count;  /* in `news`: FLOW_WRITABLE, FLOW_EARLIER, FLOW_OUTPUT by the flows' numbers */
    flow_news news[BURST_FRAMES];
    /* since Python has last asked, the bursts that are left to it not included */
    double made_at;       /* the last one, by the stack's clock */
    uint64_t turns;
    uint64_t bursts_received;
    uint64_t frames_received;
    uint64_t bytes_received;
    uint64_t segments_received;
    uint64_t segments_added;
    uint64_t bursts_sent;
    uint64_t frames_sent;
    uint64_t bytes_sent;
} flow_turn;

#define TURN_NONE 0 /* there was nothing in the ring, or something else: nothing has happened */
#define TURN_MADE 1
#define TURN_NEWS 2 /* and Python has to be told of something before the next one */
#define TURN_LEFT 3 /* and has to look at what is left in the ring, too */

/* When a timer expires that Python has to see to, where `due` is known. */
double flow_turn_deadline(const flow_turn *turn);

/* Kicks are enabled again, if they are not; `more` tells whether that came too late. */
void flow_turn_settle(flow_turn *turn, vring *ring);

/* Signals what was given back quietly. */
void flow_turn_remind(flow_turn *turn, vring *ring);

/* `ring` is the guest's transmit queue, with an event index. */
int flow_turn_make(flow_turn *turn, vring *ring, vring *back, const link_limits *limits, double now);
