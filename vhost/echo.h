/* Pings, answered where they are found: before anybody in Python has been called, which after a while of rest takes far
 * longer than the answer.
 *
 * Python says which addresses are ours and reads what has been answered; a request that is not the most ordinary one is
 * left to it.  Read first: burst_echo_reply(), vring.h. */
#pragma once
#include <stdint.h>
#include "frame.h"
#include "segment.h"
#include "vring.h"

#define ECHO_ADDRESSES 16
#define ECHO_FRAME_MAX 1600 /* longer ones take the long way */
#define ECHO_FRAMES 16      /* of one burst */

typedef struct {
    uint8_t enabled;
    uint8_t hop_limit;
    uint8_t link_address[6];
    uint32_t frame_max;        /* of the link, its header included */
    uint32_t own_count;
    uint32_t broadcast_count;
    uint8_t own[ECHO_ADDRESSES][16];       /* ours; IPv4 as ::ffff:a.b.c.d */
    uint8_t broadcast[ECHO_ADDRESSES][16]; /* of our networks: nobody who says that this is his address gets an answer */
    uint64_t answered;
    uint64_t answered_bytes;
    uint64_t unseen;           /* bursts of such requests that echo_prompt() has taken, their frames and bytes */
    uint64_t unseen_frames;
    uint64_t unseen_bytes;
    uint32_t more;             /* echo_prompt() has left frames that perhaps no descriptor tells of */
    uint32_t count;            /* answers in `batch` */
    uint32_t indices[ECHO_FRAMES];
    uint8_t frames[ECHO_FRAMES][ECHO_FRAME_MAX];
    segment_batch batch;
} echo_responder;

/* vring_receive() from `ring`, and answers to the requests among its frames into `back`, the guest's receive queue.  What
 * was answered becomes FRAME_TAKEN. */
int echo_receive(echo_responder *responder, vring *ring, frame_burst *burst, uint32_t budget, vring *back, const link_limits *limits);

/* The same for who has just been woken and has not looked at anything yet: if there is nothing but such requests in an idle
 * ring they are answered and given back, quietly where that was signalled, and `kick`, its kick descriptor, is drained.
 * Otherwise nothing has happened.  `burst` is for this alone.  Returns how many that were;
 * answers for which the guest has no buffer are dropped. */
uint32_t echo_prompt(echo_responder *responder, vring *ring, frame_burst *burst, vring *back, const link_limits *limits, int kick);
