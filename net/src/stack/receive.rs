//! The way in: a burst, stage by stage.

use throng_runtime::{Instant, ShardId, ShardWaker};

use super::merge::{Arrival, MAX_RUN};
use super::parse::{Malformed, Parsed, parse};
use super::{Message, Stack, plain};
use crate::packet::Packet;

/// Frames taken from the device in one turn.
pub(crate) const BURST: usize = 64;
/// Messages taken from the mesh in one turn.
const MESSAGES: usize = 256;

impl Stack {
    /// One burst from the device and the mesh. Returns whether there was anything.
    pub(crate) fn receive(&mut self, now: Instant) -> bool {
        self.link.now = now;
        let mut worked = self.receive_messages(now);
        let mut frames = std::mem::take(&mut self.frames);
        worked |= self.link.device.receive(&mut frames, BURST, now) > 0;
        if let Some(tap) = &mut self.link.tap {
            tap.received(&frames, now);
            self.link.tap.take_if(|tap| tap.is_over());
        }
        self.process(&mut frames, true, now);
        self.frames = frames;
        worked |= self.exception_turn(now);
        self.deliver_events();
        self.notify_shards();
        worked
    }

    fn receive_messages(&mut self, now: Instant) -> bool {
        if self.shards == 1 {
            return false;
        }
        let mut flows = Vec::new();
        let mut count = 0;
        while count < MESSAGES {
            let Some(message) = self.stash.take().or_else(|| self.port.try_recv()) else { break };
            count += 1;
            match message {
                Message::Flow(packet) => {
                    self.link.counters.steered_in += 1;
                    flows.push(packet);
                }
                Message::Slow(packet) => self.slow_input(packet, now),
                Message::Neighbor(news) => self.link.learn(news.addr, news.link, news.create),
                Message::Icmp(tuple, seq, said) => self.on_icmp(tuple, seq, said, now),
                Message::Routes(routes) => self.apply_routes(*routes, true),
            }
        }
        self.process(&mut flows, false, now);
        count > 0
    }

    /// Takes `frames` through the stages and leaves it empty. `steer` is false for frames
    /// that another shard has handed over: they are ours.
    pub(super) fn process(&mut self, frames: &mut Vec<Packet>, steer: bool, now: Instant) {
        if frames.is_empty() {
            return;
        }
        let mut segments = std::mem::take(&mut self.segments);
        for (index, frame) in frames.iter_mut().enumerate() {
            let local = |addr: &_| self.link.routes.is_local(addr);
            let parsed = match plain::parse(frame.data(), frame.rx.checksum, local) {
                Some((header, payload)) => Ok(Parsed::Tcp(header, payload)),
                None => parse(frame, local),
            };
            if steer && self.shards > 1 {
                let rss_hash = frame.rx.rss_hash;
                let owner = match &parsed {
                    Ok(Parsed::Tcp(header, _)) => self.steering.classify(&header.tuple, rss_hash),
                    Ok(Parsed::Udp(tuple, _)) => self.steering.classify_udp(tuple, rss_hash),
                    _ => self.shard,
                };
                if owner != self.shard {
                    self.link.counters.steered_out += 1;
                    tracing::trace!(target: "throng::steering", shard = %self.shard, %owner, "steered");
                    let packet = std::mem::take(frame);
                    self.tell(owner, Message::Flow(packet));
                    continue;
                }
            }
            match parsed {
                Ok(Parsed::Tcp(header, payload)) => {
                    if let Some(last) = segments.last_mut()
                        && last.join(index, &header, &payload)
                    {
                        self.link.counters.rx_merged += 1;
                        continue;
                    }
                    let lookup = self.engine.prefetch(&header.tuple);
                    segments.push(Arrival::new(index, header, payload, lookup));
                }
                Ok(Parsed::Udp(tuple, payload)) => {
                    let data = &frame.data()[payload];
                    if self.udp.deliver(&tuple, data, &mut self.link.counters) {
                        self.link.counters.rx_datagrams += 1;
                    } else if self.shares(&tuple.local) {
                        self.give_kernel_unclaimed(std::mem::take(frame));
                    } else {
                        // smoltcp answers with port unreachable (RFC 1122 4.1.3.1).
                        self.hand_to_slow_path(std::mem::take(frame), now);
                    }
                }
                Ok(Parsed::Slow) => {
                    if let Some(packet) = self.divert(std::mem::take(frame)) {
                        self.hand_to_slow_path(packet, now);
                    }
                }
                Err(Malformed::Header) => self.link.counters.rx_malformed += 1,
                Err(Malformed::Checksum) => self.link.counters.rx_bad_checksum += 1,
                Err(Malformed::Source) => self.link.counters.rx_bad_source += 1,
            }
        }
        for arrival in &mut segments {
            self.engine.locate(&mut arrival.lookup);
        }
        // A segment alone has nobody to overlap with.
        if segments.len() > 1 {
            self.warm(&segments);
        }
        let beside = self.exception.is_some();
        for arrival in &segments {
            let tuple = &arrival.header.tuple;
            let frames = &mut frames[arrival.frames()];
            if beside && self.shares(&tuple.local) && !self.engine.claims(tuple) {
                for frame in frames {
                    self.give_kernel_unclaimed(std::mem::take(frame));
                }
                continue;
            }
            self.link.counters.rx_segments += frames.len() as u64;
            if let [frame] = frames {
                let payload = &frame.data()[arrival.payload.clone()];
                self.engine.on_segment_at(&arrival.lookup, &arrival.header, payload, now);
            } else {
                let mut parts: [&[u8]; MAX_RUN] = [&[]; MAX_RUN];
                let parts = arrival.parts(frames, &mut parts);
                self.engine.on_run_at(&arrival.lookup, &arrival.header, parts, now);
            }
        }
        segments.clear();
        self.segments = segments;
        frames.clear();
    }

    /// Asks the cache for what the located connections and their readers touch, each step for all before
    /// the next, which needs it.
    fn warm(&self, segments: &[Arrival]) {
        for arrival in segments {
            self.engine.warm(&arrival.lookup);
            if let Some(reader) = self.reader(arrival) {
                reader.prefetch_wake();
            }
        }
        for arrival in segments {
            self.engine.warm_payload(&arrival.lookup);
            if let Some(reader) = self.reader(arrival) {
                reader.prefetch_poll();
            }
        }
    }

    /// Whom the segment wakes; an acknowledgement without data nobody.
    fn reader(&self, arrival: &Arrival) -> Option<&ShardWaker> {
        if arrival.payload.is_empty() { None } else { self.engine.reader(&arrival.lookup) }
    }

    fn hand_to_slow_path(&mut self, packet: Packet, now: Instant) {
        self.link.counters.rx_slow += 1;
        if self.slow.is_some() {
            self.slow_input(packet, now);
        } else {
            self.tell(ShardId(0), Message::Slow(packet));
        }
    }
}
