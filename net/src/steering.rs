//! Steering: may a shard trust that the frames on its queue are its own?
//!
//! Who *owns* a flow never depends on the answer: it is the RETA entry of the Toeplitz
//! hash ([`Sharding`]), with the device's key and table where it claims to have them and
//! with the symmetric key and an even table where it does not. All shards of a port share
//! one [`PortSteering`] and so agree, also while some are still looking. The answer only
//! decides whether ownership has to be computed for each frame:
//!
//! ```text
//!   one shard ──────────────────────────────> Single     nothing to steer
//!   device claims nothing, or nonsense ─────> Software   compute, hand over
//!   device claims Toeplitz ─> Verifying ────> Hardware   trust the queue
//!                                 └──────────────└─────> Software   at the first mismatch
//! ```
//!
//! Only TCP and UDP frames that are not fragments are steered by hash. ARP, NDP, ICMP and
//! fragments are the caller's: every shard gets a copy, or the slow path's shard does. Where
//! the device does not hash UDP by its ports, the owner of a datagram is always computed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use throng_runtime::ShardId;

use crate::device::Rss;
use crate::rss::{DEFAULT_RETA_SIZE, Reta, Sharding, Toeplitz};
use crate::tcp::segment::FourTuple;

/// Distinct flows, over all shards of the port, that must arrive on the predicted queue
/// before the device is trusted. A device that spreads by something else passes by luck
/// with probability `shards ^ -VERIFY_FLOWS`: 2^-32 for two shards.
pub const VERIFY_FLOWS: u32 = 32;

/// In hardware mode one frame in this many is still checked where the device reports no
/// hash of its own (where it does, every frame is: that costs nothing).
pub const RECHECK_INTERVAL: u32 = 1024;

/// How a port is steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One shard: every frame is its own.
    Single,
    /// The device claims to steer; its claim is being checked, nothing is trusted yet.
    Verifying,
    /// The device's claim held: a frame's owner is the shard it arrived on.
    Hardware,
    /// Each frame's owner is computed.
    Software,
}

/// What the shards of one port share: ownership and the decision.
#[derive(Clone, Debug)]
pub struct PortSteering {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    device: String,
    sharding: Sharding,
    hashes_udp: bool,
    mode: AtomicU8,
    verified: AtomicU32,
}

impl PortSteering {
    /// Steering for the port `device` (a name for the log) with this claim, over `shards`
    /// shards: shard `i` polls queue `i`. Logs the decision where it needs no observation.
    pub fn new(device: &str, claim: &Rss, shards: u16) -> PortSteering {
        let (sharding, refusal) = match claim {
            _ if shards <= 1 => (Sharding::symmetric(1), None),
            Rss::None => (Sharding::symmetric(shards), Some("the device claims no RSS")),
            Rss::Toeplitz { key, reta, .. } => {
                match (Toeplitz::new(key), Reta::from_device(reta, shards)) {
                    (Ok(hasher), Some(reta)) => (Sharding::new(hasher, reta), None),
                    (Err(_), _) => {
                        (Sharding::symmetric(shards), Some("the device's RSS key is too short"))
                    }
                    (Ok(hasher), None) => {
                        let reta = Reta::even(shards, DEFAULT_RETA_SIZE);
                        let reason = "the device's redirection table does not fit the shards";
                        (Sharding::new(hasher, reta), Some(reason))
                    }
                }
            }
        };
        let mode = match refusal {
            _ if shards <= 1 => Mode::Single,
            Some(_) => Mode::Software,
            None => Mode::Verifying,
        };
        match (mode, refusal) {
            (Mode::Single, _) => tracing::info!(device, "steering: one shard, nothing to steer"),
            (_, Some(reason)) => tracing::info!(device, shards, reason, "steering: by software"),
            _ => tracing::debug!(device, shards, "steering: verifying the device's RSS"),
        }
        let device = device.to_owned();
        let hashes_udp = matches!(claim, Rss::Toeplitz { udp: true, .. });
        let (mode, verified) = (AtomicU8::new(mode as u8), AtomicU32::new(0));
        PortSteering { shared: Arc::new(Shared { device, sharding, hashes_udp, mode, verified }) }
    }

    /// The view of one shard.
    pub fn shard(&self, shard: ShardId) -> Steering {
        Steering {
            shared: Arc::clone(&self.shared),
            shard,
            seen: HashSet::default(),
            recheck: RECHECK_INTERVAL,
        }
    }

