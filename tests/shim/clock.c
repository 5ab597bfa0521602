/* A wall clock that was never set (LD_PRELOAD): it starts in 1970 when the machine does, as on a gateway without a
 * battery. Monotonic clocks are as they are. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)
        id = CLOCK_BOOTTIME;
    return (int)syscall(SYS_clock_gettime, id, now);
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec t;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &t) != 0)
        return -1;
    now->tv_sec = t.tv_sec;
    now->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec t;
    if (clock_gettime(CLOCK_REALTIME, &t) != 0)
        return (time_t)-1;
    if (now)
        *now = t.tv_sec;
    return t.tv_sec;
}
