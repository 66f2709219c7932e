//! Follows frame boundaries in the bytes that pass to tungstenite, which does not tell
//! whether it holds a partial frame. Knowing that is what allows parking.

/// Where the received byte stream stands between frames and fragments (RFC 6455 5.2).
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// Payload bytes of the current frame still to come.
    payload: u64,
    /// The header of the current frame as far as it is known without its masking key.
    header: [u8; 10],
    /// Header bytes seen, masking key included; 0 between frames.
    seen: u8,
    /// A fragmented message has begun and not ended.
    fragmented: bool,
    /// Payload of that message's frames so far, the current one in full.
    announced: u64,
    /// The header of a control frame said that it is larger than one may be.
    oversize: bool,
}

/// Most payload of a control frame (RFC 6455 5.5).
pub(crate) const MAX_CONTROL: usize = 125;

impl Tracker {
    /// Takes the next received bytes; returns how many are good: all but those from the end
    /// of an oversize control frame's header on. tungstenite would make room for its payload
    /// before it looks at the size.
    pub(crate) fn feed(&mut self, received: &[u8]) -> usize {
        let mut bytes = received;
        while !bytes.is_empty() && !self.oversize {
            if self.payload > 0 {
                let skip = bytes.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.payload -= skip as u64;
                bytes = &bytes[skip..];
                if self.payload == 0 {
                    self.end_frame();
                }
                continue;
            }
            if let Some(slot) = self.header.get_mut(usize::from(self.seen)) {
                *slot = bytes[0];
            }
            self.seen += 1;
            bytes = &bytes[1..];
            if self.seen >= 2 && self.seen == self.header_len() {
                self.begin_payload();
                if self.oversize {
                    return received.len() - bytes.len() - 1;
                }
            }
        }
        received.len() - bytes.len()
    }

    /// An oversize control frame has begun; nothing behind that is good.
    pub(crate) fn is_oversize(&self) -> bool {
        self.oversize
    }

    /// Payload, announced or here, of the message that has begun and not ended.
    pub(crate) fn under_way(&self) -> u64 {
        self.announced
    }

    /// Nothing of a frame or of a fragmented message is pending.
    pub(crate) fn at_boundary(&self) -> bool {
        self.payload == 0 && self.seen == 0 && !self.fragmented
    }

    fn header_len(&self) -> u8 {
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length + mask
    }

    fn begin_payload(&mut self) {
        self.payload = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => {
                let mut length = [0; 8];
                length.copy_from_slice(&self.header[2..10]);
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        self.seen = 0;
        // Control frames (opcode 8 and up) may stand between fragments and change nothing.
        if self.header[0] & 0x0f < 8 {
            self.fragmented = self.header[0] & 0x80 == 0;
            self.announced = self.announced.saturating_add(self.payload);
        } else {
            self.oversize = self.payload > MAX_CONTROL as u64;
        }
        if self.payload == 0 {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if !self.fragmented {
            self.announced = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tracker;

    fn frame(first: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mut out = vec![first];
        let mask = if masked { 0x80 } else { 0 };
        match payload {
            0..=125 => out.push(mask | payload as u8),
            126..=65535 => {
                out.push(mask | 126);
                out.extend((payload as u16).to_be_bytes());
            }
            _ => {
                out.push(mask | 127);
                out.extend((payload as u64).to_be_bytes());
            }
        }
        if masked {
            out.extend([1, 2, 3, 4]);
        }
        out.extend(std::iter::repeat_n(0xff, payload));
        out
    }

    #[test]
    fn boundary_only_between_frames() {
        for masked in [false, true] {
            for size in [0, 1, 125, 126, 65535, 65536] {
                let bytes = frame(0x82, masked, size);
                let mut tracker = Tracker::default();
                for (i, byte) in bytes.iter().enumerate() {
                    assert_eq!(tracker.at_boundary(), i == 0, "byte {i} of {size}");
                    tracker.feed(&[*byte]);
                }
                assert!(tracker.at_boundary());
                tracker.feed(&bytes);
                tracker.feed(&bytes[..1]);
                assert!(!tracker.at_boundary());
            }
        }
    }

    #[test]
    fn a_control_frame_too_large_is_known_by_its_header() {
        for masked in [false, true] {
            for size in [126, 65535, 65536] {
                let bytes = [frame(0x82, masked, 3), frame(0x8a, masked, size)].concat();
                let good = bytes.len() - size - 1;
                let mut tracker = Tracker::default();
                assert_eq!(tracker.feed(&bytes), good, "{size}");
                assert!(tracker.is_oversize());
                assert_eq!(tracker.feed(&bytes), 0);
            }
            let mut tracker = Tracker::default();
            let bytes = frame(0x89, masked, 125);
            assert_eq!(tracker.feed(&bytes), bytes.len());
            assert!(tracker.at_boundary() && !tracker.is_oversize());
        }
    }

    #[test]
    fn fragments_hold_the_boundary_open() {
        let mut tracker = Tracker::default();
        tracker.feed(&frame(0x02, true, 5));
        assert!(!tracker.at_boundary());
        assert_eq!(tracker.under_way(), 5);
        tracker.feed(&frame(0x89, true, 5));
        assert!(!tracker.at_boundary(), "a ping between fragments ends nothing");
        tracker.feed(&frame(0x00, true, 70_000)[..20]);
        assert_eq!(tracker.under_way(), 70_005, "as soon as the header is there");
        tracker.feed(&frame(0x00, true, 70_000)[20..]);
        tracker.feed(&frame(0x80, true, 0));
        assert!(tracker.at_boundary());
        assert_eq!(tracker.under_way(), 0);
    }
}
