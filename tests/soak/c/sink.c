/* sink - a plugin that remembers exactly what it read, even when it is killed.
 *
 *   sink DIR NAME MIB [CHUNK [SLEEP_US [SOCKET]]]
 *
 * Reads standard input (or connects to SOCKET and reads that) straight into a shared mapping of DIR/NAME.NNNN, the first
 * number that is free: whatever the kernel took out of the socket for us is in that file, at whichever instruction
 * SIGKILL found us. CHUNK: most bytes of one read; SLEEP_US: pause after each. The first page is a header, see struct
 * head. SIGUSR1 forgets the longest gap. SIGTERM ends as EOF does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct head {
	uint64_t pid, bytes, reads, gap_ns, gap_at_ns, last_ns, ended;
};

static struct head *head;
static volatile sig_atomic_t stop;

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void on_usr1(int number)
{
	(void)number;
	head->gap_ns = 0;
	head->last_ns = now();
}

static void on_term(int number)
{
	(void)number;
	stop = 1;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	size_t room = (size_t)atol(argv[3]) << 20, chunk = argc > 4 ? (size_t)atol(argv[4]) : 65536;
	unsigned pause = argc > 5 ? (unsigned)atol(argv[5]) : 0;
	char path[4096];
	int file = -1, in = 0;

	for (int n = 0; n < 10000 && file < 0; n++) {
		snprintf(path, sizeof path, "%s/%s.%04d", argv[1], argv[2], n);
		file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	}
	if (file < 0 || ftruncate(file, 4096 + room))
		return perror(path), 1;
	char *map = mmap(NULL, 4096 + room, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (map == MAP_FAILED)
		return perror("mmap"), 1;
	head = (struct head *)map;
	head->last_ns = now();
	struct sigaction act = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	sigaction(SIGUSR1, &act, NULL);
	act.sa_handler = on_term;
	act.sa_flags = 0;
	sigaction(SIGTERM, &act, NULL);
	if (argc > 6) {
		struct sockaddr_un name = { .sun_family = AF_UNIX };
		strncpy(name.sun_path, argv[6], sizeof name.sun_path - 1);
		in = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(in, (struct sockaddr *)&name, sizeof name))
			return perror(argv[6]), 1;
	}
	head->pid = getpid();
	while (!stop) {
		size_t left = room - head->bytes;
		if (!left)
			return fputs("sink: full\n", stderr), 1;
		ssize_t got = read(in, map + 4096 + head->bytes, left < chunk ? left : chunk);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		uint64_t at = now(), gap = at - head->last_ns;
		head->bytes += got;
		head->reads++;
		if (gap > head->gap_ns) {
			head->gap_ns = gap;
			head->gap_at_ns = at;
		}
		head->last_ns = at;
		if (pause)
			usleep(pause);
	}
	head->ended = 1;
	return 0;
}
