/* A timer as a descriptor (timerfd_create(2)), which Python has only since 3.13. */
#pragma once
#include <stdint.h>

/* A non-blocking descriptor, closed on exec, that is readable once the timer has expired; or -errno. */
int timer_open(void);

/* Expires after `first` nanoseconds and then, unless it is 0, each `interval` nanoseconds; 0 for `first` disarms it.
 * Returns 0 or -errno. */
int timer_set(int fd, uint64_t first, uint64_t interval);
