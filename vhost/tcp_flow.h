/* The common case of an established TCP connection, while Python has lent it to the data plane.
 *
 * Python is the reference: src/swos_net/tcp decides everything, and this file only what it decides for the next expected
 * segment, for data that the windows have room for and for the acknowledgments of both.  Whatever else happens, the
 * function returns "not mine" with nothing touched, and Python takes the connection back first.
 *
 * Sequence numbers count on beyond 2^32 as in seqnum.py; times are seconds of the stack's clock, INFINITY for a timer
 * that is not set. */
#pragma once
#include <stdint.h>
#include "byte_ring.h"
#include "frame.h"
#include "segment.h"

#define FLOW_TRANSMISSIONS 16

/* what a call has to say: tcp_flow.news, flow_table.news, the result of flow_receive(); readiness as in poll(2) */
#define FLOW_READABLE 1  /* text has come */
#define FLOW_OUTPUT 2    /* flow_table_transmit() has something to look at */
#define FLOW_WRITABLE 4  /* a writer that had to wait may go on */
#define FLOW_EARLIER 8   /* the deadline is earlier than `scheduled` */
#define FLOW_NOT_MINE 16 /* Python has to see to it */

typedef struct {
    uint64_t start; /* sequence space [start, end), sent once */
    uint64_t end;
    double sent_at;
} flow_transmission;

/* The latest round trip to one host, by whichever connection (RFC 9040; ensemble.py). */
typedef struct {
    double rtt;
    double measured_at;
    uint64_t measured_by;
} flow_ensemble;

/* A row of 64-bit fields, which Python packs and unpacks in one go.  Names are those of tcb.py, rtt.py, recovery_state.py and
 * timers.py. */
typedef struct {
    uint64_t send_ring; /* byte_ring * */
    uint64_t receive_ring;
    uint64_t path;      /* flow_path * */
    uint64_t ensemble;  /* flow_ensemble *, or 0 */
    uint64_t identity;  /* for ensemble.measured_by */
    /* agreed or configured: only read */
    uint64_t send_base;
    uint64_t mss;
    uint64_t super_segment;
    uint64_t snd_wscale;
    uint64_t rcv_wscale;
    uint64_t ts_offset;
    uint64_t send_limit;
    uint64_t receive_buffer;
    uint64_t rcv_mss_max;
    uint64_t cwnd;
    uint64_t ssthresh;
    uint64_t timestamps;  /* a flag, as those below */
    uint64_t loss_probes; /* SACK was agreed, and tail loss probes are on */
    uint64_t nodelay;
    uint64_t slow_start_after_idle;
    double delayed_ack_time;
    double rto_min;
    double rto_max;
    double keepalive; /* the timer */
    /* variables */
    uint64_t snd_una;
    uint64_t snd_nxt;
    uint64_t snd_wnd;
    uint64_t snd_wl1;
    uint64_t snd_wl2;
    uint64_t max_send_window;
    uint64_t small_until;
    uint64_t flight_high;
    uint64_t flight_round_end;
    uint64_t cwnd_limited;
    uint64_t was_full;
    uint64_t rcv_nxt;
    uint64_t rcv_adv;
    uint64_t rcv_wnd;
    uint64_t rcv_mss;
    uint64_t receive_limit;
    uint64_t last_ack_sent;
    uint64_t ts_recent;
    uint64_t ack_now;
    uint64_t ack_pending;
    uint64_t quick_acks;
    uint64_t interactive;
    uint64_t autotune_window;
    uint64_t autotune_copied;
    uint64_t autotune_taken;
    uint64_t segments_in;
    uint64_t segments_out;
    uint64_t data_segments_in;
    uint64_t data_segments_out;
    uint64_t delivered_total;
    uint64_t rack_end;
    uint64_t rtt_round_end;
    double rack_sent_at;
    double rack_rtt;
    double probe_timer_since;
    double srtt;
    double rttvar;
    double rtt_base; /* the RTO before its bounds */
    double rto;
    double min_rtt;
    double latest_rtt;
    double ts_recent_age;
    double last_received;
    double last_data_received;
    double last_send;
    double progress_since;
    double autotune_since;
    double unlimited_at; /* when an ACK came last that the window did not grow for; -1: none since the lending */
    double retransmission;
    double loss_probe;
    double delayed_ack;
} flow_state;

