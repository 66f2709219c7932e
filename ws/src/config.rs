//! Limits and timers of a WebSocket, shared by all sockets made with them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use throng_http::Drain;
use tungstenite::protocol::WebSocketConfig;

/// Limits, buffer sizes and timers of a [`WebSocket`](crate::WebSocket).
///
/// One value serves any number of sockets: every constructor takes
/// `impl Into<Rc<Config>>`, so hand each a clone of the same `Rc`.
///
/// ```
/// # use std::{rc::Rc, time::Duration};
/// let config = Rc::new(
///     throng_ws::Config::default()
///         .max_message_size(64 * 1024)
///         .ping_interval(Duration::from_secs(30)),
/// );
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Largest message received, all its fragments together, in bytes; a longer one is
    /// answered with close code 1009. Default 16 MiB.
    pub max_message_size: usize,
    /// Largest payload of one received frame in bytes; a longer one is answered with close
    /// code 1009 as soon as its header is read. Default 16 MiB.
    pub max_frame_size: usize,
    /// Bytes of unfinished messages that all sockets sharing this value may be receiving, as
    /// announced in their frames' headers. A frame beyond it is answered with close code 1013
    /// (try again later). Default 1 GiB.
    pub max_receiving: usize,
    /// Bytes read from the stream at a time while a message is being received, at least 14.
    /// The buffer exists only then. Default 4 KiB.
    pub read_buffer_size: usize,
    /// Messages are collected up to this many bytes before they are written out without a
    /// flush. Default 4 KiB.
    pub write_buffer_size: usize,
    /// What automatic pongs may add to a write buffer that the peer does not read, in bytes;
    /// beyond it only the newest pong is kept. Default 4 KiB.
    pub pong_backlog: usize,
    /// A ping is sent when nothing has been received for this long. Default: never.
    pub ping_interval: Option<Duration>,
    /// After a ping, the peer counts as dead when nothing arrives for this long. Default 20 s.
    pub pong_timeout: Duration,
    /// The socket is closed (code 1001) when no data message has passed in either direction
    /// for this long; pings and pongs do not count. Default: never.
    pub idle_timeout: Option<Duration>,
    /// How long a message may stand still: it has begun, and no byte has come. The socket is
    /// then closed (code 1008). Default 60 s.
    pub receive_timeout: Option<Duration>,
    /// How long a closing handshake may take, from the first close frame. Default 10 s.
    pub close_timeout: Duration,
    /// Sending fails when the peer has not taken a single byte for this long while there is
    /// something to send. Default: never (TCP's own timeouts decide).
    pub send_timeout: Option<Duration>,
    /// How long the opening handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// Largest head of the opening handshake, in bytes. Default 8 KiB.
    pub max_handshake_size: usize,
    /// Whether an idle socket gives back its protocol state and buffers. Default true.
    pub park: bool,
    /// The drain whose beginning closes the sockets (code 1001), whose deadline cuts them, and
    /// which waits for them. Default: none.
    pub drain: Option<Drain>,
    /// What [`Config::max_receiving`] bounds.
    pub(crate) receiving: Receiving,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_message_size: 16 << 20,
            max_frame_size: 16 << 20,
            max_receiving: 1 << 30,
            read_buffer_size: 4 << 10,
            write_buffer_size: 4 << 10,
            pong_backlog: 4 << 10,
            ping_interval: None,
            pong_timeout: Duration::from_secs(20),
            idle_timeout: None,
            receive_timeout: Some(Duration::from_secs(60)),
            close_timeout: Duration::from_secs(10),
            send_timeout: None,
            handshake_timeout: Duration::from_secs(10),
            max_handshake_size: 8 << 10,
            park: true,
            drain: None,
            receiving: Receiving::default(),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $arg:ty => $value:expr;)*) => {
        impl Config {
            $($(#[$doc])*
            #[must_use]
            pub fn $field(mut self, $field: $arg) -> Self {
                self.$field = $value;
                self
            })*
        }
    };
}

