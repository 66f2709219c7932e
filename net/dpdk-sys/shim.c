#include "shim.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_prefetch.h>

#define SAME_PLACE(ours, theirs)                                                         \
	_Static_assert(offsetof(struct throng_mbuf, ours) ==                             \
				       offsetof(struct rte_mbuf, theirs),               \
		       "struct rte_mbuf differs from struct throng_mbuf: " #theirs)
SAME_PLACE(buf_addr, buf_addr);
SAME_PLACE(data_off, data_off);
SAME_PLACE(refcnt, refcnt);
SAME_PLACE(nb_segs, nb_segs);
SAME_PLACE(port, port);
SAME_PLACE(ol_flags, ol_flags);
SAME_PLACE(packet_type, packet_type);
SAME_PLACE(pkt_len, pkt_len);
SAME_PLACE(data_len, data_len);
SAME_PLACE(vlan_tci, vlan_tci);
SAME_PLACE(rss_hash, hash.rss);
SAME_PLACE(buf_len, buf_len);
SAME_PLACE(pool, pool);
SAME_PLACE(tx_offload, tx_offload);

static inline struct rte_mbuf *theirs(struct throng_mbuf *m)
{
	return (struct rte_mbuf *)m;
}

int throng_errno(void)
{
	return rte_errno;
}

struct rte_mempool *throng_page_pool(const char *name, uint32_t n, uint32_t cache, uint16_t room,
				     int socket)
{
	/* Spreading would pad an object to more than its page. */
	const uint32_t flags = RTE_MEMPOOL_F_NO_SPREAD;
	const uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
	uint32_t element = sizeof(struct rte_mbuf) + room;
	uint32_t object = rte_mempool_calc_obj_size(element, flags, NULL);
	struct rte_pktmbuf_pool_private private;
	struct rte_mempool *pool;
	int code;

	if (object > page || page - object + room > UINT16_MAX) {
		rte_errno = EINVAL;
		return NULL;
	}
	/* What is left of the page goes to the data. */
	element += page - object;
	memset(&private, 0, sizeof(private));
	private.mbuf_data_room_size = element - sizeof(struct rte_mbuf);
	pool = rte_mempool_create_empty(name, n, element, cache, sizeof(private), socket, flags);
	if (pool == NULL)
		return NULL;
	code = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (code == 0) {
		rte_pktmbuf_pool_init(pool, &private);
		code = rte_mempool_populate_default(pool);
	}
	if (code < 0) {
		rte_mempool_free(pool);
		rte_errno = -code;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

uint16_t throng_rx_burst(uint16_t port, uint16_t queue, struct throng_mbuf **frames, uint16_t n)
{
	struct rte_mbuf **mbufs = (struct rte_mbuf **)frames;
	uint16_t got = rte_eth_rx_burst(port, queue, mbufs, n);

	/* The first 192 bytes: headers, and what a short message carries. A peer on another core has just
	 * written them. */
	for (uint16_t i = 0; i < got; i++) {
		const char *data = rte_pktmbuf_mtod(mbufs[i], const char *);

		rte_prefetch0(data);
		if (mbufs[i]->data_len > 64) {
			rte_prefetch0(data + 64);
			rte_prefetch0(data + 128);
		}
	}
	return got;
}

uint32_t throng_tx_burst(uint16_t port, uint16_t queue, struct throng_mbuf **frames, uint16_t n,
			 int prepare)
{
	struct rte_mbuf **mbufs = (struct rte_mbuf **)frames;
	uint16_t good = n, sent;

	if (prepare)
		good = rte_eth_tx_prepare(port, queue, mbufs, n);
	sent = good ? rte_eth_tx_burst(port, queue, mbufs, good) : 0;
	return sent | ((uint32_t)(good < n && sent == good) << 16);
}

int throng_alloc_bulk(struct rte_mempool *pool, struct throng_mbuf **mbufs, uint32_t n)
{
	return rte_pktmbuf_alloc_bulk(pool, (struct rte_mbuf **)mbufs, n);
}

void throng_free_bulk(struct throng_mbuf **mbufs, uint32_t n)
{
	rte_pktmbuf_free_bulk((struct rte_mbuf **)mbufs, n);
}

int throng_append(struct throng_mbuf *frame, const uint8_t *bytes, uint32_t len)
{
	struct rte_mbuf *head = theirs(frame);
	struct rte_mbuf *tail = rte_pktmbuf_lastseg(head);

	for (;;) {
		uint32_t room = rte_pktmbuf_tailroom(tail);
		uint32_t part = RTE_MIN(room, len);

		memcpy(rte_pktmbuf_mtod_offset(tail, uint8_t *, tail->data_len), bytes, part);
		tail->data_len += part;
		head->pkt_len += part;
		bytes += part;
		len -= part;
		if (len == 0)
			return 0;

		struct rte_mbuf *more = rte_pktmbuf_alloc(head->pool);

		if (more == NULL)
			return -1;
		if (head->nb_segs >= RTE_MBUF_MAX_NB_SEGS) {
			rte_pktmbuf_free(more);
			return -1;
		}
		/* A later segment needs no headroom. */
		more->data_off = 0;
		tail->next = more;
		head->nb_segs++;
		tail = more;
	}
}

const struct throng_mbuf *throng_next(const struct throng_mbuf *segment)
{
	return (const struct throng_mbuf *)((const struct rte_mbuf *)segment)->next;
}

void throng_copy_out(const struct throng_mbuf *frame, uint8_t *out)
{
	const struct rte_mbuf *m = (const struct rte_mbuf *)frame;
	uint32_t left = m->pkt_len;

	for (; m != NULL && left != 0; m = m->next) {
		uint32_t part = RTE_MIN(left, (uint32_t)m->data_len);

		memcpy(out, rte_pktmbuf_mtod(m, const void *), part);
		out += part;
		left -= part;
	}
	/* pkt_len larger than the segments: a driver's fault; do not hand up old memory. */
	memset(out, 0, left);
}

int throng_linearize(struct throng_mbuf *frame)
{
	return rte_pktmbuf_linearize(theirs(frame));
}

void throng_drain_ring(struct rte_ring *ring)
{
	void *frame;

	while (rte_ring_dequeue(ring, &frame) == 0)
		rte_pktmbuf_free(frame);
}
