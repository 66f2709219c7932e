//! Captures of live shards: switched on and off at run time, with a filter and limits.
//!
//! While there is none, a shard pays one predictable branch a burst. While there is one, the
//! shard copies the packets its filter chooses into a bounded buffer, and a thread off the
//! packet path writes them to a pcapng file: one interface for each shard, nanoseconds, the
//! direction of each frame. What the buffer has no room for is counted as missed; traffic
//! never waits for the disk.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use throng_net::pcap::{Options, start};
//!
//! let options = Options { filter: Some("tcp port 443".parse()?), ..Options::default() };
//! let capture = start(&[], "/tmp/shards.pcapng", options).await?;
//! throng_runtime::sleep(std::time::Duration::from_secs(5)).await;
//! println!("{:?}", capture.stop().await);
//! # Ok(())
//! # }
//! ```
//!
//! To capture a device from its first frame on, or in a simulated world, wrap it:
//! [`device::pcap`](crate::device::pcap).

mod filter;
mod live;
mod parse;
mod writer;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use throng_runtime::{ShardId, shard_count, unparker};

pub use filter::{Filter, FilterError};
use live::Shared;
pub(crate) use live::Tap;

use crate::device::pcapng;
use crate::{local, stats};

/// What a shard may have in its buffer, in bytes.
const BUFFER: usize = 4 << 20;
/// How long a shard may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(2);

impl From<FilterError> for io::Error {
    fn from(error: FilterError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// What to capture, and how much of it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which packets; `None`: all.
    pub filter: Option<Filter>,
    /// The file does not grow over this many bytes. Default 64 MiB.
    pub bytes: u64,
    /// Ends after so many packets. Default: no such limit.
    pub packets: u64,
    /// Most bytes kept of a packet, at least 1. Default: all.
    pub snaplen: u32,
    /// Ends after this time. Default 10 minutes.
    pub duration: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            filter: None,
            bytes: 64 << 20,
            packets: u64::MAX,
            snaplen: 256 << 10,
            duration: Duration::from_secs(600),
        }
    }
}

/// Why a capture has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was stopped, or its last handle dropped, or its shards ended.
    Stopped,
    /// [`Options::bytes`] were reached.
    Bytes,
    /// [`Options::packets`] were reached.
    Packets,
    /// [`Options::duration`] is over.
    Duration,
    /// The file could not be written: the disk is full, say. What was written before is whole.
    Error(String),
}

/// How a capture is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Why it has ended; `None` while it goes on.
    pub end: Option<End>,
    /// Packets in the file, or on their way to it.
    pub packets: u64,
    /// Size of the file when they are all written.
    pub bytes: u64,
    /// Packets the filter chose that the buffer had no room for.
    pub missed: u64,
}

/// A capture under way. Clones are the same one; dropping the last stops it.
#[derive(Clone, Debug)]
pub struct Capture(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.finish(End::Stopped);
    }
}

/// Captures what passes through the devices of these shards (none named: all) to a new file,
/// which only its owner may read.
///
/// # Errors
/// `AlreadyExists` where there is a file at `path`, or where a shard has a capture;
/// `Unsupported` on the device `kernel`; `InvalidInput` for a limit of nothing; `TimedOut`
/// where a shard does not answer; what creating the file says.
pub async fn start(
    shards: &[ShardId],
    path: impl AsRef<Path>,
    options: Options,
) -> io::Result<Capture> {
    // Without a stack of our own there is nothing to capture anywhere.
    local::stack()?;
    let all: Vec<ShardId> = (0..shard_count()).map(|shard| ShardId(shard as u16)).collect();
    let shards = if shards.is_empty() { &all } else { shards };
    for (at, shard) in shards.iter().enumerate() {
        if !all.contains(shard) || shards[..at].contains(shard) {
            let text = format!("shard {shard}: there are 0 to {}, each once", all.len() - 1);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    let mut header = Vec::new();
    pcapng::section_header(&mut header);
    for shard in shards {
        pcapng::interface(&mut header, &format!("shard {shard}"), options.snaplen);
    }
    if options.bytes <= header.len() as u64 || options.packets == 0 || options.snaplen == 0 {
        let text = format!("a capture of at most {} bytes holds nothing", options.bytes);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let path = path.as_ref();
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("capture file `{}`: {error}", path.display()))
    };
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(path).map_err(explain)?;
    let begun = begin(shards, &mut file, &header, options).await;
    if begun.is_err() {
        let _ = std::fs::remove_file(path);
    }
    begun
}

async fn begin(
    shards: &[ShardId],
    file: &mut File,
    header: &[u8],
    options: Options,
) -> io::Result<Capture> {
    file.write_all(header)?;
    let sleepers = shards.iter().map(|shard| unparker(*shard)).collect();
    let shared = Arc::new(Shared::new(options, header.len() as u64, sleepers));
    let (producers, consumers): (Vec<_>, Vec<_>) =
        shards.iter().map(|_| rtrb::RingBuffer::new(BUFFER)).unzip();
    writer::spawn(file.try_clone()?, header.len() as u64, consumers, shared.clone())?;
    let capture = Capture(Arc::new(Handle(shared.clone())));
    for (interface, (shard, ring)) in shards.iter().zip(producers).enumerate() {
        let shared = shared.clone();
        stats::ask(*shard, PATIENCE, move || async move {
            local::stack()?.borrow_mut().attach(Tap::new(shared, ring, interface as u32))
        })
        .await?;
    }
    Ok(capture)
}

impl Capture {
    /// How it is doing.
    pub fn status(&self) -> Status {
        self.0.0.status()
    }

    /// Ends it, and waits until the file is complete (at most 2 s).
    pub async fn stop(&self) -> Status {
        self.0.0.finish(End::Stopped);
        self.ended().await
    }

    /// Waits for its end, and then until the file is complete (at most 2 s).
    pub async fn ended(&self) -> Status {
        let shared = &self.0.0;
        while !shared.is_over() {
            throng_runtime::sleep(Duration::from_millis(5)).await;
        }
        let patience = throng_runtime::now() + PATIENCE;
        while !shared.is_written() && throng_runtime::now() < patience {
            throng_runtime::sleep(Duration::from_millis(1)).await;
        }
        self.status()
    }
}
