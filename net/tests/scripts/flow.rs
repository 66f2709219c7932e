//! Between the script's numbers and those on the wire.

use std::collections::HashMap;

use throng_net::engine::{Flags, FourTuple, Header, Options as WireOptions, SackBlock, SeqNum};

use crate::script::{Body, Options, Packet, Stamp, Tcp};

/// The peer's numbers on the wire are that much more than in the script, so that they pass
/// through zero early in most of them.
const REMOTE_OFFSET: u32 = 0xffff_f400;

/// A connection of the script.
#[derive(Debug)]
pub struct Flow {
    pub tuple: FourTuple,
    /// Our numbers on the wire less those of the script, once our SYN was seen.
    local_offset: Option<u32>,
    /// The number of the peer's first SYN in the script. Later ones count from it, and what bears
    /// no SYN from 0, as with packetdrill.
    remote_isn: Option<u32>,
    /// What the script's timestamps of ours stand for.
    stamps: HashMap<Stamp, u32>,
    /// The first of them: when it was sent (in ticks), and both its values.
    first_stamp: Option<(u32, u32)>,
    /// What the application has written.
    pub written: Vec<u8>,
    /// How much it has read.
    pub read: usize,
}

/// The byte at `offset` of what a peer sends, or of what a script writes.
pub fn pattern(offset: usize) -> u8 {
    (offset % 251) as u8
}

impl Flow {
    pub fn new(tuple: FourTuple) -> Flow {
        Flow {
            tuple,
            local_offset: None,
            remote_isn: None,
            stamps: HashMap::new(),
            first_stamp: None,
            written: Vec::new(),
            read: 0,
        }
    }

    /// A sequence number of ours as on the wire.
    pub fn ours(&self, seq: u32) -> SeqNum {
        SeqNum(seq.wrapping_add(self.local_offset.unwrap_or(0)))
    }

    /// The segment that the script injects.
    pub fn injected(&mut self, packet: &Packet, tcp: &Tcp) -> (Header, Vec<u8>) {
        let options = tcp.options.as_ref();
        let mut wire = WireOptions::default();
        if let Some(options) = options {
            wire.mss = options.mss;
            wire.window_scale = options.wscale.map(|shift| shift.min(14));
            wire.sack_permitted = options.sack_ok;
            wire.timestamps =
                options.stamps.as_ref().map(|(value, echo)| (plain(value), self.echo(echo)));
            for (slot, (from, to)) in wire.sack.iter_mut().zip(&options.sack) {
                *slot = Some(SackBlock { start: self.ours(*from), end: self.ours(*to) });
            }
        }
        let mut seq = tcp.seq;
        if tcp.flags & Flags::SYN.0 != 0 {
            if self.remote_isn.is_none() && matches!(tcp.ack, None | Some(1)) {
                self.remote_isn = Some(seq);
            }
            seq = seq.wrapping_sub(self.remote_isn.unwrap_or(0));
        }
        let header = Header {
            tuple: self.tuple,
            seq: SeqNum(seq.wrapping_add(REMOTE_OFFSET)),
            ack: tcp.ack.map_or(SeqNum(0), |ack| self.ours(ack)),
            flags: Flags(tcp.flags),
            window: tcp.win.unwrap_or(0),
            urgent: tcp.urgent,
            ecn: packet.ecn.unwrap_or(0),
            options: wire,
        };
        let start = seq.wrapping_sub(1) as usize;
        (header, (start..start + tcp.len as usize).map(pattern).collect())
    }

    fn echo(&self, stamp: &Stamp) -> u32 {
        match (self.stamps.get(stamp), stamp, self.first_stamp) {
            (Some(value), ..) => *value,
            (None, Stamp::Number(0), _) => 0,
            (None, Stamp::Number(number), Some((script, wire))) => {
                wire.wrapping_add(number.wrapping_sub(script))
            }
            (None, Stamp::Number(number), None) => *number,
            (None, Stamp::Name(_), _) => 0,
        }
    }

