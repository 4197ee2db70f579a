/* sink - a plugin that reads records on stdin, looks at them and throws them away.
 *
 *   sink REPORT [TIMES]
 *
 * Of gen.c's events it knows number and time of birth (see there): it counts them, finds which numbers are missing,
 * measures how long each took from its system call to our read(), and the longest pause between two reads that brought
 * some. REPORT gets one JSON object at EOF, SIGTERM or SIGUSR1; TIMES gets for every event its number and the time it
 * was read, as two native 64-bit words.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "mark.h"

#define TYPE_AT 5			/* after "type=" */
#define STAMP_WITHIN 80			/* the stamp's "(" is in the first 80 bytes, or there is none */

struct birth { uint64_t index, read_ns; };

static volatile sig_atomic_t stop, report;
static uint64_t records, daemon_records, events, event_records, missing, gaps, doubled, reads, bytes, lost_marked;
static uint64_t next_index, first_ns, last_ns, last_event_ns, pause_ns, pause_at_ns, cpu_first;
static char foreign[64];		/* stamp of the latest event that is not gen.c's, "(SEC.MSEC:SERIAL" */
static size_t foreign_length;
static struct birth *births;
static uint32_t *delays_us;
static size_t births_room, delays_room;

static void on_signal(int number)
{
	if (number == SIGTERM)
		stop = 1;
	else
		report = 1;
}

static void *grown(void *old, size_t *room, size_t size)
{
	void *bigger;

	*room = *room ? *room * 2 : 65536;
	bigger = realloc(old, *room * size);
	if (!bigger) {
		perror("sink");
		exit(1);
	}
	return bigger;
}

/* CPU nanoseconds of our parent, the dispatcher: all threads */
static uint64_t parent_cpu(void)
{
	char path[300];
	uint64_t total = 0, one;
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof path, "/proc/%d/task", getppid());
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		FILE *file;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", getppid(), entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fscanf(file, "%" SCNu64, &one) == 1)
			total += one;
		fclose(file);
	}
	if (tasks)
		closedir(tasks);
	return total;
}

static int ascending(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return a < b ? -1 : a > b;
}

static void write_times(const char *path)
{
	FILE *file = fopen(path, "w");

	if (!file || fwrite(births, sizeof *births, events, file) != events)
		perror(path);
	if (file)
		fclose(file);
}

static void write_report(const char *path)
{
	char tmp[4096];
	uint32_t *sorted = malloc((events + 1) * sizeof *sorted);
	struct rusage used;
	FILE *file;

	snprintf(tmp, sizeof tmp, "%s.tmp", path);
	file = fopen(tmp, "w");
	if (!file || !sorted) {
		perror(tmp);
		return;
	}
	if (events)
		memcpy(sorted, delays_us, events * sizeof *sorted);
	else
		sorted[0] = 0;
	qsort(sorted, events, sizeof *sorted, ascending);
	getrusage(RUSAGE_SELF, &used);
	fprintf(file, "{\"records\": %" PRIu64 ", \"daemon_records\": %" PRIu64 ", \"events\": %" PRIu64
		", \"event_records\": %" PRIu64 ", \"missing\": %" PRIu64 ", \"gaps\": %" PRIu64
		", \"doubled\": %" PRIu64 ", \"lost_marked\": %" PRIu64 ", \"reads\": %" PRIu64
		", \"bytes\": %" PRIu64 ", \"first_ns\": %" PRIu64 ", \"last_ns\": %" PRIu64
		", \"last_event_ns\": %" PRIu64 ", \"pause_ms\": %.3f, \"pause_at_ns\": %" PRIu64,
		records, daemon_records, events, event_records, missing, gaps, doubled, lost_marked, reads, bytes,
		first_ns, last_ns, last_event_ns, pause_ns / 1e6, pause_at_ns);
	fprintf(file, ", \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u", sorted[events / 2],
		sorted[(size_t)(events * 0.99)], sorted[events ? events - 1 : 0]);
	fprintf(file, ", \"cpu_s\": %.6f, \"parent_cpu_s\": %.6f}\n",
		used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
		(parent_cpu() - cpu_first) / 1e9);
	fclose(file);
	free(sorted);
	rename(tmp, path);
}

