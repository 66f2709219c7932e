/* What packetdrill does with the shared object, in small: a handshake, an echo, a retransmission,
 * a call that waits in a thread of its own, errors. Usage: door LIBRARY. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

/* The table as packetdrill declares it. */
struct packetdrill_interface {
	void *userdata;
	void (*free)(void *);
	int (*socket)(void *, int, int, int);
	int (*bind)(void *, int, const struct sockaddr *, socklen_t);
	int (*listen)(void *, int, int);
	int (*accept)(void *, int, struct sockaddr *, socklen_t *);
	int (*connect)(void *, int, const struct sockaddr *, socklen_t);
	ssize_t (*read)(void *, int, void *, size_t);
	ssize_t (*readv)(void *, int, const struct iovec *, int);
	ssize_t (*recv)(void *, int, void *, size_t, int);
	ssize_t (*recvfrom)(void *, int, void *, size_t, int, struct sockaddr *, socklen_t *);
	ssize_t (*recvmsg)(void *, int, struct msghdr *, int);
	ssize_t (*write)(void *, int, const void *, size_t);
	ssize_t (*writev)(void *, int, const struct iovec *, int);
	ssize_t (*send)(void *, int, const void *, size_t, int);
	ssize_t (*sendto)(void *, int, const void *, size_t, int, const struct sockaddr *, socklen_t);
	ssize_t (*sendmsg)(void *, int, const struct msghdr *, int);
	int (*fcntl)(void *, int, int, ...);
	int (*ioctl)(void *, int, unsigned long, ...);
	int (*close)(void *, int);
	int (*shutdown)(void *, int, int);
	int (*getsockopt)(void *, int, int, int, void *, socklen_t *);
	int (*setsockopt)(void *, int, int, int, const void *, socklen_t);
	int (*poll)(void *, struct pollfd *, nfds_t, int);
	int (*netdev_send)(void *, const void *, size_t);
	int (*netdev_receive)(void *, void *, size_t *, long long *);
	int (*usleep)(void *, useconds_t);
	int (*gettimeofday)(void *, struct timeval *, struct timezone *);
	int (*epoll_create)(void *, int);
	int (*epoll_ctl)(void *, int, int, int, struct epoll_event *);
	int (*epoll_wait)(void *, int, struct epoll_event *, int, int);
	int (*pipe)(void *, int[2]);
	int (*splice)(void *, int, loff_t *, int, loff_t *, size_t, unsigned int);
};

static struct packetdrill_interface ifc;
static void *data;

#define CHECK(condition)                                                                    \
	do {                                                                                \
		if (!(condition)) {                                                         \
			fprintf(stderr, "door.c:%d: %s (errno %d)\n", __LINE__, #condition, \
				errno);                                                     \
			exit(1);                                                            \
		}                                                                           \
	} while (0)

static uint32_t sum(const uint8_t *bytes, size_t len, uint32_t total)
{
	for (size_t i = 0; i < len; i++)
		total += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
	return total;
}

static uint16_t folded(uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)~total;
}

static void put32(uint8_t *at, uint32_t value)
{
	value = htonl(value);
	memcpy(at, &value, 4);
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, 4);
	return ntohl(value);
}

/* A segment from 192.0.2.1:40000 to 192.168.0.1:8080. */
static void inject(uint8_t flags, uint32_t seq, uint32_t ack, const char *payload)
{
	uint8_t packet[1500] = {0x45};
	size_t len = 40 + strlen(payload);
	packet[2] = (uint8_t)(len >> 8);
	packet[3] = (uint8_t)len;
	packet[8] = 64;
	packet[9] = 6;
	inet_pton(AF_INET, "192.0.2.1", packet + 12);
	inet_pton(AF_INET, "192.168.0.1", packet + 16);
	uint16_t check = folded(sum(packet, 20, 0));
	packet[10] = (uint8_t)(check >> 8);
	packet[11] = (uint8_t)check;
	uint8_t *tcp = packet + 20;
	tcp[0] = 40000 >> 8;
	tcp[1] = 40000 & 0xff;
	tcp[2] = 8080 >> 8;
	tcp[3] = 8080 & 0xff;
	put32(tcp + 4, seq);
	put32(tcp + 8, ack);
	tcp[12] = 0x50;
	tcp[13] = flags;
	tcp[14] = 0x7f;
	memcpy(tcp + 20, payload, strlen(payload));
	check = folded(sum(packet + 12, 8, sum(tcp, len - 20, (uint32_t)(6 + len - 20))));
	tcp[16] = (uint8_t)(check >> 8);
	tcp[17] = (uint8_t)check;
	CHECK(ifc.netdev_send(data, packet, len) == 0);
}

static uint8_t got[2000];
static size_t got_len;
static long long got_at;

/* The next packet, with these flags. */
static void sniff(uint8_t flags)
{
	got_len = sizeof(got);
	CHECK(ifc.netdev_receive(data, got, &got_len, &got_at) == 0);
	CHECK(got_len >= 40 && got[33] == flags);
	CHECK(folded(sum(got, 20, 0)) == 0);
	CHECK(folded(sum(got + 12, 8, sum(got + 20, got_len - 20, (uint32_t)(6 + got_len - 20)))) == 0);
}

static long long now(void)
{
	struct timeval tv;
	CHECK(ifc.gettimeofday(data, &tv, NULL) == 0);
	return tv.tv_sec * 1000000LL + tv.tv_usec;
}

static int listener;

