/* The guest's end of a TCP connection: carries out the steps it is given and checks every byte it receives.
 *
 *     peer STEP...
 *
 * Both directions of a connection carry the same endless pattern, from its first byte on.  Steps, in the order given:
 *
 *     rcvbuf BYTES              SO_RCVBUF of the connection that comes next
 *     connect HOST PORT         the connection that the steps below are about
 *     accept PORT               the same, made by the other side; prints "peer: listening" first
 *     control HOST PORT         a second connection, for "tell" and "await"
 *     tell                      one byte on the control connection
 *     await                     waits for one byte on it
 *     send BYTES                the next BYTES of the pattern
 *     receive BYTES             the next BYTES of the pattern must come
 *     exchange BYTES            both at once
 *     fill BYTES                sends at most BYTES, until 300 ms go by without room; fails when there was room for all
 *     rest BYTES                sends what is missing to BYTES since the connection began
 *     shutdown                  ends our sending direction
 *     eof                       the other side's end of data must come
 *     reset                     ECONNRESET must come, perhaps after data
 *     abort                     closes with SO_LINGER 0, which sends a reset
 *     close                     closes
 *     mtu INTERFACE BYTES       sets the interface's MTU
 *     info                      prints "options N mss N" of TCP_INFO
 *     short HOST PORT COUNT     COUNT connections, one after the other: one byte there and back, then closed
 *
 * Ends with status 0 when every step succeeded; otherwise names the step that failed.  No wait lasts longer than
 * PATIENCE seconds.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE 30
#define BLOCK (64 << 10)

static const char *step = "start";
static int data_fd = -1, control_fd = -1, receive_buffer;
static size_t sent, received;

static void fail(const char *why)
{
	printf("peer: %s: %s; %zu bytes sent, %zu received\n", step, why, sent, received);
	exit(1);
}

static void need(int fine)
{
	if (!fine)
		fail(strerror(errno));
}

/* Word k of the pattern is k * 2654435761 mod 2**32, least significant byte first. */
static void fill_pattern(unsigned char *into, size_t from, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		uint32_t word = (uint32_t)((from + i) / 4) * UINT32_C(2654435761);
		into[i] = (unsigned char)(word >> (from + i) % 4 * 8);
	}
}

static void set_patience(int fd, int option, long milliseconds)
{
	struct timeval time = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};

	need(!setsockopt(fd, SOL_SOCKET, option, &time, sizeof time));
}

static socklen_t parse(const char *host, const char *port, struct sockaddr_storage *address)
{
	struct sockaddr_in *four = (struct sockaddr_in *)address;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;

	memset(address, 0, sizeof *address);
	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons((uint16_t)atoi(port));
		return sizeof *four;
	}
	if (inet_pton(AF_INET6, host, &six->sin6_addr) != 1)
		fail("no address");
	six->sin6_family = AF_INET6;
	six->sin6_port = htons((uint16_t)atoi(port));
	return sizeof *six;
}

static int new_socket(int family)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	need(fd >= 0);
	if (receive_buffer)
		need(!setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer));
	/* accept() and connect() obey these as well. */
	set_patience(fd, SO_RCVTIMEO, PATIENCE * 1000);
	set_patience(fd, SO_SNDTIMEO, PATIENCE * 1000);
	return fd;
}

static int connected(const char *host, const char *port)
{
	struct sockaddr_storage address;
	socklen_t length = parse(host, port, &address);
	int fd = new_socket(address.ss_family);

	need(!connect(fd, (struct sockaddr *)&address, length));
	return fd;
}

