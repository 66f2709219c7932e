//! A device with something between it and the wire: frames of others' on their way out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use throng_net::device::memory::MemoryQueue;
use throng_net::device::{Capabilities, Counters, Device};
use throng_net::packet::Packet;
use throng_runtime::Instant;

/// What the hop does to frames, shared with the test.
#[derive(Default)]
pub(crate) struct Hop {
    /// Frames to send beside the host's own.
    pub(crate) injected: VecDeque<Packet>,
}

/// The device of a host behind a [`Hop`].
pub(crate) struct Behind {
    inner: MemoryQueue,
    hop: Arc<Mutex<Hop>>,
}

impl Behind {
    pub(crate) fn new(inner: MemoryQueue) -> (Behind, Arc<Mutex<Hop>>) {
        let hop = Arc::new(Mutex::new(Hop::default()));
        (Behind { inner, hop: hop.clone() }, hop)
    }
}

impl Device for Behind {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize {
        self.inner.transmit(&mut self.hop.lock().unwrap().injected, now);
        self.inner.receive(frames, max, now)
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        self.inner.allocate(len)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        self.inner.transmit(frames, now)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.inner.next_deadline()
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}
