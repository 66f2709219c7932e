//! Receive offload in software: segments of one connection that a burst brings one after the
//! other go to the engine as one, by the rules of Linux' GRO. Two that differ in more than their
//! numbers stay apart; one with PSH, or shorter than the first, is the last of its run.
//!
//! Only neighbours are compared: a device fills its ring in order, and what comes mixed costs no
//! more than one look.

use std::ops::Range;

use crate::packet::Packet;
use crate::tcp::Lookup;
use crate::tcp::segment::{Flags, Header};
use crate::tcp::seq::SeqNum;

/// Segments of a run.
pub(super) const MAX_RUN: usize = 32;
/// Bytes of a run, as many as one IP datagram may have.
const MAX_BYTES: u32 = 0xffff;

/// A segment, or a run of them, on its way through the stages of a burst.
pub(super) struct Arrival {
    /// Where in the burst its first frame is.
    first: usize,
    count: usize,
    /// The first one's; with PSH where the last one has it.
    pub(super) header: Header,
    /// Within the first frame.
    pub(super) payload: Range<usize>,
    /// The number after the last one's payload, and how long that is.
    next: SeqNum,
    last: usize,
    pub(super) lookup: Lookup,
}

impl Arrival {
    pub(super) fn new(
        first: usize,
        header: Header,
        payload: Range<usize>,
        lookup: Lookup,
    ) -> Arrival {
        let (next, last) = (header.seq + payload.len() as u32, payload.len());
        Arrival { first, count: 1, header, payload, next, last, lookup }
    }

    /// Takes in the segment of frame `index` if it continues this one. Returns whether it does.
    #[inline]
    pub(super) fn join(&mut self, index: usize, header: &Header, payload: &Range<usize>) -> bool {
        header.seq == self.next
            && header.tuple.remote_port == self.header.tuple.remote_port
            && self.join_next(index, header, payload)
    }

    fn join_next(&mut self, index: usize, header: &Header, payload: &Range<usize>) -> bool {
        let Header { seq, flags, .. } = *header;
        let full = self.payload.len();
        let end = seq + payload.len() as u32;
        let goes_on = self.header.flags == Flags::ACK && self.last == full;
        let fits = !payload.is_empty() && payload.len() <= full;
        let joins = goes_on
            && fits
            && (flags == Flags::ACK || flags == Flags::ACK | Flags::PSH)
            && payload.start == self.payload.start
            && index == self.first + self.count
            && self.count < MAX_RUN
            && end - self.header.seq <= MAX_BYTES
            && *header == Header { seq, flags, ..self.header };
        if joins {
            self.count += 1;
            self.header.flags = flags;
            (self.next, self.last) = (end, payload.len());
        }
        joins
    }

    /// Its frames' places in the burst.
    pub(super) fn frames(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    /// What each of its `frames` carries.
    pub(super) fn parts<'a, 'b>(
        &self,
        frames: &'a [Packet],
        parts: &'b mut [&'a [u8]; MAX_RUN],
    ) -> &'b [&'a [u8]] {
        let Range { start, end } = self.payload;
        for (part, frame) in parts.iter_mut().zip(frames) {
            *part = &frame.data()[start..end.min(frame.data().len())];
        }
        let parts = &mut parts[..self.count];
        if let Some(last) = parts.last_mut() {
            *last = &last[..self.last];
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::random::Random;
    use crate::tcp::segment::{FourTuple, Options};
    use crate::tcp::{Config, Engine};

    /// What the runs of `arrivals` stand for, frame by frame.
    fn apart(arrivals: &[Arrival], frames: &[Packet]) -> Vec<(usize, Header, Vec<u8>)> {
        let mut all = Vec::new();
        for arrival in arrivals {
            let mut parts: [&[u8]; MAX_RUN] = [&[]; MAX_RUN];
            let mut header = arrival.header;
            for (i, part) in arrival.parts(&frames[arrival.frames()], &mut parts).iter().enumerate()
            {
                header.flags = match i + 1 == arrival.count {
                    true => arrival.header.flags,
                    false => Flags::ACK,
                };
                all.push((arrival.first + i, header, part.to_vec()));
                header.seq += part.len() as u32;
            }
        }
        all
    }

    #[test]
    fn a_run_is_its_segments_and_unlike_ones_stay_apart() {
        let engine = Engine::new(Config::default(), [1; 32], throng_runtime::Instant::ZERO);
        let (mut merged, mut longest) = (0, 0);
        for seed in 0..400 {
            let mut random = Random::new(seed);
            let mut below = |n: u64| random.next() % n;
            let mut seq = SeqNum(0_u32.wrapping_sub(below(100_000) as u32));
            let full = [100, 1_448, 4_000][below(3) as usize];
            let (mut frames, mut segments, mut arrivals) = (Vec::new(), Vec::new(), Vec::new());
            for index in 0..64 {
                let len = if below(12) == 0 { below(2 * full) } else { full } as usize;
                let odd = below(60);
                let local = ([10, 0, 0, 1], 80).into();
                let remote = ([10, 0, 0, 2 + u8::from(odd == 3)], 1_024).into();
                let header = Header {
                    tuple: FourTuple::new(local, remote),
                    seq: seq + u32::from(odd == 4),
                    ack: SeqNum(u32::from(odd == 5)),
                    flags: Flags(
                        [0x10, 0x18, 0x11, 0x90][(odd.saturating_sub(2) as usize).min(4) % 4],
                    ),
                    window: 1_000 + u16::from(odd == 7),
                    urgent: 0,
                    ecn: u8::from(odd == 8),
                    options: Options {
                        timestamps: (odd != 9).then_some((u32::from(odd == 10), 0)),
                        ..Options::default()
                    },
                };
                let start = 54 + usize::from(odd == 11);
                let mut bytes = vec![0; start];
                bytes.extend((0..len).map(|at| (at * 7 + index) as u8));
                // Padding.
                bytes.resize(bytes.len().max(60), 0);
                frames.push(Packet::from(bytes));
                // What is not TCP lies between.
                if odd == 12 {
                    continue;
                }
                seq = header.seq + len as u32;
                let payload = start..start + len;
                segments.push((index, header, frames[index].data()[payload.clone()].to_vec()));
                let last: Option<&mut Arrival> = arrivals.last_mut();
                if last.is_some_and(|last| last.join(index, &header, &payload)) {
                    merged += 1;
                } else {
                    let lookup = engine.prefetch(&header.tuple);
                    arrivals.push(Arrival::new(index, header, payload, lookup));
                }
            }
            assert_eq!(apart(&arrivals, &frames), segments, "seed {seed}");
            for run in arrivals.iter().filter(|run| run.count > 1) {
                assert!(run.next - run.header.seq <= MAX_BYTES, "seed {seed}");
                longest = longest.max(run.count);
            }
        }
        assert!(merged > 5_000 && longest > 20, "{merged} {longest}");
    }
}
