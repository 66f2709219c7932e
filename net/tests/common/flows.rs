//! Flows for the tests of steering, and their delivery.

use std::net::SocketAddr;
use std::ops::Range;

use throng_net::device::Rss;
use throng_net::rss::{Reta, SYMMETRIC_KEY};
use throng_net::steering::PortSteering;
use throng_net::tcp::segment::FourTuple;

/// The flow with this number.
pub(crate) fn flow(n: u32) -> FourTuple {
    let remote: SocketAddr =
        format!("10.0.{}.{}:{}", n >> 8 & 255, n & 255, 1024 + n * 7 % 60000).parse().unwrap();
    FourTuple {
        local: "10.9.9.9".parse::<std::net::IpAddr>().unwrap().into(),
        remote: remote.ip().into(),
        local_port: 80,
        remote_port: remote.port(),
    }
}

/// The claim of a device with the symmetric key.
pub(crate) fn toeplitz(shards: u16) -> Rss {
    let reta = Reta::even(shards, 128).entries().to_vec();
    Rss::Toeplitz { key: SYMMETRIC_KEY.to_vec(), reta, udp: true }
}

/// Delivers flows to the shards that own them.
pub(crate) fn deliver_rightly(port: &PortSteering, flows: Range<u32>, with_hash: bool) {
    let truth = port.sharding().clone();
    for n in flows {
        let tuple = flow(n);
        let hash = truth.hasher().hash_tuple(&tuple);
        let owner = truth.owner(hash);
        let mut steering = port.shard(owner);
        assert_eq!(steering.classify(&tuple, with_hash.then_some(hash)), owner);
    }
}
