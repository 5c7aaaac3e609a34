/* Sleeping.  Read first: prompter.h. */
#include "prompter.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <time.h>

enum { ROUNDS_MAX = 256 }; /* then Python has a look at signals and at what it may be asked by others */

static const int64_t MILLISECOND = 1000000;
static const int64_t NEAR = 10 * 1000000;
static const double DEADLINE_MAX = 9e9;         /* seconds */

enum { NOTHING, ANSWERED, TURNED, TOLD, LEFT };

static _Atomic uint32_t *gate(prompter *p)
{
    return (_Atomic uint32_t *)(void *)&p->gate;
}

void prompter_open(prompter *p, int kick, flow_turn *turn)
{
    if (atomic_load_explicit(gate(p), memory_order_acquire) != PROMPTER_CLOSED)
        return; /* another sleep has it */
    p->kick = kick;
    p->turn = turn;
    atomic_store_explicit(gate(p), PROMPTER_OPEN, memory_order_release);
}

void prompter_close(prompter *p)
{
    for (;;) {
        uint32_t open = PROMPTER_OPEN;
        if (atomic_compare_exchange_strong_explicit(gate(p), &open, PROMPTER_CLOSED, memory_order_acquire, memory_order_acquire) ||
            open == PROMPTER_CLOSED)
            return;
        sched_yield();
    }
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int used(const prompter *p)
{
    if (echo_prompt(p->responder, p->ring, p->burst, p->back, p->limits, p->kick))
        return ANSWERED;
    int made = p->turn ? flow_turn_make(p->turn, p->ring, p->back, p->limits, (double)nanoseconds() / 1e9) : TURN_NONE;
    return made == TURN_MADE ? TURNED : made == TURN_NEWS ? TOLD : made == TURN_LEFT ? LEFT : NOTHING;
}

static int among(const struct epoll_event *events, int ready, int descriptor)
{
    for (int i = 0; i < ready; i++)
        if (events[i].data.fd == descriptor)
            return 1;
    return 0;
}

/* Without those of a device that has been seen to; another thing that it has shows again. */
static int without(struct epoll_event *events, int ready, int descriptor)
{
    int kept = 0;
    for (int i = 0; i < ready; i++)
        if (events[i].data.fd != descriptor)
            events[kept++] = events[i];
    return kept;
}

/* For a moment with one that is open. */
static int begin(prompter *p)
{
    uint32_t open = PROMPTER_OPEN;
    return atomic_compare_exchange_strong_explicit(gate(p), &open, PROMPTER_BUSY, memory_order_acquire, memory_order_relaxed);
}

static void end(prompter *p, uint32_t state)
{
    atomic_store_explicit(gate(p), state, memory_order_release);
}

/* Closes it, unless it may go on; `ready`: its device has something, which then is Python's. */
static int prompted(prompter *p, int ready)
{
    if (!begin(p))
        return NOTHING;
    int result = used(p);
    end(p, result == TURNED || (result == NOTHING && !ready) ? PROMPTER_OPEN : PROMPTER_CLOSED);
    return result;
}

static int64_t earlier(double time, int64_t than)
{
    return time < DEADLINE_MAX && (int64_t)(time * 1e9) < than ? (int64_t)(time * 1e9) : than;
}

/* What a turn has left to be done at some time: a look at the ring, and a reminder of what has been given back quietly. */
static void plan(prompter *p, int64_t *look, int64_t *remind)
{
    if (!begin(p))
        return;
    if (p->turn) {
        *look = earlier(p->turn->look_at, *look);
        *remind = earlier(p->turn->remind_at, *remind);
    }
    end(p, PROMPTER_OPEN);
}

static void remind_if_due(prompter *p, int64_t now)
{
    if (!begin(p))
        return;
    if (p->turn && earlier(p->turn->remind_at, INT64_MAX) <= now)
        flow_turn_remind(p->turn, p->ring);
    end(p, PROMPTER_OPEN);
}

/* When the one that decides about that has to be looked after; at once if somebody else does so. */
static int64_t due(prompter *p)
{
    if (!begin(p))
        return 0;
    double deadline = p->turn && p->turn->due ? flow_turn_deadline(p->turn) : 0;
    end(p, PROMPTER_OPEN);
    return deadline < DEADLINE_MAX ? (int64_t)(deadline * 1e9) : INT64_MAX;
}

static int rounded_up(int64_t time)
{
    int64_t left = time <= 0 ? 0 : (time + 999999) / 1000000;
    return left < INT_MAX ? (int)left : INT_MAX;
}

/* epoll_wait() until a time, to the microsecond where that is near. */
static int wait_until(int poller, struct epoll_event *events, int64_t time, int64_t now)
{
    if (time == INT64_MAX)
        return epoll_wait(poller, events, WOKEN_BY_MAX, -1);
    if (time - now > NEAR || time <= now)
        return epoll_wait(poller, events, WOKEN_BY_MAX, rounded_up(time - now));
    struct pollfd waiting = {.fd = poller, .events = POLLIN};
    struct timespec left = {.tv_sec = 0, .tv_nsec = time - now};
    int ready = ppoll(&waiting, 1, &left, NULL);
    return ready > 0 ? epoll_wait(poller, events, WOKEN_BY_MAX, 0) : ready;
}

uint64_t prompter_sleep(const prompter_nap *nap, prompter **prompters, uint32_t count, woken_by *found, int *found_count)
{
    struct epoll_event events[WOKEN_BY_MAX];
    int64_t now = nanoseconds();
    int64_t limit = nap->limit < 0 ? INT64_MAX : now + nap->limit * MILLISECOND;
    int64_t until = nap->timeout < 0 ? INT64_MAX : now + nap->timeout * MILLISECOND;
    int64_t pause = nap->pause * MILLISECOND;
    uint64_t told = 0;
    int answered = 0, news = 0, ready;
    if (count > PROMPTERS)
        count = PROMPTERS;
    for (int rounds = 0;; rounds++) {
        int64_t look = INT64_MAX, remind = INT64_MAX, next = until;
        for (uint32_t i = 0; i < count; i++)
            plan(prompters[i], &look, &remind);
        if (look < next)
            next = look;
        if (remind < next)
            next = remind;
        ready = wait_until(nap->poller, events, next, now);
        *found_count = ready < 0 && errno != EINTR ? -errno : 0;
        now = nanoseconds();
        int looked = ready == 0 && look <= now, turned = looked;
        for (uint32_t i = 0; (ready > 0 || turned) && i < count; i++) {
            int result = prompted(prompters[i], looked || among(events, ready, prompters[i]->descriptor));
            if (result == ANSWERED || result == LEFT || (result == NOTHING && looked))
                told |= UINT64_C(1) << i;
            if (result == LEFT || (result == ANSWERED && prompters[i]->responder->more))
                pause = 0; /* nobody has been told of what it left */
            if (result == TURNED || result == TOLD)
                ready = without(events, ready, prompters[i]->descriptor);
            answered |= result == ANSWERED;
            turned |= result == TURNED;
            news |= result == TOLD;
        }
        now = nanoseconds();
        if (ready || told || news || rounds == ROUNDS_MAX)
            break;
        if (nap->first >= 0 && (uint32_t)nap->first < count) {
            until = due(prompters[nap->first]);
            if (until > limit)
                until = limit;
        }
        for (uint32_t i = 0; remind <= now && i < count; i++)
            remind_if_due(prompters[i], now);
        if (until <= now)
            break;
    }
    if (answered && pause && !news)
        ready = wait_until(nap->poller, events, until - now < pause ? until : now + pause, now);
    if (ready > 0)
        *found_count = ready;
    for (int i = 0; i < ready; i++)
        found[i] = (woken_by){events[i].data.fd, events[i].events};
    return told;
}
