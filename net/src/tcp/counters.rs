//! What the engine counts. Plain integers: an engine belongs to one core.

throng_runtime::metrics! {
    /// Totals since the start of the engine.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Counters {
        /// Segments received, of any kind.
        counter segments_in: u64,
        /// Segments sent, of any kind (a GSO send counts once).
        counter segments_out: u64,
        /// Received segments that took the header-prediction path.
        counter predicted: u64,
        /// Payload bytes received in order and kept.
        counter bytes_in: u64,
        /// Payload bytes sent, retransmissions not included.
        counter bytes_out: u64,
        /// Active opens.
        counter connects: u64,
        /// Passive opens completed.
        counter accepts: u64,
        /// Searches for a source port that found every one in use. While none comes free for that
        /// destination, further active opens to it fail without a search and are not counted.
        limit ports_exhausted: u64,
        /// Active opens that failed.
        counter connect_failures: u64,
        /// Connections ended by the peer's reset.
        counter resets_in: u64,
        /// Resets sent.
        counter resets_out: u64,
        /// Resets not sent for the rate limit.
        limit resets_limited: u64,
        /// SYNs dropped: no room in the half-open table, and the numbers of a
        /// cookie are among those of the old connection in TIME_WAIT.
        limit syn_dropped_half_open: u64,
        /// SYNs answered with a cookie: no room in the half-open table.
        limit syn_cookies_sent: u64,
        /// Passive opens completed by a cookie.
        counter syn_cookies_accepted: u64,
        /// Segments to a listener, while cookies were out, that belonged to no connection and
        /// bore no good cookie.
        counter syn_cookies_rejected: u64,
        /// SYNs dropped: the listener's accept queue or backlog was full.
        limit syn_dropped_backlog: u64,
        /// SYNs dropped: no room for another connection.
        limit syn_dropped_connections: u64,
        /// Final handshake ACKs dropped: the accept queue was full.
        limit accept_overflow: u64,
        /// Connections reset at their close: there were too many orphans.
        limit orphans_reset: u64,
        /// SYN-ACKs sent again.
        counter syn_ack_retransmits: u64,
        /// Half-open connections forgotten.
        counter half_open_expired: u64,
        /// Segments to no connection and no listener.
        counter no_connection: u64,
        /// Segments with flags or lengths that make no sense.
        counter malformed: u64,
        /// Segments outside of the receive window.
        counter out_of_window: u64,
        /// Segments dropped by PAWS (RFC 7323 5).
        counter paws_dropped: u64,
        /// Segments dropped for lack of the negotiated timestamp (RFC 7323 3.2).
        counter timestamp_missing: u64,
        /// Segments whose acknowledgement number was unacceptable.
        counter bad_ack: u64,
        /// Challenge ACKs sent (RFC 5961).
        counter challenge_acks: u64,
        /// Challenge ACKs not sent for the rate limit.
        counter challenge_limited: u64,
        /// Segments that arrived out of order and were kept.
        counter out_of_order: u64,
        /// Payload received a second time, in bytes.
        counter duplicate_bytes: u64,
        /// Out-of-order payload dropped for the range limit.
        limit ranges_dropped: u64,
        /// Payload dropped for the receive memory bound.
        limit recv_memory_dropped: u64,
        /// Segments kept beyond the receive memory bound, of connections that held nothing else.
        limit recv_memory_forced: u64,
        /// Pieces queued beyond the send memory bound, of connections that had nothing queued.
        limit send_memory_forced: u64,
        /// Times a receive window grew.
        counter windows_grown: u64,
        /// Times a receive window did not grow, for lack of receive memory.
        limit windows_held: u64,
        /// Times a receive window was made smaller, for lack of receive memory.
        limit windows_reduced: u64,
        /// Retransmission timeouts.
        counter timeouts: u64,
        /// Times the end of the reordering window found something lost (RFC 8985 6.2).
        counter reordering_timeouts: u64,
        /// Probes of the tail of what was out (RFC 8985 7).
        counter tail_probes: u64,
        /// Losses that a probe of the tail has repaired.
        counter tail_losses: u64,
        /// Connections whose segments arrived out of the order they were sent in.
        counter reordering_paths: u64,
        /// Acknowledgements that report what arrived twice (RFC 2883).
        counter dsacks_in: u64,
        /// Timeouts for what was only late, and taken back (RFC 5682, RFC 3522, RFC 3708).
        counter spurious_timeouts: u64,
        /// Fast recoveries for what was only late, and taken back.
        counter spurious_recoveries: u64,
        /// Reports sent of what arrived twice (RFC 2883).
        counter dsacks_out: u64,
        /// Segments retransmitted.
        counter retransmits: u64,
        /// Times new data waited for its pacing time.
        counter paced: u64,
        /// First slow starts that HyStart++ ended.
        counter hystart_exits: u64,
        /// Fast recoveries entered.
        counter recoveries: u64,
        /// Window and keepalive probes sent.
        counter probes: u64,
        /// Connections that gave up for lack of an answer.
        counter timed_out: u64,
        /// TIME_WAIT entries recycled early for the bound.
        limit time_wait_recycled: u64,
        /// TIME_WAIT entries taken over by a new SYN.
        counter time_wait_reused: u64,
        /// Replies dropped for the bound of the reply queue.
        limit replies_dropped: u64,
        /// ICMP messages that belonged to no outstanding segment, or contradicted it.
        counter icmp_ignored: u64,
        /// ICMP messages that lowered what is known of a path's MTU.
        counter path_mtu_lowered: u64,
        /// ICMP messages of a path's MTU that await the proof of a timeout.
        counter path_mtu_doubted: u64,
        /// Times segments were shortened because full-sized ones vanished.
        counter path_mtu_suspected: u64,
        /// Full-sized segments sent to see whether they still vanish.
        counter path_mtu_probes: u64,
        /// Of those, the ones that arrived.
        counter path_mtu_raised: u64,
        /// Segments received with payload that a router had marked for congestion.
        counter ecn_marks: u64,
        /// Times the congestion window was reduced for the echo of a mark.
        counter ecn_reductions: u64,
        /// Connections that no longer say that they may be marked, for only what was sent
        /// again, which never says so, had arrived.
        counter ecn_given_up: u64,
    }
}
