/* reader - the smallest audit daemon: owns the stream, receives one datagram per call, counts. A ceiling.
 *
 *   reader RECEIVE_BUFFER_BYTES
 *
 * "ready" on stderr once the stream is ours; one JSON object on stdout at SIGTERM, when the stream is given back.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/audit.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mark.h"

#define FIRST_RECORD 1100	/* below are netlink's own types and the audit control messages */
#define STOP_POLL_MS 200	/* a signal between the look at `stop` and poll() is seen this late */

static volatile sig_atomic_t stop;

static void on_term(int number)
{
	(void)number;
	stop = 1;
}

static int set_owner(int fd, unsigned pid)
{
	struct {
		struct nlmsghdr header;
		struct audit_status status;
	} request = {
		.header = { .nlmsg_len = sizeof request, .nlmsg_type = AUDIT_SET, .nlmsg_flags = NLM_F_REQUEST },
		.status = { .mask = AUDIT_STATUS_PID, .pid = pid },
	};
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	if (pid) {
		request.status.mask |= AUDIT_STATUS_ENABLED;
		request.status.enabled = 1;
	}
	return sendto(fd, &request, sizeof request, 0, (void *)&kernel, sizeof kernel) < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
	static union {
		struct nlmsghdr header;
		char bytes[9216];
	} message;
	int size = argc > 1 ? atoi(argv[1]) : 0, fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_AUDIT);
	struct sockaddr_nl own = { .nl_family = AF_NETLINK };
	uint64_t records = 0, seen = 0, bytes = 0, overflows = 0, last = 0;
	struct sigaction action = { .sa_handler = on_term };
	struct rusage used;

	sigaction(SIGTERM, &action, NULL);
	if (fd < 0 || bind(fd, (void *)&own, sizeof own)) {
		perror("reader: netlink");
		return 1;
	}
	if (size && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
		perror("reader: SO_RCVBUFFORCE");
	if (set_owner(fd, (unsigned)getpid())) {
		perror("reader: AUDIT_SET");
		return 1;
	}
	fprintf(stderr, "ready\n");
	while (!stop) {
		ssize_t got = recv(fd, &message, sizeof message, MSG_DONTWAIT);
		struct pollfd readable = { fd, POLLIN, 0 };

		if (got > 0) {
			if (message.header.nlmsg_type >= FIRST_RECORD) {
				records++;
				bytes += (uint64_t)got;
			}
			continue;
		}
		if (errno == ENOBUFS) {
			overflows++;
		} else if (errno == EAGAIN) {
			if (records > seen)
				last = now_ns();
			seen = records;
			if (poll(&readable, 1, STOP_POLL_MS) < 0 && errno != EINTR)
				break;
		} else if (errno != EINTR) {
			perror("reader: recv");
			break;
		}
	}
	set_owner(fd, 0);
	getrusage(RUSAGE_SELF, &used);
	printf("{\"records\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"overflows\": %" PRIu64 ", \"last_ns\": %" PRIu64
	       ", \"cpu_s\": %.6f}\n", records, bytes, overflows, last,
	       used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
	return 0;
}
