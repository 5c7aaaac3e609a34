/* An event loop's sleep, in which devices do what needs nobody: they answer pings and go on with transfers.
 *
 * Read first: echo.h, flow_turn.h. */
#pragma once
#include <stdint.h>
#include "echo.h"
#include "flow_turn.h"
#include "frame.h"
#include "segment.h"
#include "vring.h"

#define PROMPTER_CLOSED 0
#define PROMPTER_OPEN 1 /* prompter_sleep() may use it */
#define PROMPTER_BUSY 2 /* it does */
#define PROMPTERS 64    /* of one sleep */

/* What is done with one device's rings.  While it is not closed nobody else may touch what it points to. */
typedef struct {
    echo_responder *responder;
    vring *ring;
    frame_burst *burst; /* for pings alone */
    vring *back;
    const link_limits *limits;
    int kick;
    flow_turn *turn;    /* or NULL */
    int descriptor;     /* readable when there is something in `ring` */
    uint32_t gate;      /* PROMPTER_*, atomic */
} prompter;

/* From closed to open; to be called by one thread at a time. */
void prompter_open(prompter *p, int kick, flow_turn *turn);

/* Once this has returned, nobody uses it. */
void prompter_close(prompter *p);

typedef struct {
    int descriptor;
    uint32_t events; /* EPOLL* */
} woken_by;

#define WOKEN_BY_MAX 64 /* of those that are readable; others are told of next time */

/* Times are milliseconds, and for ever when negative. */
typedef struct {
    int poller;  /* an epoll descriptor */
    int timeout;
    int first;   /* the prompter whose flow_turn_deadline() decides what the timeout is; -1: it is as it is */
    int limit;   /* the latest that it may decide for */
    int pause;
} prompter_nap;

/* Sleeps until the poller has something to tell, a signal comes or the time is over.  Those of the prompters that are open
 * are used then, before anything else is done.  When one has made a turn of a transfer and nothing else has come, it sleeps
 * on; and when one has answered a ping, for `pause` at most: who was answered may wait for this very processor.
 *
 * The indices of those that somebody has to look after, as bits; `found` are then the `*found_count` events that the sleep
 * was ended by, or that is a negative errno if `poller` is none. */
uint64_t prompter_sleep(const prompter_nap *nap, prompter **prompters, uint32_t count, woken_by *found, int *found_count);
