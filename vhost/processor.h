/* What the calling thread asks of the kernel's scheduler. */
#pragma once
#include <stdint.h>

/* Asks for time in slices of that length, so that the thread runs sooner when it is woken; its share does not change.  An
 * ordinary thread may do so (sched_setattr(2); Linux 6.12 and later, others take no notice).  Returns 0 or -errno; -EPERM
 * when the thread is under another policy than the ordinary one. */
int processor_slices(uint64_t nanoseconds);
