/* Bursts over memory that another thread may unmap.
 *
 * When a memif peer leaves, DPDK's interrupt thread unmaps the rings while a polling thread
 * may be in the middle of a burst (memif_disconnect does not wait for it). Nothing outside
 * of the driver can lock the two against each other, so the fault is caught: the handler
 * jumps back to the start of the burst. A burst touches the shared memory with no lock held
 * and no allocation half done, so what is lost is at most the buffers it had in hand. */
#include "shim.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>

/* Where to go on a fault; NULL outside of guarded bursts. */
static __thread sigjmp_buf *volatile escape;

static const int SIGNALS[] = {SIGSEGV, SIGBUS};
static struct sigaction previous[RTE_DIM(SIGNALS)];

static void on_fault(int sig, siginfo_t *info, void *context)
{
	sigjmp_buf *to = escape;

	if (to != NULL) {
		escape = NULL;
		siglongjmp(*to, 1);
	}
	const struct sigaction *old = &previous[sig == SIGBUS];

	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(sig, info, context);
	else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN)
		/* Returning repeats the access, which then ends the process. */
		sigaction(sig, old, NULL);
	else
		old->sa_handler(sig);
}

int throng_guard_install(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_fault;
	/* NODEFER: the jump out of the handler leaves the signal unblocked. ONSTACK: Rust's
	 * own handler, called from ours, looks for stack overflows. */
	action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
	for (unsigned int i = 0; i < RTE_DIM(SIGNALS); i++) {
		if (sigaction(SIGNALS[i], &action, &previous[i]) != 0)
			return -1;
	}
	return 0;
}

uint16_t throng_rx_burst_guarded(uint16_t port, uint16_t queue, struct throng_mbuf **frames,
				 uint16_t n, uint64_t *faulted)
{
	sigjmp_buf here;
	uint16_t got;

	/* The driver stores a frame when it is complete: after a fault the stored ones count. */
	memset(frames, 0, n * sizeof(*frames));
	if (sigsetjmp(here, 0) == 0) {
		escape = &here;
		got = throng_rx_burst(port, queue, frames, n);
		escape = NULL;
		return got;
	}
	(*faulted)++;
	for (got = 0; got < n && frames[got] != NULL; got++)
		;
	return got;
}

/* Adds to the reference count of each segment of a frame. */
static void refer(struct rte_mbuf *frame, int16_t by)
{
	for (; frame != NULL; frame = frame->next)
		rte_mbuf_refcnt_update(frame, by);
}

uint32_t throng_tx_burst_guarded(uint16_t port, uint16_t queue, struct throng_mbuf **frames,
				 uint16_t n, int retains, uint64_t *faulted)
{
	struct rte_mbuf **mbufs = (struct rte_mbuf **)frames;
	sigjmp_buf here;
	uint32_t sent;

	if (retains) {
		if (sigsetjmp(here, 0) == 0) {
			escape = &here;
			sent = throng_tx_burst(port, queue, frames, n, 0);
			escape = NULL;
			return sent;
		}
		/* Nobody knows which the driver has kept: none is used again. */
		(*faulted)++;
		return n;
	}
	/* With a second reference the driver's free is only a note that it took the frame. */
	for (uint16_t i = 0; i < n; i++)
		refer(mbufs[i], 1);
	if (sigsetjmp(here, 0) == 0) {
		escape = &here;
		throng_tx_burst(port, queue, frames, n, 0);
		escape = NULL;
	} else {
		(*faulted)++;
	}
	for (sent = 0; sent < n && rte_mbuf_refcnt_read(mbufs[sent]) == 1; sent++)
		;
	for (uint16_t i = sent; i < n; i++)
		refer(mbufs[i], -1);
	throng_free_bulk(frames, sent);
	return sent;
}