typedef struct tcp_flow {
    uint8_t key[36]; /* as in frame_record */
    uint32_t number; /* of its place with the owner */
    struct tcp_flow *next; /* in the table's bucket */
    uint32_t lent;   /* it is in the table */
    uint32_t news;   /* FLOW_* that flow_table_receive() tells */
    uint32_t left_to_python; /* in the burst of that number nothing more of it is taken */
    double scheduled; /* when its owner looks after it at the latest */
    uint32_t transmission_count;
    flow_transmission transmissions[FLOW_TRANSMISSIONS]; /* scoreboard.records, nothing of it sacked, lost or sent again */
    flow_state state;
} tcp_flow;

typedef struct {
    uint32_t number; /* flow_table_transmit(): index in `outgoing` */
    uint32_t news;
} flow_news;

typedef struct {
    tcp_flow **buckets;
    uint32_t bucket_count;
    uint64_t seed;         /* so that nobody outside knows who shares a bucket */
    uint32_t burst_number;
    uint64_t links;        /* counts up when a link address may have changed */
    uint64_t outgoing[BATCH_SEGMENTS]; /* tcp_flow *, for flow_table_transmit() */
    /* of the last flow_table_receive() or flow_table_transmit() */
    uint32_t segments; /* frames that were taken, a run as one; segments that were added */
    uint32_t left;     /* records of the burst that Python has to look at */
    uint32_t news_count;
    flow_news news[BURST_FRAMES];
    tcp_flow *touched[BURST_FRAMES]; /* flow_table_receive(): whose news those are */
} flow_table;

/* The table and its buckets are the caller's memory, zeroed.  Moves the flows to other buckets, `count` of them, a power
 * of two; before the first flow is added there have to be some. */
void flow_table_use(flow_table *table, tcp_flow **buckets, uint32_t count);
void flow_table_add(flow_table *table, tcp_flow *flow);
void flow_table_remove(flow_table *table, tcp_flow *flow); /* nothing happens if it is not there */

/* SEGMENT ARRIVES for the flows of the table: takes in what is expected, marks those records FRAME_TAKEN and lists the
 * flows with news.  From the first record of a flow that is not expected on, all of its records are left. */
void flow_table_receive(flow_table *table, frame_burst *burst, double now);

/* Whether the burst holds something, and nothing but acknowledgments without text for flows whose link is known to be this one. */
int flow_table_acknowledged(const flow_table *table, const frame_burst *burst, uint64_t link_number, double now);

/* Appends what the user sends; returns how many bytes there was room for. */
uint64_t flow_send(tcp_flow *flow, const uint8_t *data, uint64_t length);

/* Takes up to `length` bytes that have come.  Returns how many << 8, and FLOW_OUTPUT or 0. */
uint64_t flow_receive(tcp_flow *flow, uint8_t *data, uint64_t length);

/* Whether a writer should go on; if not, FLOW_WRITABLE will follow. */
int flow_writable(tcp_flow *flow);

/* Adds what the first `count` flows of `outgoing` may send now to the batch, from segment `index` on; each once, as far as
 * there is room.  Returns how many flows it has been through, and lists those with news: FLOW_OUTPUT when there is more,
 * FLOW_NOT_MINE, after which it goes no further, when Python has to see to the rest, or has taken the flow away meanwhile. */
uint32_t flow_table_transmit(flow_table *table, uint32_t count, segment_batch *batch, uint32_t index, double now);

/* The earliest timer has expired.  1 when it is that of a delayed acknowledgment alone, which flow_table_transmit() then sends;
 * 0 with nothing touched for any other. */
int flow_timed_out(tcp_flow *flow, double now);

/* The earliest of its timers. */
double flow_deadline(const tcp_flow *flow);
