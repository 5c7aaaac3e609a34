/* Pings.  Read first: echo.h. */
#include "echo.h"

#include <sched.h>
#include <string.h>

enum { PROTOCOL_ICMP = 1, PROTOCOL_ICMPV6 = 58 };

static int listed(const uint8_t (*addresses)[16], uint32_t count, const uint8_t *address)
{
    for (uint32_t i = 0; i < count && i < ECHO_ADDRESSES; i++)
        if (memcmp(addresses[i], address, 16) == 0)
            return 1;
    return 0;
}

/* To us, from one station that says who it is. */
static int ordinary(const echo_responder *responder, const frame_burst *burst, uint32_t index)
{
    static const uint8_t unspecified[4];
    const frame_record *r = &burst->records[index];
    return r->verdict == FRAME_OK && (r->protocol == PROTOCOL_ICMP || r->protocol == PROTOCOL_ICMPV6) && !r->flags &&
           r->frame_length <= ECHO_FRAME_MAX && r->frame_length <= responder->frame_max &&
           memcmp(burst->headers[index], responder->link_address, sizeof responder->link_address) == 0 &&
           listed(responder->own, responder->own_count, r->local) && memcmp(r->remote + 12, unspecified, sizeof unspecified) != 0 &&
           !listed(responder->broadcast, responder->broadcast_count, r->remote);
}

static void answer(echo_responder *responder, const frame_burst *burst)
{
    responder->count = 0;
    for (uint32_t i = 0; i < burst->count && responder->count < ECHO_FRAMES; i++) {
        uint8_t *frame = responder->frames[responder->count];
        if (!ordinary(responder, burst, i))
            continue;
        uint32_t length = burst_echo_reply(burst, i, MEDIUM_ETHERNET, responder->hop_limit, frame);
        if (!length)
            continue;
        responder->batch.segments[responder->count] = (segment){.data = (uintptr_t)frame, .length = length, .kind = SEGMENT_FRAME};
        responder->indices[responder->count++] = i;
    }
}

/* Sends the answers; how many requests that takes care of. */
static uint32_t deliver(echo_responder *responder, vring *back, const link_limits *limits)
{
    segment_batch *batch = &responder->batch;
    batch->count = responder->count;
    batch->next = batch->next_frame = batch->frames = 0;
    batch->bytes = 0;
    vring_transmit(back, batch, limits); /* a ring that breaks here says so to who uses it next */
    responder->answered += batch->frames;
    responder->answered_bytes += batch->bytes;
    return batch->next;
}

int echo_receive(echo_responder *responder, vring *ring, frame_burst *burst, uint32_t budget, vring *back, const link_limits *limits)
{
    int taken = vring_receive(ring, burst, budget, 0);
    if (taken <= 0 || !responder->enabled)
        return taken;
    answer(responder, burst);
    if (!responder->count)
        return taken;
    uint32_t done = deliver(responder, back, limits);
    for (uint32_t i = 0; i < done; i++)
        burst->records[responder->indices[i]].verdict = FRAME_TAKEN;
    /* who was signalled may wait for this very processor, and what is left to do here is in no hurry */
    sched_yield();
    return taken;
}

uint32_t echo_prompt(echo_responder *responder, vring *ring, frame_burst *burst, vring *back, const link_limits *limits, int kick)
{
    if (kick < 0 || !responder->enabled || !ring->running || ring->broken || ring->outstanding || !back->running || back->broken)
        return 0;
    vring before = *ring;
    burst_clear(burst);
    int first = vring_receive(ring, burst, 1, 0); /* which tells most of the time */
    int others = first > 0 && burst->count && ordinary(responder, burst, 0) ? vring_receive(ring, burst, ECHO_FRAMES - 1, 0) : 0;
    if (first < 0 || others < 0)
        return 0; /* a ring that broke says so to who looks at it next */
    if (first)
        answer(responder, burst);
    if (!first || responder->count != burst->count || burst->count != (uint32_t)(first + others)) {
        *ring = before; /* nothing but these fields has changed */
        burst_clear(burst);
        return 0;
    }
    responder->unseen++;
    responder->unseen_frames += burst->count;
    responder->unseen_bytes += burst->bytes;
    uint64_t signals = back->signals;
    back->dropped += responder->count - deliver(responder, back, limits);
    vring_release(ring, burst, back->signals != signals);
    if (vring_settle(ring, kick))
        responder->more = 1;
    return responder->count;
}
