//! hyper's settings from ours.

use hyper::server::conn::{http1, http2};

use crate::rt::{LocalExecutor, ShardTimer};
use crate::server::Server;

/// hyper's least buffer for a head.
const MIN_BUFFER: usize = 8192;

/// hyper's own limit.
pub(crate) const DEFAULT_MAX_HEADERS: usize = 100;

/// Made once for a server: a connection that leaves its parking needs one at every request.
pub(crate) struct Builders {
    pub(crate) http1: http1::Builder,
    /// For one more request.
    pub(crate) last: http1::Builder,
    pub(crate) http2: http2::Builder<LocalExecutor>,
}

impl Builders {
    pub(crate) fn new(settings: &Server) -> Self {
        let mut last = http1(settings);
        last.keep_alive(false);
        Builders { http1: http1(settings), last, http2: http2(settings) }
    }
}

fn http1(settings: &Server) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(ShardTimer)
        // Ours tells waiting for a request from waiting for the rest of one; hyper's does not.
        .header_read_timeout(None)
        .max_header_size(settings.max_header_size)
        .max_buf_size(MIN_BUFFER.max(2 * settings.max_header_size))
        .auto_date_header(settings.date_header);
    // Said explicitly, it costs hyper an allocation for every request.
    if settings.max_headers != DEFAULT_MAX_HEADERS {
        builder.max_headers(settings.max_headers);
    }
    builder
}

fn http2(settings: &Server) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(ShardTimer)
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX))
        .auto_date_header(settings.date_header);
    if let Some((interval, timeout)) = settings.http2_ping {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    builder
}