setters! {
    /// Sets [`Config::max_message_size`], in bytes.
    max_message_size: usize => max_message_size;
    /// Sets [`Config::max_frame_size`], in bytes.
    max_frame_size: usize => max_frame_size;
    /// Sets [`Config::max_receiving`], in bytes.
    max_receiving: usize => max_receiving;
    /// Sets [`Config::read_buffer_size`], in bytes.
    read_buffer_size: usize => read_buffer_size;
    /// Sets [`Config::write_buffer_size`], in bytes.
    write_buffer_size: usize => write_buffer_size;
    /// Sets [`Config::pong_backlog`], in bytes.
    pong_backlog: usize => pong_backlog;
    /// Sets [`Config::ping_interval`]; `None` sends no pings.
    ping_interval: impl Into<Option<Duration>> => ping_interval.into();
    /// Sets [`Config::pong_timeout`].
    pong_timeout: Duration => pong_timeout;
    /// Sets [`Config::idle_timeout`]; `None` never closes.
    idle_timeout: impl Into<Option<Duration>> => idle_timeout.into();
    /// Sets [`Config::receive_timeout`]; `None` waits for ever.
    receive_timeout: impl Into<Option<Duration>> => receive_timeout.into();
    /// Sets [`Config::close_timeout`].
    close_timeout: Duration => close_timeout;
    /// Sets [`Config::send_timeout`]; `None` waits as long as TCP does.
    send_timeout: impl Into<Option<Duration>> => send_timeout.into();
    /// Sets [`Config::handshake_timeout`].
    handshake_timeout: Duration => handshake_timeout;
    /// Sets [`Config::max_handshake_size`], in bytes.
    max_handshake_size: usize => max_handshake_size;
    /// Sets [`Config::drain`].
    drain: impl Into<Option<Drain>> => drain.into();
    /// Sets [`Config::park`].
    park: bool => park;
}

/// Bytes under way on all sockets of one [`Config`]; a clone of that begins anew.
#[derive(Debug, Default)]
pub(crate) struct Receiving(Cell<u64>);

impl Clone for Receiving {
    fn clone(&self) -> Self {
        Receiving::default()
    }
}

/// One socket's part of [`Receiving`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    config: Rc<Config>,
    bytes: u64,
}

impl Share {
    pub(crate) fn new(config: Rc<Config>) -> Self {
        Share { config, bytes: 0 }
    }

    /// The config whose books these are.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Makes the share `bytes` large; false, and unchanged, where the limit forbids it.
    pub(crate) fn set(&mut self, bytes: u64) -> bool {
        // What is larger than any message may be is refused for that, without room made for it.
        let largest = self.config.max_message_size.max(self.config.max_frame_size) as u64;
        let bytes = bytes.min(largest);
        if bytes == self.bytes {
            return true;
        }
        let others = self.config.receiving.0.get() - self.bytes;
        let sum = others.saturating_add(bytes);
        if bytes > self.bytes && sum > self.config.max_receiving as u64 {
            return false;
        }
        self.config.receiving.0.set(sum);
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

thread_local! {
    static SHARED: Rc<Config> = Rc::new(Config::default());
}

impl Config {
    /// The defaults, one copy for all the sockets of a shard.
    pub(crate) fn shared() -> Rc<Config> {
        SHARED.with(Rc::clone)
    }

    /// Whether an open socket needs a timer of its own.
    pub(crate) fn has_timers(&self) -> bool {
        self.ping_interval.is_some() || self.idle_timeout.is_some() || self.drain.is_some()
    }

    /// Below any limit that is more than twice as large.
    pub(crate) fn write_buffer(&self) -> usize {
        self.write_buffer_size.min(usize::MAX / 4)
    }

    /// The bound tungstenite keeps for its write buffer when no message of ours is in it.
    pub(crate) fn write_limit(&self) -> usize {
        // Twice the write buffer: one that has just not reached the size at which it is
        // written out may meet a control frame.
        (2 * self.write_buffer()).saturating_add(self.pong_backlog).saturating_add(256)
    }

    pub(crate) fn protocol(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(self.read_buffer_size)
            .write_buffer_size(self.write_buffer())
            .max_write_buffer_size(self.write_limit())
            .max_message_size(Some(self.max_message_size))
            .max_frame_size(Some(self.max_frame_size))
    }
}
