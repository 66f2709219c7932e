//! The access log. A shard makes a record of what it has at hand and puts it into a queue;
//! a thread makes lines of them and writes. When the disk is slower than the requests, lines
//! are dropped and counted: a log holds up nobody.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use serde::Serialize;
use throng::http::Refused;
use throng::runtime::{Instant, now};

use crate::config::{AccessLog, LogFormat};
use crate::group::Server;

/// Records that may wait for the thread, and bytes that they may keep.
const QUEUE: usize = 65_536;
const QUEUE_BYTES: u64 = 128 << 20;
/// What a record keeps at least: its fields are views of the buffer that the head came in.
const RECORD: u64 = 8 << 10;
/// How long the thread sleeps when there is nothing: nobody has to wake it.
const NAP: Duration = Duration::from_millis(20);

/// Where lines go, and how they look.
pub(crate) struct Sink {
    to: Box<dyn Write + Send>,
    format: LogFormat,
}

impl Sink {
    /// Opens what the configuration says; `None` without a log.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open(config: &AccessLog) -> io::Result<Option<Sink>> {
        let Some(path) = &config.file else { return Ok(None) };
        let to: Box<dyn Write + Send> = match path == Path::new("-") {
            true => Box::new(io::stdout()),
            false => Box::new(append_to(path)?),
        };
        Ok(Some(Sink { to, format: config.format }))
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// What the shards and the thread share.
#[derive(Default)]
struct Shared {
    /// There is a sink: records are wanted.
    on: AtomicBool,
    /// The sink for what comes from now on, until the thread has taken it.
    next: Mutex<Option<Option<Sink>>>,
    changed: AtomicBool,
    dropped: AtomicU64,
    /// Bytes that the records in the queue keep.
    queued: AtomicU64,
}

/// The log's thread.
pub(crate) struct Writer {
    log: Log,
    thread: JoinHandle<()>,
}

/// A shard's end of it; clones are the same log.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    records: SyncSender<Record>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no room for one.
    pub(crate) fn start(sink: Option<Sink>) -> io::Result<Writer> {
        let shared = Arc::new(Shared::default());
        shared.on.store(sink.is_some(), Relaxed);
        let (records, received) = sync_channel(QUEUE);
        let log = Log { shared: shared.clone(), records };
        let writing = move || write(&shared, &received, sink);
        let thread = thread::Builder::new().name("access-log".into()).spawn(writing)?;
        Ok(Writer { log, thread })
    }

    pub(crate) fn log(&self) -> Log {
        self.log.clone()
    }

    /// Writes what is left; the shards have ended.
    pub(crate) fn end(self) {
        drop(self.log);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the access log panicked");
        }
    }
}

impl Log {
    /// Has lines go to another sink.
    pub(crate) fn replace(&self, sink: Option<Sink>) {
        self.shared.on.store(sink.is_some(), Relaxed);
        *self.shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
        self.shared.changed.store(true, Relaxed);
    }

    /// Lines that were dropped because the thread did not keep up.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// The line of a request that was refused before anything was known of it.
    pub(crate) fn refused(&self, refused: &Refused) {
        if !self.shared.on.load(Relaxed) {
            return;
        }
        self.put(Record {
            at: SystemTime::now(),
            took: Duration::ZERO,
            client: refused
                .peer
                .map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip().to_canonical()),
            status: refused.status,
            bytes: 0,
            request: None,
            id: None,
            host: None,
            referer: None,
            agent: None,
            server: None,
        });
    }

    fn put(&self, record: Record) {
        let (shared, size) = (&self.shared, record.size());
        let fits = shared.queued.fetch_add(size, Relaxed) + size <= QUEUE_BYTES;
        if !fits || self.records.try_send(record).is_err() {
            shared.queued.fetch_sub(size, Relaxed);
            shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// The line of a request, if there is a log: its first line and fields are asked for then.
    pub(crate) fn entry(
        &self,
        peer: SocketAddr,
        line: impl FnOnce() -> (Method, Uri, Version),
        field: impl Fn(HeaderName) -> Option<HeaderValue>,
    ) -> Option<Entry> {
        if !self.shared.on.load(Relaxed) {
            return None;
        }
        Some(Entry {
            client: peer.ip().to_canonical(),
            status: gone(),
            bytes: 0,
            id: None,
            server: None,
            begun: now(),
            request: Some(line()),
            host: field(header::HOST),
            referer: field(header::REFERER),
            agent: field(header::USER_AGENT),
            log: self.clone(),
        })
    }
}

/// The status of a request whose client left before there was any, as nginx has it.
fn gone() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT)
}

