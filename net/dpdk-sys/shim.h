/* What Throng sees of DPDK: the control functions straight from its headers, and below
 * them the inline ones, wrapped so that one call does a burst. */
#ifndef THRONG_DPDK_SHIM_H
#define THRONG_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>

/* The part of struct rte_mbuf that the Rust side reads and writes itself, without DPDK's
 * unions and markers, whose names differ between releases. shim.c asserts each offset. */
struct throng_mbuf {
	void *buf_addr;
	uint64_t iova_or_next;
	uint16_t data_off;
	uint16_t refcnt;
	uint16_t nb_segs;
	uint16_t port;
	uint64_t ol_flags;
	uint32_t packet_type;
	uint32_t pkt_len;
	uint16_t data_len;
	uint16_t vlan_tci;
	uint32_t rss_hash;
	uint32_t hash_high;
	uint16_t vlan_tci_outer;
	uint16_t buf_len;
	struct rte_mempool *pool;
	uint64_t next_or_dynamic;
	uint64_t tx_offload;
};

/* Constants that the headers give as macros bindgen cannot fold. */
static const uint64_t THRONG_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t THRONG_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t THRONG_RX_L4_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t THRONG_RX_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t THRONG_RX_L4_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t THRONG_RX_IP_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t THRONG_RX_IP_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t THRONG_RX_IP_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t THRONG_RX_IP_NONE = RTE_MBUF_F_RX_IP_CKSUM_NONE;

static const uint64_t THRONG_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t THRONG_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t THRONG_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t THRONG_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t THRONG_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t THRONG_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;

static const uint64_t THRONG_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t THRONG_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t THRONG_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t THRONG_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t THRONG_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t THRONG_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t THRONG_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t THRONG_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t THRONG_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t THRONG_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

static const uint64_t THRONG_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t THRONG_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t THRONG_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t THRONG_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t THRONG_RSS_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint64_t THRONG_RSS_IPV6_UDP = RTE_ETH_RSS_NONFRAG_IPV6_UDP;

enum {
	THRONG_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS,
	THRONG_RETA_GROUP = RTE_ETH_RETA_GROUP_SIZE,
	THRONG_HEADROOM = RTE_PKTMBUF_HEADROOM,
	THRONG_MBUF_SIZE = sizeof(struct rte_mbuf),
	THRONG_LCORE_ANY = LCORE_ID_ANY,
	THRONG_RING_SP_SC = RING_F_SP_ENQ | RING_F_SC_DEQ,
	/* Bit positions in throng_mbuf.tx_offload. */
	THRONG_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS,
	THRONG_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS,
	THRONG_L4_LEN_SHIFT = RTE_MBUF_L4_LEN_OFS,
	THRONG_TSO_SHIFT = RTE_MBUF_TSO_SEGSZ_OFS,
};

/* rte_errno of this thread, of the last DPDK call that says it sets it. */
int throng_errno(void);

/* Gives each line of DPDK's log to `fn` from now on, with its level (RTE_LOG_EMERG 1 to
 * RTE_LOG_DEBUG 8). Lines may come from any thread. Before or after rte_eal_init. */
typedef void throng_log_fn(uint32_t level, const char *text, size_t len);
int throng_log_to(throng_log_fn *fn);

/* rte_pktmbuf_pool_create, but every buffer has a page of memory to itself, header and all, so that
 * the pages one after the other hold as many bytes as objects and objects of a page's size do. NULL:
 * see throng_errno(). */
struct rte_mempool *throng_page_pool(const char *name, uint32_t n, uint32_t cache, uint16_t room,
				     int socket);

/* Receives up to n frames of a queue and prefetches their headers. */
uint16_t throng_rx_burst(uint16_t port, uint16_t queue, struct throng_mbuf **frames, uint16_t n);

/* Sends up to n frames. Low half of the result: frames the port took, from the front. High
 * half: 1 when the frame after those was refused as it is (rte_eth_tx_prepare), else 0.
 * `prepare`: whether some frame asks for an offload. */
uint32_t throng_tx_burst(uint16_t port, uint16_t queue, struct throng_mbuf **frames, uint16_t n,
			 int prepare);

/* The same two for drivers that give memory shared with a peer back to the kernel while a
 * burst may be in it (memif, when the peer leaves): an access to memory that is gone ends the
 * burst instead of the process. `retains`: the driver keeps sent mbufs for a time (memif
 * zero-copy). *faulted counts bursts that ended so; each may lose the buffers it had in hand.
 * throng_guard_install has to be called before; it chains to the handlers it finds. */
uint16_t throng_rx_burst_guarded(uint16_t port, uint16_t queue, struct throng_mbuf **frames,
				 uint16_t n, uint64_t *faulted);
uint32_t throng_tx_burst_guarded(uint16_t port, uint16_t queue, struct throng_mbuf **frames,
				 uint16_t n, int retains, uint64_t *faulted);
int throng_guard_install(void);

/* Allocates exactly n reset mbufs, or none. 0 on success. */
int throng_alloc_bulk(struct rte_mempool *pool, struct throng_mbuf **mbufs, uint32_t n);

/* Frees n frames, each with all its segments. */
void throng_free_bulk(struct throng_mbuf **mbufs, uint32_t n);

/* Appends len bytes at the end of the frame, chaining mbufs of the frame's own pool.
 * 0 on success, else -1: no buffer, or too many segments; part may have been appended. */
int throng_append(struct throng_mbuf *frame, const uint8_t *bytes, uint32_t len);

/* The segment after this one, or NULL. */
const struct throng_mbuf *throng_next(const struct throng_mbuf *segment);

/* Copies the frame's pkt_len bytes to `out`. */
void throng_copy_out(const struct throng_mbuf *frame, uint8_t *out);

/* Makes the frame one segment, if its first has room. 0 on success. */
int throng_linearize(struct throng_mbuf *frame);

/* Frees every frame that waits in a ring of mbufs. The ring must have no other user. */
void throng_drain_ring(struct rte_ring *ring);

#endif
