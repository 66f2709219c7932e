//! Which options the engine offers, and what it makes of the peer's (RFC 9293 3.2, RFC 7323,
//! RFC 2018).

use super::segment::{Header, Options};

/// Room timestamps take in every segment, padding included (RFC 7323 appendix A).
pub(super) const TIMESTAMPS_LEN: u16 = 12;
/// The MSS of a peer that names none, over IPv4 and over IPv6 (RFC 9293 3.7.1).
const DEFAULT_MSS: [u16; 2] = [536, 1220];
/// Smaller ones are taken for this, as in Linux: a peer must not make us send dust.
pub(super) const MIN_MSS: u16 = 48;

/// What a SYN said about the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// Largest payload to send, before options are taken off.
    pub(super) mss: u16,
    pub(super) scale: Option<u8>,
    pub(super) sack: bool,
    pub(super) timestamp: Option<u32>,
    /// Bits of [`ecn`](super::ecn); [`read`](Offer::read) leaves them to the caller.
    pub(super) ecn: u8,
}

impl Offer {
    /// Reads a SYN; `our_mss` bounds what is believed.
    pub(super) fn read(syn: &Header, our_mss: u16) -> Offer {
        let options = &syn.options;
        let default = DEFAULT_MSS[usize::from(!syn.tuple.remote.is_ipv4())];
        Offer {
            // Nobody means nothing by it: it is taken for none, as in Linux.
            mss: options
                .mss
                .filter(|mss| *mss > 0)
                .unwrap_or(default)
                .clamp(MIN_MSS, our_mss.max(MIN_MSS)),
            // RFC 7323 2.3: more than 14 is taken for 14.
            scale: options.window_scale.map(|s| s.min(14)),
            sack: options.sack_permitted,
            timestamp: options.timestamps.map(|(value, _)| value),
            ecn: 0,
        }
    }
}

/// The options of a SYN of ours: everything.
pub(super) fn syn(mss: u16, scale: u8, timestamp: u32) -> Options {
    Options {
        mss: Some(mss),
        window_scale: Some(scale),
        sack_permitted: true,
        timestamps: Some((timestamp, 0)),
        sack: [None; 4],
    }
}

/// The options of a SYN-ACK: what the peer offered too.
pub(super) fn syn_ack(offer: &Offer, mss: u16, scale: u8, timestamp: u32) -> Options {
    Options {
        mss: Some(mss),
        window_scale: offer.scale.map(|_| scale),
        sack_permitted: offer.sack,
        timestamps: offer.timestamp.map(|theirs| (timestamp, theirs)),
        sack: [None; 4],
    }
}

/// Bytes that `blocks` SACK blocks take, padding included (RFC 2018 3).
pub(super) fn sack_len(blocks: usize) -> u16 {
    if blocks == 0 { 0 } else { 4 + 8 * blocks as u16 }
}