/// A line in the making; it is written when this is dropped.
pub(crate) struct Entry {
    pub(crate) client: IpAddr,
    pub(crate) status: StatusCode,
    /// Of the response's body.
    pub(crate) bytes: u64,
    pub(crate) id: Option<HeaderValue>,
    /// The server that was asked last.
    pub(crate) server: Option<Rc<Server>>,
    begun: Instant,
    request: Option<(Method, Uri, Version)>,
    host: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    log: Log,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        // Outside a shard, when its tasks are dropped at the end, there is no clock.
        let ended = throng::runtime::try_current_shard().map(|_| now());
        let record = Record {
            at: SystemTime::now(),
            took: ended.map_or(Duration::ZERO, |ended| ended.saturating_since(self.begun)),
            client: self.client,
            status: self.status,
            bytes: self.bytes,
            request: Some(request),
            id: self.id.take(),
            host: self.host.take(),
            referer: self.referer.take(),
            agent: self.agent.take(),
            server: self.server.take().map(|server| server.label.clone()),
        };
        self.log.put(record);
    }
}

struct Record {
    at: SystemTime,
    took: Duration,
    client: IpAddr,
    status: StatusCode,
    bytes: u64,
    /// None of one that was malformed.
    request: Option<(Method, Uri, Version)>,
    id: Option<HeaderValue>,
    host: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    server: Option<Arc<str>>,
}

fn write(shared: &Shared, records: &Receiver<Record>, mut sink: Option<Sink>) {
    let mut text = String::new();
    loop {
        let ended = loop {
            match records.try_recv() {
                Ok(record) => {
                    shared.queued.fetch_sub(record.size(), Relaxed);
                    if let Some(sink) = &sink {
                        record.line(sink.format, &mut text);
                    }
                }
                Err(error) => break error == TryRecvError::Disconnected,
            }
            if text.len() > 64 << 10 {
                break false;
            }
        };
        let idle = text.is_empty();
        if let Some(Err(error)) = sink.as_mut().map(|sink| sink.to.write_all(text.as_bytes()))
            && !idle
        {
            tracing::error!(%error, "the access log cannot be written");
        }
        text.clear();
        if ended {
            return;
        }
        if shared.changed.swap(false, Relaxed)
            && let Some(next) = shared.next.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            sink = next;
        }
        if idle {
            thread::sleep(NAP);
        }
    }
}

impl Record {
    /// Bytes that it keeps while it waits.
    fn size(&self) -> u64 {
        let fields = [&self.id, &self.host, &self.referer, &self.agent];
        let fields: usize = fields.into_iter().flatten().map(HeaderValue::len).sum();
        let path = |uri: &Uri| uri.path().len() + uri.query().map_or(0, str::len);
        let uri = self.request.as_ref().map_or(0, |(_, uri, _)| path(uri));
        RECORD.max((fields + uri) as u64)
    }

    fn line(&self, format: LogFormat, text: &mut String) {
        match format {
            LogFormat::Combined => self.combined(text),
            LogFormat::Json => self.json(text),
        }
        text.push('\n');
    }

