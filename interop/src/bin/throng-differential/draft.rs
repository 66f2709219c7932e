//! A segment of ours in the making, by what is out of the ordinary about it.

use crate::frame::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

/// Options of a SYN.
pub(crate) mod opt {
    pub(crate) const MSS: [u8; 4] = [2, 4, 0x05, 0xb4];
    pub(crate) const SACK: [u8; 4] = [1, 1, 4, 2];
    pub(crate) const SCALE: [u8; 4] = [1, 3, 3, 7];

    /// A maximum segment size.
    pub(crate) fn mss(size: u16) -> Vec<u8> {
        let [high, low] = size.to_be_bytes();
        vec![2, 4, high, low]
    }

    /// Timestamps, padded.
    pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
        [&[1, 1, 8, 10], &value.to_be_bytes()[..], &echo.to_be_bytes()].concat()
    }

    /// SACK blocks, padded.
    pub(crate) fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
        let mut option = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        for (start, end) in blocks {
            option.extend(start.to_be_bytes());
            option.extend(end.to_be_bytes());
        }
        option
    }
}

/// The control bits by their letters.
pub(crate) const FLAGS: [(char, u8); 8] = [
    ('S', SYN),
    ('F', FIN),
    ('R', RST),
    ('P', PSH),
    ('A', ACK),
    ('U', URG),
    ('E', ECE),
    ('C', CWR),
];

/// A segment of ours in the making.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) flags: String,
    pub(crate) seq: Option<u32>,
    pub(crate) ack: Option<u32>,
    pub(crate) raw_ack: Option<u32>,
    pub(crate) length: usize,
    pub(crate) options: Option<Vec<u8>>,
    pub(crate) clock: Option<Option<u32>>,
    pub(crate) window: Option<u16>,
    pub(crate) urgent: u16,
    pub(crate) ttl: u8,
    pub(crate) ecn: u8,
    pub(crate) bad_checksum: bool,
    pub(crate) offset: Option<u8>,
}

/// A segment with these flags (of `SFRPAUEC`), at our next sequence number, acknowledging all.
pub(crate) fn seg(flags: &str) -> Draft {
    Draft {
        flags: flags.into(),
        seq: None,
        ack: None,
        raw_ack: None,
        length: 0,
        options: None,
        clock: None,
        window: None,
        urgent: 0,
        ttl: 64,
        ecn: 0,
        bad_checksum: false,
        offset: None,
    }
}

impl Draft {
    /// At this relative sequence number; ours does not move by it.
    pub(crate) fn at(mut self, seq: u32) -> Draft {
        self.seq = Some(seq);
        self
    }
    /// Acknowledges up to this relative number.
    pub(crate) fn ack(mut self, ack: u32) -> Draft {
        self.ack = Some(ack);
        self
    }
    /// The acknowledgement field as it is on the wire.
    pub(crate) fn raw_ack(mut self, ack: u32) -> Draft {
        self.raw_ack = Some(ack);
        self
    }
    /// With so much payload.
    pub(crate) fn data(mut self, length: usize) -> Draft {
        self.length = length;
        self
    }
    /// With these options in place of ours.
    pub(crate) fn options(mut self, options: impl Into<Vec<u8>>) -> Draft {
        self.options = Some(options.into());
        self
    }
    /// With this relative timestamp; `None`: without one.
    pub(crate) fn clock(mut self, clock: Option<u32>) -> Draft {
        self.clock = Some(clock);
        self
    }
    pub(crate) fn window(mut self, window: u16) -> Draft {
        self.window = Some(window);
        self
    }
    pub(crate) fn urgent(mut self, urgent: u16) -> Draft {
        self.urgent = urgent;
        self
    }
    pub(crate) fn ttl(mut self, ttl: u8) -> Draft {
        self.ttl = ttl;
        self
    }
    pub(crate) fn ecn(mut self, ecn: u8) -> Draft {
        self.ecn = ecn;
        self
    }
    pub(crate) fn bad_checksum(mut self) -> Draft {
        self.bad_checksum = true;
        self
    }
    /// With this in place of the header's length in words.
    pub(crate) fn offset(mut self, offset: u8) -> Draft {
        self.offset = Some(offset);
        self
    }
}