/* IPv4's connections come as well. */
static int accepted(const char *port)
{
	struct sockaddr_storage address;
	socklen_t length = parse("::", port, &address);
	int on = 1, server = new_socket(AF_INET6), fd;

	need(!setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
	need(!bind(server, (struct sockaddr *)&address, length) && !listen(server, 1));
	printf("peer: listening\n");
	fd = accept(server, NULL, NULL);
	need(fd >= 0);
	set_patience(fd, SO_RCVTIMEO, PATIENCE * 1000);
	set_patience(fd, SO_SNDTIMEO, PATIENCE * 1000);
	close(server);
	return fd;
}

/* Up to the position `until` of the pattern; 0 when the send timed out before. */
static int send_until(size_t until)
{
	static unsigned char block[BLOCK];

	while (sent < until) {
		size_t length = until - sent < BLOCK ? until - sent : BLOCK;
		fill_pattern(block, sent, length);
		ssize_t done = send(data_fd, block, length, MSG_NOSIGNAL);
		if (done < 0 && errno == EAGAIN)
			return 0;
		need(done >= 0);
		sent += (size_t)done;
	}
	return 1;
}

static void receive_until(size_t until)
{
	static unsigned char block[BLOCK], expected[BLOCK];

	while (received < until) {
		size_t length = until - received < BLOCK ? until - received : BLOCK;
		ssize_t done = recv(data_fd, block, length, 0);
		need(done >= 0);
		if (!done)
			fail("the end of data came too early");
		fill_pattern(expected, received, (size_t)done);
		if (memcmp(block, expected, (size_t)done))
			fail("wrong content");
		received += (size_t)done;
	}
}

static void exchange(size_t length)
{
	pid_t child = fork();
	int status;

	need(child >= 0);
	if (!child) {
		if (!send_until(sent + length))
			fail("no room");
		exit(0);
	}
	receive_until(received + length);
	need(waitpid(child, &status, 0) == child);
	if (status)
		exit(1);
	sent += length;
}

static void expect_end(int with_reset)
{
	static char block[BLOCK];
	ssize_t done;

	do
		done = recv(data_fd, block, sizeof block, 0);
	while (done > 0 && with_reset);
	if (done > 0)
		fail("more data came");
	if (with_reset && !done)
		fail("the end of data came instead");
	need(!done || (with_reset && errno == ECONNRESET));
}

static void close_data(int with_reset)
{
	struct linger now = {.l_onoff = 1};

	if (with_reset)
		need(!setsockopt(data_fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
	need(!close(data_fd));
	data_fd = -1;
}

static void set_mtu(const char *name, int mtu)
{
	struct ifreq request = {.ifr_mtu = mtu};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	need(fd >= 0 && !ioctl(fd, SIOCSIFMTU, &request));
	close(fd);
}

static void print_info(void)
{
	struct tcp_info info;
	socklen_t length = sizeof info;

	need(!getsockopt(data_fd, IPPROTO_TCP, TCP_INFO, &info, &length));
	printf("options %u mss %u\n", info.tcpi_options & (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE), info.tcpi_snd_mss);
}

static void short_connections(const char *host, const char *port, int count)
{
	for (int i = 0; i < count; i++) {
		char byte = (char)i, back = (char)~i;

		data_fd = connected(host, port);
		need(send(data_fd, &byte, 1, MSG_NOSIGNAL) == 1);
		need(recv(data_fd, &back, 1, 0) == 1);
		if (back != byte)
			fail("wrong content");
		close_data(0);
	}
	printf("%d short connections\n", count);
}

static char **argument;

static const char *next(void)
{
	if (!*argument)
		fail("a step lacks an argument");
	return *argument++;
}

static size_t next_size(void)
{
	return strtoul(next(), NULL, 10);
}

static int is(const char *name)
{
	return !strcmp(step, name);
}

static void take_step(void)
{
	char byte = 'x';

	if (is("rcvbuf")) {
		receive_buffer = (int)next_size();
	} else if (is("connect")) {
		const char *host = next();
		data_fd = connected(host, next());
		sent = received = 0;
	} else if (is("accept")) {
		data_fd = accepted(next());
		sent = received = 0;
	} else if (is("control")) {
		const char *host = next();
		control_fd = connected(host, next());
	} else if (is("tell")) {
		need(send(control_fd, &byte, 1, MSG_NOSIGNAL) == 1);
	} else if (is("await")) {
		need(recv(control_fd, &byte, 1, 0) == 1);
	} else if (is("send")) {
		if (!send_until(sent + next_size()))
			fail("no room");
	} else if (is("receive")) {
		receive_until(received + next_size());
	} else if (is("exchange")) {
		exchange(next_size());
	} else if (is("fill")) {
		set_patience(data_fd, SO_SNDTIMEO, 300);
		if (send_until(next_size()))
			fail("there was room for all");
		set_patience(data_fd, SO_SNDTIMEO, PATIENCE * 1000);
	} else if (is("rest")) {
		if (!send_until(next_size()))
			fail("no room");
	} else if (is("shutdown")) {
		need(!shutdown(data_fd, SHUT_WR));
	} else if (is("eof")) {
		expect_end(0);
	} else if (is("reset")) {
		expect_end(1);
	} else if (is("abort")) {
		close_data(1);
	} else if (is("close")) {
		close_data(0);
	} else if (is("mtu")) {
		const char *name = next();
		set_mtu(name, (int)next_size());
	} else if (is("info")) {
		print_info();
	} else if (is("short")) {
		const char *host = next(), *port = next();
		short_connections(host, port, (int)next_size());
	} else {
		fail("no such step");
	}
}

int main(int count, char **arguments)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	argument = arguments + (count > 0);
	while (*argument) {
		step = next();
		take_step();
	}
	return 0;
}