    /// What the engine sent, in the script's numbers. `expected` is what it is compared with:
    /// what is not said there is left out, and its timestamp names ours.
    pub fn described(&mut self, header: &Header, len: usize, expected: Option<&Packet>) -> Packet {
        if header.flags.contains(Flags::SYN) {
            let script = expected.and_then(seq_of).unwrap_or(0);
            self.local_offset = Some(header.seq.0.wrapping_sub(script));
        }
        let offset = self.local_offset.unwrap_or(0);
        // RFC 9293 3.10.7.1: a reset that takes its number from nowhere has the number 0.
        let bare = header.flags.contains(Flags::RST) && header.seq.0 == 0;
        let tcp = expected.and_then(|packet| match &packet.body {
            Body::Tcp(tcp) => Some(tcp),
            Body::Icmp(_) => None,
        });
        let wanted = tcp.and_then(|tcp| tcp.options.as_ref());
        let stamps = header.options.timestamps.map(|(value, echo)| {
            let name = wanted.and_then(|options| options.stamps.as_ref()).map(|stamps| &stamps.0);
            (self.name_stamp(value, name), Stamp::Number(echo))
        });
        let theirs = |seq: SeqNum| seq.0.wrapping_sub(REMOTE_OFFSET);
        let options = Options {
            mss: header.options.mss,
            wscale: header.options.window_scale,
            sack_ok: header.options.sack_permitted,
            stamps,
            sack: header
                .options
                .sack
                .iter()
                .map_while(|block| block.map(|block| (theirs(block.start), theirs(block.end))))
                .collect(),
        };
        let body = Tcp {
            flags: header.flags.0,
            seq: if bare { 0 } else { header.seq.0.wrapping_sub(offset) },
            len: len as u32,
            ack: header.flags.contains(Flags::ACK).then(|| theirs(header.ack)),
            win: Some(header.window),
            urgent: header.urgent,
            options: Some(options),
        };
        Packet { ports: None, ecn: Some(header.ecn), body: Body::Tcp(body) }
    }

    /// Notes what the script calls the timestamp `value`, and returns that.
    fn name_stamp(&mut self, value: u32, name: Option<&Stamp>) -> Stamp {
        let stamp = match name {
            Some(name) => name.clone(),
            None => match self.first_stamp {
                Some((script, wire)) => {
                    Stamp::Number(script.wrapping_add(value.wrapping_sub(wire)))
                }
                None => Stamp::Number(value),
            },
        };
        self.stamps.insert(stamp.clone(), value);
        if let (None, Stamp::Number(script)) = (self.first_stamp, &stamp) {
            self.first_stamp = Some((*script, value));
        }
        stamp
    }

    /// How many ticks the timestamp `value` is past what the script says.
    pub fn stamp_error(&self, value: u32, expected: &Stamp) -> i32 {
        match (expected, self.first_stamp) {
            (Stamp::Number(number), Some((script, wire))) => {
                value.wrapping_sub(wire).wrapping_sub(number.wrapping_sub(script)) as i32
            }
            _ => 0,
        }
    }
}

fn plain(stamp: &Stamp) -> u32 {
    match stamp {
        Stamp::Number(number) => *number,
        Stamp::Name(_) => 0,
    }
}

/// The sequence number of a SYN.
fn seq_of(packet: &Packet) -> Option<u32> {
    match &packet.body {
        Body::Tcp(tcp) if tcp.flags & Flags::SYN.0 != 0 => Some(tcp.seq),
        _ => None,
    }
}

/// What keeps `actual` from being the `expected` packet; `None` if it is. `any_push`: PSH may be
/// there or not.
pub fn difference(expected: &Packet, actual: &Packet, any_push: bool) -> Option<&'static str> {
    let (Body::Tcp(want), Body::Tcp(got)) = (&expected.body, &actual.body) else {
        return Some("kind");
    };
    let compared = if any_push { !Flags::PSH.0 } else { u8::MAX };
    let checks = [
        ((want.flags ^ got.flags) & compared != 0, "flags"),
        (want.seq != got.seq, "sequence number"),
        (want.len != got.len, "length"),
        (want.ack != got.ack, "acknowledgement"),
        (want.win.is_some() && want.win != got.win, "window"),
        (want.urgent != got.urgent, "urgent pointer"),
        (want.options.is_some() && want.options != got.options, "options"),
        (expected.ecn.is_some() && expected.ecn != actual.ecn, "ECN mark"),
    ];
    checks.iter().find(|(differs, _)| *differs).map(|(_, what)| *what)
}