/* number after KEY in the line, or -1 */
static int64_t number_after(const char *line, size_t length, const char *key, int radix)
{
	const char *at = memmem(line, length, key, strlen(key));

	return at ? (int64_t)strtoull(at + strlen(key), NULL, radix) : -1;
}

static const char *stamp_of(const char *line, size_t length)
{
	return memchr(line, '(', length < STAMP_WITHIN ? length : STAMP_WITHIN);
}

static void see_foreign(const char *line, size_t length)
{
	const char *at = stamp_of(line, length);

	foreign_length = 0;
	while (at && at + foreign_length < line + length && foreign_length < sizeof foreign && at[foreign_length] != ')') {
		foreign[foreign_length] = at[foreign_length];
		foreign_length++;
	}
}

static int is_foreign(const char *line, size_t length)
{
	const char *at = stamp_of(line, length);

	return !at || (foreign_length && (size_t)(line + length - at) > foreign_length &&
		       at[foreign_length] == ')' && !memcmp(at, foreign, foreign_length));
}

/* 0: not one of gen.c's */
static int see_event(const char *line, size_t length, uint64_t read_ns)
{
	const char *args = memmem(line, length, " a0=", 4);
	char *end;
	uint64_t born, index;

	if (!args)
		return 0;
	born = strtoull(args + 4, &end, 16);
	index = strtoull(end + 4, &end, 16);	/* " a1=" */
	if (strtoull(end + 4, &end, 16) != MARK)
		return 0;
	if (events == births_room) {
		births = grown(births, &births_room, sizeof *births);
		delays_us = grown(delays_us, &delays_room, sizeof *delays_us);
	}
	births[events] = (struct birth){ index, read_ns };
	delays_us[events] = (uint32_t)((read_ns - born) / 1000);
	events++;
	event_records++;
	if (index < next_index) {
		doubled++;
		return 1;
	}
	if (index > next_index) {
		gaps++;
		missing += index - next_index;
	}
	next_index = index + 1;
	if (last_event_ns && read_ns - last_event_ns > pause_ns) {
		pause_ns = read_ns - last_event_ns;
		pause_at_ns = last_event_ns;
	}
	last_event_ns = read_ns;
	return 1;
}

static void see_line(const char *line, size_t length, uint64_t read_ns)
{
	records++;
	if (length > TYPE_AT + 10 && (!memcmp(line + TYPE_AT, "PROCTITLE ", 10) || !memcmp(line + TYPE_AT, "EOE ", 4))) {
		/* of an event of gen.c, or of the foreign one before it; its SYSCALL may be missing */
		event_records += !is_foreign(line, length);
		return;
	}
	if (length > TYPE_AT + 8 && !memcmp(line + TYPE_AT, "SYSCALL ", 8) && see_event(line, length, read_ns))
		return;
	if (length > TYPE_AT + 7 && !memcmp(line + TYPE_AT, "DAEMON_", 7)) {
		int64_t count;

		daemon_records++;
		if (memmem(line, length, " op=lost ", 9) && (count = number_after(line, length, " count=", 10)) > 0)
			lost_marked += (uint64_t)count;
		return;
	}
	see_foreign(line, length);
}

int main(int argc, char **argv)
{
	static char buffer[1 << 17];
	size_t held = 0;
	struct sigaction action = { .sa_handler = on_signal };

	if (argc < 2)
		return 2;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	signal(SIGHUP, SIG_IGN);
	for (;;) {
		char *line = buffer, *end;
		uint64_t read_ns, before = records - daemon_records;
		ssize_t got;

		if (report) {
			report = 0;
			write_report(argv[1]);
		}
		if (stop)	/* read what is there, then leave */
			fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
		got = read(0, buffer + held, sizeof buffer - held);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		read_ns = now_ns();
		if (!first_ns) {
			first_ns = read_ns;
			cpu_first = parent_cpu();
		}
		reads++;
		bytes += (uint64_t)got;
		held += (size_t)got;
		while ((end = memchr(line, '\n', held - (size_t)(line - buffer)))) {
			see_line(line, (size_t)(end - line), read_ns);
			line = end + 1;
		}
		if (records - daemon_records > before)
			last_ns = read_ns;
		held -= (size_t)(line - buffer);
		memmove(buffer, line, held);
		if (held == sizeof buffer)
			held = 0;
	}
	write_report(argv[1]);
	if (argc > 2)
		write_times(argv[2]);
	return 0;
}
