//! What a shard's stack has done and thrown away.

/// Running totals of one shard's packet path since it started. Plain numbers: only the
/// shard's own thread touches them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// TCP segments handed to the engine.
    pub rx_segments: u64,
    /// UDP datagrams handed to sockets.
    pub rx_datagrams: u64,
    /// Frames handed to the slow path.
    pub rx_slow: u64,
    /// Frames with a header that contradicts itself or the frame's length.
    pub rx_malformed: u64,
    /// Frames with a wrong checksum.
    pub rx_bad_checksum: u64,
    /// Packets from an address no host can have.
    pub rx_bad_source: u64,
    /// Datagrams dropped because the socket's queue was full.
    pub udp_queue_full: u64,
    /// Frames handed to the shard that owns their flow.
    pub steered_out: u64,
    /// Frames of our own flows that another shard received.
    pub steered_in: u64,
    /// Frames lost because the owner's mesh ring was full.
    pub steer_dropped: u64,
    /// TCP segments handed to the device.
    pub tx_segments: u64,
    /// Frames lost because the transmit queue was full (slow path only; TCP waits).
    pub tx_queue_full: u64,
    /// Times the device had no buffer.
    pub tx_no_buffer: u64,
    /// Packets for which there is no route.
    pub tx_no_route: u64,
    /// Packets lost because the neighbour table was full of neighbours in use.
    pub tx_no_neighbor: u64,
}
