/* Network load and what it measures, as one static program for guests, namespaces and the host.
 *
 *     netload serve ADDRESS ECHO_PORT SINK_PORT SOURCE_PORT    until killed
 *     netload rr HOST PORT SECONDS           one byte there and back on one connection, again and again
 *     netload crr HOST PORT SECONDS          the same with a new connection for each
 *     netload send|receive HOST PORT SECONDS     bulk, one connection
 *
 * Clients print one line "name value" per result: rates per second, times in microseconds, sizes in bytes.
 * IPv4 alone.  Not measured here: bulk against iperf3, which guests do with iperf3's own client.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (1 << 20)
#define BLOCK (128 << 10)

static char block[BLOCK];

static void fail(const char *what)
{
	fprintf(stderr, "netload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct sockaddr_in socket_address(const char *host, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
		errno = EINVAL;
		fail(host);
	}
	return address;
}

static void set_nodelay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int connected(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address))
		fail("connect");
	set_nodelay(fd);
	return fd;
}

/* One byte there and back. */
static void exchange(int fd)
{
	char byte = 'x';

	if (write(fd, &byte, 1) != 1)
		fail("write");
	if (read(fd, &byte, 1) != 1)
		fail("read");
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print_latency(double *samples, size_t count, double seconds)
{
	if (!count)
		fail("no exchange finished");
	qsort(samples, count, sizeof *samples, ascending);
	printf("count %zu\nrate %.2f\np50 %.1f\np99 %.1f\n", count, (double)count / seconds, samples[count / 2] * 1e6,
	       samples[count * 99 / 100] * 1e6);
}

static void request_response(const struct sockaddr_in *address, double seconds, int new_connections)
{
	double *samples = malloc(SAMPLES_MAX * sizeof *samples);
	size_t count = 0;
	int fd = -1;

	if (!samples)
		fail("memory");
	if (!new_connections) {
		fd = connected(address);
		exchange(fd); /* neighbours resolved, caches warm */
	}
	double begin = now(), last = begin;
	while (last - begin < seconds && count < SAMPLES_MAX) {
		if (new_connections)
			fd = connected(address);
		exchange(fd);
		if (new_connections)
			close(fd);
		double end = now();
		samples[count++] = end - last;
		last = end;
	}
	print_latency(samples, count, last - begin);
}

static void bulk(const struct sockaddr_in *address, double seconds, int sending)
{
	int fd = connected(address);
	/* The other end of a link that stopped must not keep a client for ever. */
	struct timeval patience = {.tv_sec = 20};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	uint64_t total = 0;
	double begin = now(), end = begin;

	while (end - begin < seconds) {
		ssize_t done = sending ? write(fd, block, BLOCK) : read(fd, block, BLOCK);
		if (done <= 0)
			fail(sending ? "write" : "read");
		total += (uint64_t)done;
		end = now();
	}
	if (sending) {
		/* What waits in our own socket was not carried: wait until the peer has it all and says so by closing. */
		shutdown(fd, SHUT_WR);
		if (read(fd, block, 1) != 0)
			fail("waiting for the other end to close");
		end = now();
	}
	close(fd);
	printf("bytes %llu\nseconds %.6f\nrate %.0f\n", (unsigned long long)total, end - begin, (double)total / (end - begin));
}

enum role { ECHO, SINK, SOURCE, ROLES };

static int listening(const char *host, const char *port)
{
	struct sockaddr_in address = socket_address(host, port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024))
		fail(port);
	return fd;
}

static void watch(int epoll, int operation, int fd, uint32_t events, enum role role)
{
	struct epoll_event event = {.events = events, .data.u64 = (uint64_t)role << 32 | (uint32_t)fd};

	if (epoll_ctl(epoll, operation, fd, &event))
		fail("epoll_ctl");
}

/* Nonzero when the connection has ended. */
static int serve_one(int fd, enum role role)
{
	ssize_t done;

	if (role == SOURCE) {
		done = write(fd, block, BLOCK);
		return done < 0 && errno != EAGAIN;
	}
	done = read(fd, block, BLOCK);
	if (done > 0 && role == ECHO && write(fd, block, (size_t)done) != done)
		return 1;
	return done == 0 || (done < 0 && errno != EAGAIN);
}

static void serve(char **arguments)
{
	int listeners[ROLES];
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	signal(SIGPIPE, SIG_IGN);
	for (int role = 0; role < ROLES; role++) {
		listeners[role] = listening(arguments[0], arguments[1 + role]);
		watch(epoll, EPOLL_CTL_ADD, listeners[role], EPOLLIN, (enum role)role);
	}
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		struct epoll_event events[64];
		int count = epoll_wait(epoll, events, 64, -1);

		for (int i = 0; i < count; i++) {
			int fd = (int)(uint32_t)events[i].data.u64;
			enum role role = (enum role)(events[i].data.u64 >> 32);

			if (fd == listeners[role]) {
				int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
				if (client < 0)
					continue;
				set_nodelay(client);
				watch(epoll, EPOLL_CTL_ADD, client, role == SOURCE ? EPOLLOUT : EPOLLIN, role);
			} else if (serve_one(fd, role)) {
				close(fd);
			}
		}
	}
}

int main(int count, char **arguments)
{
	const char *mode = count > 1 ? arguments[1] : "";

	if (!strcmp(mode, "serve") && count == 6)
		serve(arguments + 2);
	if (count != 5) {
		fprintf(stderr, "usage: netload serve ADDRESS ECHO SINK SOURCE | netload rr|crr|send|receive HOST PORT SECONDS\n");
		return 2;
	}
	struct sockaddr_in address = socket_address(arguments[2], arguments[3]);
	double seconds = atof(arguments[4]);
	if (!strcmp(mode, "rr") || !strcmp(mode, "crr"))
		request_response(&address, seconds, mode[0] == 'c');
	else if (!strcmp(mode, "send") || !strcmp(mode, "receive"))
		bulk(&address, seconds, mode[0] == 's');
	else
		return 2;
	return 0;
}
