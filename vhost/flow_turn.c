/* Turns of a transfer to the guest.  Read first: flow_turn.h; then receive_burst() in src/swos_net/stack/ip_input.py and
 * _send() in src/swos_net/runtime/poll.py, which do the same for everything else. */
#include "flow_turn.h"

#include <math.h>
#include <string.h>

enum { TURNS_IN_A_ROW = 16 };

static const double REMIND_AFTER = 0.05; /* seconds */

static int idle(const vring *ring)
{
    return ring->running && !ring->broken && !ring->outstanding;
}

/* What the flows that were touched may send now: into the batch. */
static void transmit(flow_turn *turn, double now)
{
    flow_table *table = turn->table;
    uint32_t count = 0, sender[BATCH_SEGMENTS];
    for (uint32_t i = 0; i < turn->news_count && count < BATCH_SEGMENTS; i++) {
        if (!(turn->news[i].news & FLOW_OUTPUT))
            continue;
        table->outgoing[count] = (uintptr_t)table->touched[i];
        sender[count++] = i;
    }
    if (!count)
        return;
    uint32_t done = flow_table_transmit(table, count, turn->batch, 0, now);
    turn->batch->count = table->segments;
    turn->segments_added += table->segments;
    for (uint32_t i = 0; i < done; i++)
        turn->news[sender[i]].news &= ~(uint32_t)FLOW_OUTPUT;
    for (uint32_t i = 0; i < table->news_count; i++) {
        uint32_t news = table->news[i].news;
        turn->news[sender[table->news[i].number]].news |= (news & FLOW_EARLIER) | (news & (FLOW_OUTPUT | FLOW_NOT_MINE) ? FLOW_OUTPUT : 0);
    }
}

/* Sends the batch as far as the guest has buffers for it; whether it signalled. */
static int deliver(flow_turn *turn, vring *back, const link_limits *limits)
{
    segment_batch *batch = turn->batch;
    uint64_t signals = back->signals;
    if (!batch->count)
        return 0;
    if (vring_transmit(back, batch, limits) == 0) { /* a ring that breaks here says so to who uses it next */
        turn->bursts_sent++;
        turn->frames_sent += batch->frames;
        turn->bytes_sent += batch->bytes;
        batch->count = batch->next = batch->next_frame = batch->frames = 0;
        batch->bytes = 0;
    }
    return back->signals != signals;
}

double flow_turn_deadline(const flow_turn *turn)
{
    return fmin(flow_deadline(turn->due), turn->due_after);
}

/* What the guest had no buffers for.  TURN_NONE when that is for Python to go on with. */
static int deliver_rest(flow_turn *turn, vring *ring, vring *back, const link_limits *limits)
{
    int kicked = vring_drain(back, turn->back_kick); /* V4: before the look */
    deliver(turn, back, limits);
    if (turn->batch->count)
        return kicked && !vring_available(ring) ? TURN_MADE : TURN_NONE; /* room or not, what comes in has to be looked at */
    turn->turns++;
    return turn->output_waits ? TURN_LEFT : TURN_MADE;
}

static int settle(flow_turn *turn, vring *ring)
{
    turn->unsettled = 0;
    turn->look_at = INFINITY;
    return vring_settle(ring, turn->kick);
}

void flow_turn_settle(flow_turn *turn, vring *ring)
{
    if (turn->unsettled && settle(turn, ring))
        turn->more = 1;
}

void flow_turn_remind(flow_turn *turn, vring *ring)
{
    turn->remind_at = INFINITY;
    vring_remind(ring);
}

/* After so many bytes; whether there is more that no kick tells of. */
static int rest(flow_turn *turn, vring *ring, uint64_t bytes, double now)
{
    turn->remind_at = ring->undecided ? now + REMIND_AFTER : INFINITY;
    turn->moved += bytes;
    if (turn->rest_max <= 0 || turn->moved < turn->bulk_bytes)
        return settle(turn, ring);
    turn->rest = fmin(fmax(turn->rest * (turn->moved < turn->rest_bytes ? 1.25 : 0.8), turn->rest_min), turn->rest_max);
    turn->moved = 0;
    turn->look_at = now + turn->rest;
    if (!turn->unsettled)
        vring_disable_kicks(ring);
    turn->unsettled = 1;
    return 0;
}

/* One burst.  `*more` is set when there is another that perhaps no kick tells of. */
static int make(flow_turn *turn, vring *ring, vring *back, const link_limits *limits, double now, int *more)
{
    flow_table *table = turn->table;
    frame_burst *burst = turn->burst;
    int before_this = TURN_NONE;
    *more = 0;
    if (turn->left || turn->news_count || !idle(ring) || !idle(back))
        return TURN_NONE;
    turn->made_at = now;
    if (turn->batch->count) {
        before_this = deliver_rest(turn, ring, back, limits);
        if (before_this != TURN_MADE || turn->batch->count)
            return before_this;
    }
    vring before = *ring;
    burst_clear(burst);
    uint64_t sent = turn->bytes_sent;
    int taken = vring_receive(ring, burst, 1, 0); /* which tells most of the time */
    if (taken < 0)
        return before_this; /* a ring that broke says so to who looks at it next */
    if (!taken) { /* after a rest, or a kick for what is done already, or none */
        turn->moved = 0;
        if (!turn->unsettled && !vring_drain(ring, turn->kick))
            return before_this;
        *more = settle(turn, ring);
        return TURN_MADE;
    }
    if (flow_table_acknowledged(table, burst, turn->link_number, now))
        taken = vring_receive(ring, burst, BURST_FRAMES - 1, 0);
    if (taken < 0)
        return before_this;
    if (!flow_table_acknowledged(table, burst, turn->link_number, now)) {
        *ring = before; /* nothing but these fields has changed */
        burst_clear(burst);
        return before_this;
    }
    flow_table_receive(table, burst, now);
    turn->turns++;
    turn->segments_received += table->segments;
    turn->left = table->left;
    turn->news_count = table->news_count;
    memcpy(turn->news, table->news, table->news_count * sizeof *table->news);
    if (turn->left)
        return TURN_LEFT;
    turn->bursts_received++;
    turn->frames_received += burst->count;
    turn->bytes_received += burst->bytes;
    uint64_t received = burst->bytes;
    transmit(turn, now);
    int signalled = deliver(turn, back, limits);
    vring_release(ring, burst, signalled);
    *more = rest(turn, ring, received + turn->bytes_sent - sent, now);
    uint32_t count = 0;
    for (uint32_t i = 0; i < turn->news_count; i++)
        if (turn->news[i].news)
            turn->news[count++] = turn->news[i];
    turn->news_count = count;
    return count ? TURN_NEWS : TURN_MADE;
}

int flow_turn_make(flow_turn *turn, vring *ring, vring *back, const link_limits *limits, double now)
{
    int more = 1, result = TURN_NONE;
    for (int turns = 0; more && turns < TURNS_IN_A_ROW; turns++) {
        int made = make(turn, ring, back, limits, now, &more);
        if (made == TURN_NONE && turns)
            more = 1; /* as the one before has said, and it is not for us */
        if (made != TURN_NONE)
            result = made;
        if (made != TURN_MADE)
            break;
    }
    if (more && result != TURN_NONE) {
        turn->more = 1;
        result = TURN_LEFT;
    }
    return result;
}
