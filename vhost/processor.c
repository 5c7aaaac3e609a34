/* Scheduling.  Read first: processor.h. */
#include "processor.h"

#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct { /* struct sched_attr of linux/sched/types.h, as it was first */
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime;
    uint64_t deadline;
    uint64_t period;
} attributes;

int processor_slices(uint64_t nanoseconds)
{
    attributes present = {.size = sizeof present};
    if (syscall(SYS_sched_getattr, 0, &present, sizeof present, 0) != 0)
        return -errno;
    if (present.policy != SCHED_OTHER)
        return -EPERM;
    present.size = sizeof present;
    present.runtime = nanoseconds;
    return syscall(SYS_sched_setattr, 0, &present, 0) == 0 ? 0 : -errno;
}
