//! The thread that writes a capture's file.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::End;
use super::live::Shared;

/// How often the buffers are looked at: a full one then stands for 2 GB/s.
const NAP: Duration = Duration::from_millis(2);
/// How long after the end a shard may keep its buffer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts the thread. `written`: bytes in the file.
///
/// # Errors
/// Without a thread.
pub(super) fn spawn(
    file: File,
    written: u64,
    rings: Vec<rtrb::Consumer<u8>>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let writer = Writer { file, written, rings, shared };
    std::thread::Builder::new().name("throng-capture".into()).spawn(move || writer.run())?;
    Ok(())
}

struct Writer {
    file: File,
    written: u64,
    rings: Vec<rtrb::Consumer<u8>>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        leave_the_core();
        if let Err(error) = self.write() {
            // Blocks go into a ring as a whole: up to what was written before the last turn
            // it is a complete file.
            let _ = self.file.set_len(self.written);
            tracing::warn!(%error, "a capture ends: its file cannot be written");
            self.shared.fail(&error);
        }
        self.shared.finish(End::Stopped);
        self.shared.set_written();
    }

    /// Writes until the shards have let go of their buffers.
    fn write(&mut self) -> io::Result<()> {
        let mut patience = None;
        loop {
            // Asked before the last look into the buffers: nothing comes after it.
            let gone = self.rings.iter().all(|ring| ring.is_abandoned());
            let worked = self.drain()?;
            if self.shared.is_late() {
                self.shared.finish(End::Duration);
            }
            if self.shared.is_over() {
                let until = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() > until {
                    return Ok(());
                }
            }
            if gone {
                return Ok(());
            }
            if !worked {
                std::thread::sleep(NAP);
            }
        }
    }

    /// Writes what is in the buffers. Returns whether there was anything.
    fn drain(&mut self) -> io::Result<bool> {
        let mut worked = false;
        for ring in &mut self.rings {
            let Ok(chunk) = ring.read_chunk(ring.slots()) else { continue };
            if chunk.is_empty() {
                continue;
            }
            let (first, second) = chunk.as_slices();
            self.file.write_all(first)?;
            self.file.write_all(second)?;
            self.written += chunk.len() as u64;
            chunk.commit_all();
            worked = true;
        }
        Ok(worked)
    }
}

/// A new thread inherits the pinning of the shard that starts it.
fn leave_the_core() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    if let Err(error) = sched_setaffinity(None, &all) {
        tracing::debug!(%error, "the writer of a capture stays on its shard's core");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcap::Options;

    #[test]
    fn a_full_disk_ends_the_capture_and_says_so() {
        let Ok(full) = File::options().write(true).open("/dev/full") else {
            println!("skipped: there is no /dev/full");
            return;
        };
        let shared = Arc::new(Shared::new(Options::default(), 0, Vec::new()));
        let (mut ring, consumer) = rtrb::RingBuffer::new(64);
        spawn(full, 0, vec![consumer], shared.clone()).unwrap();
        ring.push_entire_slice(&[7; 16]).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while !shared.is_written() {
            assert!(Instant::now() < patience, "it goes on");
            std::thread::sleep(NAP);
        }
        let end = shared.status().end;
        assert!(matches!(&end, Some(End::Error(text)) if text.contains("space")), "{end:?}");
        assert!(shared.is_over(), "the shard is told");
    }
}
