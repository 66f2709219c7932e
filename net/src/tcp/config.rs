//! What an engine is told once, at its start, and what a connection can be told later.

use std::time::Duration;

use throng_runtime::ShardId;

/// Settings of an [`Engine`](super::Engine): protocol constants and limits.
///
/// Every limit has a defined answer when it is reached; the field says which.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest segment announced and sent over IPv4, in bytes of payload and TCP options
    /// (the path's MTU less 40). Default 1460.
    pub mss_v4: u16,
    /// The same over IPv6 (the MTU less 60). Default 1440.
    pub mss_v6: u16,
    /// Most bytes one connection may have queued for sending, where its congestion window is
    /// large: the bound is two of those. `send` answers
    /// [`SendError::WouldBlock`](super::SendError::WouldBlock) beyond it. Default 4 MiB.
    pub send_buffer: u32,
    /// The bound that any connection has, however small its congestion window, and all have while
    /// more than half of `send_memory` is used. Default 256 KiB.
    pub initial_send_buffer: u32,
    /// Largest receive window of one connection, in bytes: what it may grow to as long as its
    /// reader keeps up and less than half of `recv_memory` is used. The window scale
    /// follows from it. Default 6 MiB.
    pub recv_buffer: u32,
    /// The receive window that a connection begins with. Default 64 KiB.
    pub initial_recv_buffer: u32,
    /// Most bytes (payload and bookkeeping) all send queues of the engine hold together;
    /// beyond it `send` answers `WouldBlock`, except that a connection that has nothing queued may
    /// queue one segment. Default 256 MiB.
    pub send_memory: u64,
    /// Most bytes all receive queues of the engine hold together; what is out of order, half of
    /// it. As it fills, windows stop growing, then smaller ones are advertised; at the bound
    /// payload is dropped unacknowledged and counted, except that a connection that holds nothing
    /// may take in one segment. Default 256 MiB.
    pub recv_memory: u64,
    /// Most out-of-order ranges held for one connection; a segment that would open another
    /// is dropped and counted. A queue that overflows while a window doubles leaves a hole
    /// after each segment or two. Default 512.
    pub max_ranges: usize,
    /// Most connections; beyond it `connect` answers [`Error::ConnectionLimit`](super::Error)
    /// and SYNs are dropped and counted. Default 1,048,576.
    pub max_connections: usize,
    /// Most half-open passive connections; beyond it SYNs are answered with cookies
    /// (RFC 4987 3.6) and counted. 0: cookies for all. Default 65,536.
    pub max_half_open: usize,
    /// Most TIME_WAIT entries; beyond it the oldest is recycled. Default 262,144.
    pub max_time_wait: usize,
    /// Most connections that their application has closed and that are not at their end, TIME_WAIT
    /// not counted; beyond it `close` resets. Default 262,144.
    pub max_orphans: usize,
    /// Bounds of the retransmission timeout (RFC 6298 2.4, 2.5). The minimum is 200 ms as in
    /// Linux, where the RFC has one second.
    pub rto_min: Duration,
    /// Upper bound of the retransmission timeout and of the probe interval. Default 120 s.
    pub rto_max: Duration,
    /// The timeout before there is a sample (RFC 6298 2.1). Default 1 s.
    pub rto_initial: Duration,
    /// How long an acknowledgement may wait for company (RFC 1122 4.2.3.2). Default 40 ms.
    pub delayed_ack: Duration,
    /// How long TIME_WAIT lasts (RFC 9293 3.4.2: two segment lifetimes). Default 60 s.
    pub time_wait: Duration,
    /// How long an orphan may wait in FIN-WAIT-2 for the peer's FIN. Default 60 s.
    pub fin_wait_2: Duration,
    /// SYNs sent again before an active open fails. Default 6.
    pub syn_retries: u8,
    /// SYN-ACKs sent again before a half-open connection is forgotten. Default 5.
    pub syn_ack_retries: u8,
    /// Whether the peer gets a reset whose final ACK finds the accept queue full. Otherwise that ACK
    /// is dropped, the SYN-ACK goes again, and the peer, which takes itself for connected, has its
    /// data wait. Default `false`, as in Linux.
    pub abort_on_overflow: bool,
    /// Retransmissions of the same data before the connection fails (RFC 1122 4.2.3.5).
    /// Default 15.
    pub data_retries: u8,
    /// The same, and the number of unanswered window probes, once the application has
    /// closed. Default 8.
    pub orphan_retries: u8,
    /// Initial congestion window, in segments (RFC 6928). Default 10.
    pub initial_window: u16,
    /// How connections begin to react to congestion. Default CUBIC.
    pub congestion: CongestionControl,
    /// Whether what the congestion window allows is spread over the round trip, where that is
    /// a millisecond or more and the window larger than the initial one. Default `false`.
    pub pacing: bool,
    /// Explicit congestion notification (RFC 3168). Default [`Ecn::Passive`], as in Linux.
    pub ecn: Ecn,
    /// Whether full-sized segments that time out three times in a row are taken for too long for
    /// the path (RFC 4821 in small): shorter ones are tried, and what passes is the size for that
    /// connection until a longer one, sent now and then, arrives. ICMP is listened to in any
    /// case. Default `true`; Linux has it (`tcp_mtu_probing`) off.
    pub black_hole_detection: bool,
    /// Whether connections start with Nagle's algorithm off. Default `false`.
    pub nodelay: bool,
    /// Resets sent per second to segments of no connection, for each of 1,024 groups into which
    /// peers fall by a keyed hash of their address (the /64 over IPv6), lest one learn from a
    /// limit what others were sent; more are dropped and counted. Default 1,000.
    pub resets_per_second: u32,
    /// Smallest time between two challenge ACKs of one connection (RFC 5961 7, per
    /// connection, so that no shared counter leaks). Default 500 ms.
    pub challenge_interval: Duration,
    /// Most segments one connection sends before the next one has its turn. Default 16.
    pub burst: u16,
    /// The shard it works for, as the log names it. Default 0.
    pub shard: ShardId,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            mss_v4: 1460,
            mss_v6: 1440,
            send_buffer: 4 << 20,
            initial_send_buffer: 256 << 10,
            recv_buffer: 6 << 20,
            initial_recv_buffer: 64 << 10,
            send_memory: 256 << 20,
            recv_memory: 256 << 20,
            max_ranges: 512,
            max_connections: 1 << 20,
            max_half_open: 1 << 16,
            max_time_wait: 1 << 18,
            max_orphans: 1 << 18,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            rto_initial: Duration::from_secs(1),
            delayed_ack: Duration::from_millis(40),
            time_wait: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(60),
            syn_retries: 6,
            syn_ack_retries: 5,
            abort_on_overflow: false,
            data_retries: 15,
            orphan_retries: 8,
            initial_window: 10,
            congestion: CongestionControl::Cubic,
            pacing: false,
            ecn: Ecn::Passive,
            black_hole_detection: true,
            nodelay: false,
            resets_per_second: 1_000,
            challenge_interval: Duration::from_millis(500),
            burst: 16,
            shard: ShardId(0),
        }
    }
}

/// How a connection's sending rate follows what the network carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CongestionControl {
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406).
    #[default]
    Cubic,
    /// NewReno (RFC 5681, RFC 6582).
    NewReno,
}

/// Whether connections use explicit congestion notification (RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ecn {
    /// None does.
    Off,
    /// Those do whose peer asks for it.
    #[default]
    Passive,
    /// Those do, and active opens ask for it; after two SYNs without an answer without.
    On,
}

/// When to ask a silent peer whether it is still there (RFC 9293 3.8.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Keepalive {
    /// Silence before the first probe. Resolution 1 ms, at most 24 days.
    pub idle: Duration,
    /// Time between probes. Resolution 1 ms, at most 24 days.
    pub interval: Duration,
    /// Unanswered probes before the connection fails with `TimedOut`; 0 is taken for 1.
    pub count: u8,
}
