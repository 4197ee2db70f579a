/* gen - one cheap audited system call, over and over: getppid(now, index, MARK).
 *
 *   gen COUNT RATE_PER_S LOGINUID      RATE 0: as fast as it goes
 *
 * The kernel writes the argument registers of any system call into its SYSCALL record, so each record carries the
 * CLOCK_MONOTONIC nanoseconds at which its call began (a0) and its number from 0 (a1). LOGINUID is set first: a rule
 * with -F auid=LOGINUID then selects this process alone. One JSON object on stdout; SIGTERM ends the run early.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mark.h"

static volatile sig_atomic_t stop;

static void on_term(int number)
{
	(void)number;
	stop = 1;
}

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 1000, done = 0;
	double rate = argc > 2 ? atof(argv[2]) : 0;
	uint64_t start, worst = 0, worst_at = 0, end;

	if (argc > 3) {
		int fd = open("/proc/self/loginuid", O_WRONLY | O_CLOEXEC);

		if (fd < 0 || write(fd, argv[3], strlen(argv[3])) < 0) {
			perror("gen: /proc/self/loginuid");
			return 1;
		}
		close(fd);
	}
	signal(SIGTERM, on_term);
	prctl(PR_SET_TIMERSLACK, 1UL);
	start = now_ns();
	while (done < count && !stop) {
		uint64_t begin = now_ns(), took;

		syscall(SYS_getppid, begin, (unsigned long)done, MARK);
		took = now_ns() - begin;
		if (took > worst) {
			worst = took;
			worst_at = begin;
		}
		done++;
		if (rate > 0) {
			uint64_t due = start + (uint64_t)(done * 1e9 / rate);
			struct timespec at = { (time_t)(due / 1000000000), (long)(due % 1000000000) };

			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		}
	}
	end = now_ns();
	printf("{\"calls\": %ld, \"start_ns\": %" PRIu64 ", \"end_ns\": %" PRIu64
	       ", \"worst_call_ms\": %.3f, \"worst_at_s\": %.3f}\n",
	       done, start, end, worst / 1e6, worst ? (worst_at - start) / 1e9 : 0.0);
	return 0;
}
