/*
 * relay PORT TO MS: a TCP relay from 127.0.0.1:PORT to 127.0.0.1:TO that holds every byte for MS milliseconds, each way.
 *
 * A long line without a bottleneck: it takes all that comes at once, whatever is under way, so that only what the two
 * ends allow to be under way bounds the rate. With 0 it does the same work and holds nothing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 << 10)
#define PAIRS 64

struct chunk {
	struct chunk *next;
	int64_t due; /* CLOCK_MONOTONIC, ns */
	size_t at, size;
	char data[];
};

/* One direction of a connection. */
struct way {
	int from, to, ended, shut;
	struct chunk *first, **last;
};

static struct way ways[2 * PAIRS];
static int used;
static int64_t hold;
static char buffer[CHUNK];

static int64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in loopback(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return at;
}

static void open_way(struct way *way, int from, int to)
{
	way->from = from;
	way->to = to;
	way->ended = way->shut = 0;
	way->first = NULL;
	way->last = &way->first;
}

static void take(int listener, int port)
{
	struct sockaddr_in at = loopback(port);
	int one = 1, in = accept4(listener, NULL, NULL, SOCK_NONBLOCK), out;

	if (in < 0)
		return;
	out = socket(AF_INET, SOCK_STREAM, 0);
	if (out < 0 || used + 2 > 2 * PAIRS || connect(out, (struct sockaddr *)&at, sizeof at) != 0) {
		close(in);
		if (out >= 0)
			close(out);
		return;
	}
	setsockopt(in, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	open_way(&ways[used++], in, out);
	open_way(&ways[used++], out, in);
}

static void keep(struct way *way, const char *data, size_t size, int64_t due)
{
	struct chunk *chunk = malloc(sizeof *chunk + size);

	if (!chunk)
		fail("malloc");
	chunk->next = NULL;
	chunk->due = due;
	chunk->at = 0;
	chunk->size = size;
	memcpy(chunk->data, data, size);
	*way->last = chunk;
	way->last = &chunk->next;
}

static void receive(struct way *way)
{
	ssize_t got = recv(way->from, buffer, sizeof buffer, MSG_DONTWAIT);

	if (got > 0)
		keep(way, buffer, got, now() + hold);
	else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
		way->ended = 1;
		keep(way, "", 0, now() + hold);
	}
}

/* What is due; -1: the other end takes no more. */
static void deliver(struct way *way, int64_t at)
{
	while (way->first && way->first->due <= at) {
		struct chunk *chunk = way->first;

		if (chunk->size && !way->shut) {
			ssize_t put = send(way->to, chunk->data + chunk->at, chunk->size - chunk->at,
					   MSG_DONTWAIT | MSG_NOSIGNAL);

			if (put < 0 && (errno == EAGAIN || errno == EINTR))
				return;
			if (put < 0)
				way->shut = 1;
			else {
				chunk->at += put;
				if (chunk->at < chunk->size)
					return;
			}
		} else if (!way->shut) {
			shutdown(way->to, SHUT_WR);
			way->shut = 1;
		}
		way->first = chunk->next;
		if (!way->first)
			way->last = &way->first;
		free(chunk);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in at;
	struct pollfd polled[1 + 2 * 2 * PAIRS];
	int one = 1, listener;

	if (argc != 4) {
		fprintf(stderr, "relay PORT TO MS\n");
		return 2;
	}
	hold = atoi(argv[3]) * 1000000LL;
	at = loopback(atoi(argv[1]));
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, PAIRS) != 0)
		fail("listen");
	for (;;) {
		int64_t here = now(), wake = INT64_MAX;
		struct timespec wait;
		int count = 1;

		polled[0] = (struct pollfd){ .fd = listener, .events = POLLIN };
		for (int n = 0; n < used; n++) {
			struct way *way = &ways[n];
			int due = way->first && way->first->due <= here;

			if (way->first && !due && way->first->due < wake)
				wake = way->first->due;
			polled[count++] = (struct pollfd){ .fd = way->ended ? -1 : way->from, .events = POLLIN };
			/* Asked only where something is due and was not taken. */
			polled[count++] = (struct pollfd){ .fd = due ? way->to : -1, .events = POLLOUT };
		}
		wait.tv_sec = wake == INT64_MAX ? 3600 : (wake - here) / 1000000000LL;
		wait.tv_nsec = wake == INT64_MAX ? 0 : (wake - here) % 1000000000LL;
		if (ppoll(polled, count, &wait, NULL) < 0 && errno != EINTR)
			fail("ppoll");
		if (polled[0].revents)
			take(listener, atoi(argv[2]));
		for (int n = 0; 2 * n + 1 < count; n++)
			if (polled[1 + 2 * n].revents)
				receive(&ways[n]);
		here = now();
		for (int n = 0; n < used; n++)
			deliver(&ways[n], here);
	}
}
