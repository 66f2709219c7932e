//! What a shard's stack has done and thrown away.

throng_runtime::metrics! {
    /// Running totals of one shard's packet path since it started. Plain numbers: only the
    /// shard's own thread touches them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Counters {
        /// TCP segments handed to the engine.
        counter rx_segments: u64,
        /// Of these, those that went to it as one with the one before (receive offload in software).
        counter rx_merged: u64,
        /// UDP datagrams handed to sockets.
        counter rx_datagrams: u64,
        /// Frames handed to the slow path.
        counter rx_slow: u64,
        /// Frames with a header that contradicts itself or the frame's length.
        counter rx_malformed: u64,
        /// Frames with a wrong checksum.
        counter rx_bad_checksum: u64,
        /// Packets from an address no host can have.
        counter rx_bad_source: u64,
        /// Datagrams dropped because the socket's queue was full.
        limit udp_queue_full: u64,
        /// Frames handed to the shard that owns their flow.
        counter steered_out: u64,
        /// Frames of our own flows that another shard received.
        counter steered_in: u64,
        /// Frames lost because the owner's mesh ring was full.
        limit steer_dropped: u64,
        /// TCP segments handed to the device.
        counter tx_segments: u64,
        /// Frames lost because the transmit queue was full (slow path only; TCP waits).
        limit tx_queue_full: u64,
        /// Times the device had no buffer.
        limit tx_no_buffer: u64,
        /// Packets for which there is no route.
        counter tx_no_route: u64,
        /// Packets lost because the neighbour table was full of neighbours in use.
        limit tx_no_neighbor: u64,
        /// Frames handed to the kernel by the exception path.
        counter exception_out: u64,
        /// Frames of the kernel's sent by the exception path.
        counter exception_in: u64,
        /// Frames for the kernel that were lost: its queue was full, its interface down, or there was no memory.
        limit exception_dropped: u64,
    }
}