static void *wait_for_a_connection(void *to)
{
	struct sockaddr_in peer;
	socklen_t len = sizeof(peer);
	*(int *)to = ifc.accept(data, listener, (struct sockaddr *)&peer, &len);
	CHECK(len == sizeof(peer) && ntohs(peer.sin_port) == 40000);
	CHECK(peer.sin_addr.s_addr == inet_addr("192.0.2.1"));
	return NULL;
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	void *handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (!handle)
		fprintf(stderr, "%s\n", dlerror());
	CHECK(handle);
	void (*init)(const char *, struct packetdrill_interface *) =
		(void (*)(const char *, struct packetdrill_interface *))dlsym(
			handle, "packetdrill_interface_init");
	CHECK(init);
	init("local=192.168.0.1", &ifc);
	data = ifc.userdata;

	/* The clock stands still but for usleep. */
	long long start = now();
	CHECK(ifc.usleep(data, 250000) == 0);
	CHECK(now() == start + 250000);

	CHECK(ifc.socket(data, AF_INET, SOCK_DGRAM, 0) == -1 && errno == EPROTONOSUPPORT);
	listener = ifc.socket(data, AF_INET, SOCK_STREAM, IPPROTO_TCP);
	CHECK(listener >= 0);
	int one = 1;
	CHECK(ifc.setsockopt(data, listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0);
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(8080)};
	CHECK(ifc.bind(data, listener, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	CHECK(ifc.listen(data, listener, 1) == 0);

	/* accept waits in a thread while the handshake is injected here. */
	int fd = -1;
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, wait_for_a_connection, &fd) == 0);
	inject(TH_SYN, 1000, 0, "");
	sniff(TH_SYN | TH_ACK);
	uint32_t iss = get32(got + 24);
	CHECK(get32(got + 28) == 1001);
	CHECK(ifc.usleep(data, 100000) == 0);
	inject(TH_ACK, 1001, iss + 1, "");
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(fd >= 0 && fd != listener);

	/* Without a wait. */
	int flags = ifc.fcntl(data, fd, F_GETFL);
	CHECK(flags == O_RDWR);
	CHECK(ifc.fcntl(data, fd, F_SETFL, flags | O_NONBLOCK) == 0);
	char text[100];
	CHECK(ifc.read(data, fd, text, sizeof(text)) == -1 && errno == EAGAIN);

	/* An echo, in two pieces. */
	inject(TH_ACK | TH_PUSH, 1001, iss + 1, "hello, engine");
	int unread = 0;
	CHECK(ifc.ioctl(data, fd, FIONREAD, &unread) == 0 && unread == 13);
	struct pollfd ask = {.fd = fd, .events = POLLIN | POLLOUT};
	CHECK(ifc.poll(data, &ask, 1, 0) == 1 && ask.revents == (POLLIN | POLLOUT));
	struct iovec parts[2] = {{text, 5}, {text + 50, 50}};
	CHECK(ifc.readv(data, fd, parts, 2) == 13);
	CHECK(memcmp(text, "hello", 5) == 0 && memcmp(text + 50, ", engine", 8) == 0);
	parts[1].iov_len = 8;
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	long long sent = now();
	CHECK(ifc.sendmsg(data, fd, &message, 0) == 13);
	sniff(TH_ACK | TH_PUSH);
	CHECK(got_at == sent && got_len == 53 && memcmp(got + 40, "hello, engine", 13) == 0);
	CHECK(get32(got + 28) == 1014);

	/* Nobody acknowledges it: the next packet is the same again, and the clock has moved there. */
	sniff(TH_ACK | TH_PUSH);
	CHECK(get32(got + 24) == iss + 1 && got_len == 53);
	CHECK(got_at > sent + 200000 && got_at < sent + 1000000 && now() == got_at);
	inject(TH_ACK, 1014, iss + 14, "");

	struct tcp_info info;
	socklen_t len = sizeof(info);
	CHECK(ifc.getsockopt(data, fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
	CHECK(len <= sizeof(info) && len > 100);
	CHECK(info.tcpi_state == TCP_ESTABLISHED && info.tcpi_total_retrans == 1);
	CHECK(info.tcpi_snd_mss == 536 && info.tcpi_unacked == 0);

	/* Nothing is owed and no timer runs: there is no packet to come. */
	got_len = sizeof(got);
	CHECK(ifc.netdev_receive(data, got, &got_len, &got_at) == 0 && got_len == 0);

	CHECK(ifc.shutdown(data, fd, SHUT_WR) == 0);
	sniff(TH_FIN | TH_ACK);
	CHECK(ifc.write(data, fd, "x", 1) == -1 && errno == EPIPE);
	inject(TH_FIN | TH_ACK, 1014, iss + 15, "");
	sniff(TH_ACK);
	CHECK(ifc.recv(data, fd, text, sizeof(text), 0) == 0);
	CHECK(ifc.close(data, fd) == 0);
	CHECK(ifc.close(data, fd) == -1 && errno == EBADF);

	/* An open of ours. */
	fd = ifc.socket(data, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP);
	addr.sin_port = htons(40000);
	addr.sin_addr.s_addr = inet_addr("192.0.2.1");
	CHECK(ifc.connect(data, fd, (struct sockaddr *)&addr, sizeof(addr)) == -1);
	CHECK(errno == EINPROGRESS);
	sniff(TH_SYN);
	CHECK(memcmp(got + 12, "\300\250\0\1", 4) == 0);
	CHECK(ifc.epoll_create(data, 1) == -1 && errno == ENOSYS);

	/* What is broken is dropped. */
	CHECK(ifc.netdev_send(data, "garbage", 7) == 0);
	ifc.free(data);
	puts("passed");
	return 0;
}
