#include "timer.h"

#include <errno.h>
#include <sys/timerfd.h>

enum { NANOSECONDS = 1000000000 };

int timer_open(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int timer_set(int fd, uint64_t first, uint64_t interval)
{
    struct itimerspec when = {
        .it_interval = {.tv_sec = (time_t)(interval / NANOSECONDS), .tv_nsec = (long)(interval % NANOSECONDS)},
        .it_value = {.tv_sec = (time_t)(first / NANOSECONDS), .tv_nsec = (long)(first % NANOSECONDS)},
    };
    return timerfd_settime(fd, 0, &when, 0) < 0 ? -errno : 0;
}
