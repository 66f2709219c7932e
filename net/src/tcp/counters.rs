//! What the engine counts. Plain integers: an engine belongs to one core.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Totals since the start of the engine.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name, for exporters.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Segments received, of any kind.
    segments_in,
    /// Segments sent, of any kind (a GSO send counts once).
    segments_out,
    /// Received segments that took the header-prediction path.
    predicted,
    /// Payload bytes received in order and kept.
    bytes_in,
    /// Payload bytes sent, retransmissions not included.
    bytes_out,
    /// Active opens.
    connects,
    /// Passive opens completed.
    accepts,
    /// Active opens that failed.
    connect_failures,
    /// Connections ended by the peer's reset.
    resets_in,
    /// Resets sent.
    resets_out,
    /// Resets not sent for the rate limit.
    resets_limited,
    /// SYNs dropped: no room in the half-open table.
    syn_dropped_half_open,
    /// SYNs dropped: the listener's accept queue or backlog was full.
    syn_dropped_backlog,
    /// SYNs dropped: no room for another connection.
    syn_dropped_connections,
    /// Final handshake ACKs dropped: the accept queue was full.
    accept_overflow,
    /// SYN-ACKs sent again.
    syn_ack_retransmits,
    /// Half-open connections forgotten.
    half_open_expired,
    /// Segments to no connection and no listener.
    no_connection,
    /// Segments with flags or lengths that make no sense.
    malformed,
    /// Segments outside of the receive window.
    out_of_window,
    /// Segments dropped by PAWS (RFC 7323 5).
    paws_dropped,
    /// Segments dropped for lack of the negotiated timestamp (RFC 7323 3.2).
    timestamp_missing,
    /// Segments whose acknowledgement number was unacceptable.
    bad_ack,
    /// Challenge ACKs sent (RFC 5961).
    challenge_acks,
    /// Challenge ACKs not sent for the rate limit.
    challenge_limited,
    /// Segments that arrived out of order and were kept.
    out_of_order,
    /// Payload received a second time, in bytes.
    duplicate_bytes,
    /// Out-of-order payload dropped for the range limit.
    ranges_dropped,
    /// Payload dropped for the receive memory bound.
    recv_memory_dropped,
    /// Retransmission timeouts.
    timeouts,
    /// Segments retransmitted.
    retransmits,
    /// Fast recoveries entered.
    recoveries,
    /// Window and keepalive probes sent.
    probes,
    /// Connections that gave up for lack of an answer.
    timed_out,
    /// TIME_WAIT entries recycled early for the bound.
    time_wait_recycled,
    /// TIME_WAIT entries taken over by a new SYN.
    time_wait_reused,
    /// Replies dropped for the bound of the reply queue.
    replies_dropped,
    /// ICMP messages that belonged to no outstanding segment.
    icmp_ignored,
}