    fn combined(&self, text: &mut String) {
        let request = self.request.as_ref().map(|(method, uri, version)| {
            format!("{method} {} {version:?}", escaped(uri.to_string().as_bytes()))
        });
        // IMF-fixdate: "Sun, 06 Nov 1994 08:49:37 GMT".
        let date = httpdate::fmt_http_date(self.at);
        let part = |range: std::ops::Range<usize>| date.get(range).unwrap_or_default();
        let (day, month, year, time) = (part(5..7), part(8..11), part(12..16), part(17..25));
        let field = |value: &Option<HeaderValue>| match value {
            Some(value) => escaped(value.as_bytes()),
            None => "-".into(),
        };
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{} - - [{day}/{month}/{year}:{time} +0000] \"{}\" {} {} \"{}\" \"{}\"",
            self.client,
            request.as_deref().unwrap_or("-"),
            self.status.as_u16(),
            self.bytes,
            field(&self.referer),
            field(&self.agent),
        );
    }

    fn json(&self, text: &mut String) {
        #[derive(Serialize)]
        struct Line<'a> {
            time: f64,
            client: IpAddr,
            method: Option<&'a str>,
            uri: Option<String>,
            version: Option<String>,
            host: Option<String>,
            status: u16,
            bytes: u64,
            seconds: f64,
            server: Option<&'a str>,
            request_id: Option<String>,
            referer: Option<String>,
            user_agent: Option<String>,
        }
        let string = |value: &Option<HeaderValue>| {
            value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let request = self.request.as_ref();
        let time = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            time: time.as_millis() as f64 / 1e3,
            client: self.client,
            method: request.map(|(method, ..)| method.as_str()),
            uri: request.map(|(_, uri, _)| uri.to_string()),
            version: request.map(|(.., version)| format!("{version:?}")),
            host: string(&self.host),
            status: self.status.as_u16(),
            bytes: self.bytes,
            seconds: self.took.as_micros() as f64 / 1e6,
            server: self.server.as_deref(),
            request_id: string(&self.id),
            referer: string(&self.referer),
            user_agent: string(&self.agent),
        };
        if let Ok(line) = serde_json::to_string(&line) {
            text.push_str(&line);
        }
    }
}

/// As it may stand between quotes: what would end them or the line is `\xNN`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                let _ = write!(text, "\\x{byte:02X}");
            }
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            at: UNIX_EPOCH + Duration::from_millis(784_111_777_250),
            took: Duration::from_micros(1_500),
            client: "192.0.2.7".parse().unwrap(),
            status: StatusCode::NOT_FOUND,
            bytes: 17,
            request: Some((Method::GET, "/a?b=1".parse().unwrap(), Version::HTTP_11)),
            id: Some(HeaderValue::from_static("17")),
            host: Some(HeaderValue::from_static("a.example")),
            referer: None,
            agent: Some(HeaderValue::from_bytes(b"x\"\\\xe9").unwrap()),
            server: Some("10.0.0.1:80".into()),
        }
    }

    #[test]
    fn lines_of_the_combined_format() {
        let mut text = String::new();
        record().line(LogFormat::Combined, &mut text);
        assert_eq!(
            text,
            "192.0.2.7 - - [06/Nov/1994:08:49:37 +0000] \"GET /a?b=1 HTTP/1.1\" 404 17 \"-\" \
             \"x\\x22\\x5C\\xE9\"\n"
        );
    }

    /// A disk that stands still while it is held.
    struct Held(Arc<Mutex<Vec<u8>>>);

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_waits_for_a_slow_disk_is_bounded_and_the_rest_counted() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = Box::new(Held(written.clone()));
        let writer = Writer::start(Some(Sink { to, format: LogFormat::Combined })).unwrap();
        let (log, held) = (writer.log(), written.lock().unwrap());
        let count = 2 * QUEUE_BYTES / RECORD;
        for _ in 0..count {
            log.put(record());
            assert!(log.shared.queued.load(Relaxed) <= QUEUE_BYTES);
        }
        let dropped = log.dropped();
        // The thread has taken what makes one piece of text.
        assert!((count / 2 - 2_000..=count / 2).contains(&dropped), "{dropped} of {count}");
        drop(held);
        drop(log);
        writer.end();
        let lines = written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines as u64, count - dropped);
    }

    #[test]
    fn lines_of_what_was_malformed() {
        let (mut text, record) = (String::new(), Record { request: None, ..record() });
        record.line(LogFormat::Combined, &mut text);
        assert!(text.contains("+0000] \"-\" 404 17"), "{text}");
        text.clear();
        record.line(LogFormat::Json, &mut text);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["method"], &line["status"]), (&().into(), &404.into()));
    }

    #[test]
    fn lines_of_json() {
        let mut text = String::new();
        record().line(LogFormat::Json, &mut text);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["time"], 784_111_777.25);
        assert_eq!((&line["status"], &line["bytes"]), (&404.into(), &17.into()));
        assert_eq!((&line["uri"], &line["seconds"]), (&"/a?b=1".into(), &0.0015.into()));
        assert_eq!((&line["server"], &line["referer"]), (&"10.0.0.1:80".into(), &().into()));
    }
}