    /// Who owns which flow, for the search of source ports.
    pub fn sharding(&self) -> &Sharding {
        &self.shared.sharding
    }

    /// How frames are steered now.
    pub fn mode(&self) -> Mode {
        self.shared.mode()
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        // Nothing is published through this byte, so relaxed order is enough.
        match self.mode.load(Ordering::Relaxed) {
            x if x == Mode::Single as u8 => Mode::Single,
            x if x == Mode::Verifying as u8 => Mode::Verifying,
            x if x == Mode::Hardware as u8 => Mode::Hardware,
            _ => Mode::Software,
        }
    }

    /// Makes the step if nobody else made one. Returns whether this call did.
    fn step(&self, from: Mode, to: Mode) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.mode.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The steering of one shard.
#[derive(Debug)]
pub struct Steering {
    shared: Arc<Shared>,
    shard: ShardId,
    /// Hashes of the flows that matched so far; emptied when verification ends.
    seen: HashSet<u32, foldhash::fast::FixedState>,
    recheck: u32,
}

impl Steering {
    /// The owner of a TCP frame that arrived on this shard's own queue (not over
    /// the mesh: such a frame says nothing of the device). `tuple` is seen from this
    /// host, so the frame's source is `tuple.remote`; `rx_hash` is the device's hash,
    /// where it gave one.
    #[inline]
    pub fn classify(&mut self, tuple: &FourTuple, rx_hash: Option<u32>) -> ShardId {
        match self.shared.mode() {
            Mode::Single => self.shard,
            Mode::Software => self.shared.sharding.owner_of(tuple),
            Mode::Verifying => self.verify(tuple, rx_hash),
            Mode::Hardware => match rx_hash {
                Some(hash) if self.shared.sharding.owner(hash) == self.shard => self.shard,
                None if self.recheck > 0 => {
                    self.recheck -= 1;
                    self.shard
                }
                _ => {
                    self.recheck = RECHECK_INTERVAL;
                    self.verify(tuple, rx_hash)
                }
            },
        }
    }

    /// The owner of a UDP frame; otherwise as [`classify`](Steering::classify).
    #[inline]
    pub fn classify_udp(&mut self, tuple: &FourTuple, rx_hash: Option<u32>) -> ShardId {
        if self.shared.hashes_udp {
            self.classify(tuple, rx_hash)
        } else {
            self.shared.sharding.owner_of(tuple)
        }
    }

    /// Who owns which flow.
    pub fn sharding(&self) -> &Sharding {
        &self.shared.sharding
    }

    /// How frames are steered now.
    pub fn mode(&self) -> Mode {
        self.shared.mode()
    }

    #[cold]
    fn verify(&mut self, tuple: &FourTuple, rx_hash: Option<u32>) -> ShardId {
        let sharding = &self.shared.sharding;
        let hash = sharding.hasher().hash_tuple(tuple);
        let owner = sharding.owner(hash);
        if owner != self.shard {
            self.distrust(tuple, owner, "a flow arrived on another queue than predicted");
        } else if rx_hash.is_some_and(|reported| reported != hash) {
            self.distrust(tuple, owner, "the device reported another hash than predicted");
        } else if self.shared.mode() == Mode::Verifying && self.seen.insert(hash) {
            let flows = self.shared.verified.fetch_add(1, Ordering::Relaxed) + 1;
            if flows >= VERIFY_FLOWS && self.shared.step(Mode::Verifying, Mode::Hardware) {
                let (device, reported) = (&self.shared.device, rx_hash.is_some());
                tracing::info!(
                    device,
                    flows,
                    hash_reported = reported,
                    reason = "every flow arrived on the predicted queue",
                    "steering: by the device's RSS"
                );
            }
        }
        if self.shared.mode() != Mode::Verifying {
            self.seen = HashSet::default();
        }
        owner
    }

    fn distrust(&self, tuple: &FourTuple, owner: ShardId, reason: &str) {
        let (device, shard) = (&self.shared.device, self.shard.0);
        let flows = self.shared.verified.load(Ordering::Relaxed);
        let early = self.shared.step(Mode::Verifying, Mode::Software);
        if early {
            let predicted = owner.0;
            tracing::info!(
                device,
                shard,
                predicted,
                flows,
                ?tuple,
                reason,
                "steering: by software"
            );
        } else if self.shared.step(Mode::Hardware, Mode::Software) {
            let predicted = owner.0;
            tracing::warn!(
                device,
                shard,
                predicted,
                ?tuple,
                reason,
                "steering: by software from here on"
            );
        }
    }
}
