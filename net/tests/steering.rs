//! The self-check: when the device is trusted, when not, and that ownership never changes.

#[path = "common/flows.rs"]
mod flows;

use flows::{deliver_rightly, flow, toeplitz};
use throng_net::device::Rss;
use throng_net::rss::{SYMMETRIC_KEY, Sharding, Toeplitz};
use throng_net::steering::{Mode, PortSteering, RECHECK_INTERVAL, VERIFY_FLOWS};
use throng_runtime::ShardId;

#[test]
fn one_shard_has_nothing_to_steer() {
    let port = PortSteering::new("test", &toeplitz(1), 1);
    assert_eq!(port.mode(), Mode::Single);
    assert_eq!(port.shard(ShardId(0)).classify(&flow(1), Some(1)), ShardId(0));
}

#[test]
fn no_claim_means_software() {
    let port = PortSteering::new("test", &Rss::None, 3);
    assert_eq!(port.mode(), Mode::Software);
    let truth = Sharding::symmetric(3);
    for n in 0..500 {
        assert_eq!(port.shard(ShardId(1)).classify(&flow(n), None), truth.owner_of(&flow(n)));
    }
}

#[test]
fn nonsense_claims_mean_software() {
    for (key, reta) in [
        (vec![1; 16], vec![0, 1]),
        (SYMMETRIC_KEY.to_vec(), vec![0, 1, 2]),
        (SYMMETRIC_KEY.to_vec(), vec![0, 5]),
        (SYMMETRIC_KEY.to_vec(), vec![]),
    ] {
        let claim = Rss::Toeplitz { key, reta, udp: true };
        assert_eq!(PortSteering::new("test", &claim, 2).mode(), Mode::Software);
    }
}

#[test]
fn a_true_claim_is_trusted_after_enough_distinct_flows() {
    for with_hash in [false, true] {
        let port = PortSteering::new("test", &toeplitz(2), 2);
        // The same flow again and again proves nothing.
        let tuple = flow(0);
        let hash = port.sharding().hasher().hash_tuple(&tuple);
        let mut steering = port.shard(port.sharding().owner(hash));
        for _ in 0..1000 {
            steering.classify(&tuple, with_hash.then_some(hash));
        }
        assert_eq!(port.mode(), Mode::Verifying);
        deliver_rightly(&port, 1..VERIFY_FLOWS - 1, with_hash);
        assert_eq!(port.mode(), Mode::Verifying);
        deliver_rightly(&port, 1000..1010, with_hash);
        assert_eq!(port.mode(), Mode::Hardware);
        deliver_rightly(&port, 2000..3000, with_hash);
        assert_eq!(port.mode(), Mode::Hardware);
    }
}

#[test]
fn the_first_mismatch_means_software_for_all_shards() {
    let port = PortSteering::new("test", &toeplitz(2), 2);
    deliver_rightly(&port, 0..10, false);
    let stray = (0..).map(flow).find(|t| port.sharding().owner_of(t) == ShardId(1)).unwrap();
    assert_eq!(port.shard(ShardId(0)).classify(&stray, None), ShardId(1));
    assert_eq!(port.mode(), Mode::Software);
    for shard in [ShardId(0), ShardId(1)] {
        assert_eq!(port.shard(shard).classify(&stray, None), ShardId(1));
    }
}

#[test]
fn a_foreign_hash_means_software() {
    let port = PortSteering::new("test", &toeplitz(2), 2);
    let tuple = flow(3);
    let owner = port.sharding().owner_of(&tuple);
    assert_eq!(port.shard(owner).classify(&tuple, Some(0xdead_beef)), owner);
    assert_eq!(port.mode(), Mode::Software);
}

#[test]
fn trust_is_taken_back_when_a_frame_strays() {
    for with_hash in [false, true] {
        let port = PortSteering::new("test", &toeplitz(2), 2);
        deliver_rightly(&port, 0..100, with_hash);
        assert_eq!(port.mode(), Mode::Hardware);
        let stray = (0..).map(flow).find(|t| port.sharding().owner_of(t) == ShardId(1)).unwrap();
        let hash = port.sharding().hasher().hash_tuple(&stray);
        let mut steering = port.shard(ShardId(0));
        for _ in 0..=RECHECK_INTERVAL {
            steering.classify(&stray, with_hash.then_some(hash));
        }
        assert_eq!(port.mode(), Mode::Software, "hash reported: {with_hash}");
        assert_eq!(steering.classify(&stray, None), ShardId(1));
    }
}

#[test]
fn udp_that_is_hashed_without_ports_is_steered_by_software_alone() {
    for (hashed, expected) in [(true, Mode::Software), (false, Mode::Hardware)] {
        let Rss::Toeplitz { key, reta, .. } = toeplitz(2) else { panic!() };
        let port = PortSteering::new("test", &Rss::Toeplitz { key, reta, udp: hashed }, 2);
        deliver_rightly(&port, 0..100, false);
        let stray = (0..).map(flow).find(|t| port.sharding().owner_of(t) == ShardId(1)).unwrap();
        let mut steering = port.shard(ShardId(0));
        for _ in 0..=RECHECK_INTERVAL {
            // The hash of the addresses, by which the device has chosen the queue.
            steering.classify_udp(&stray, Some(0xbeef));
        }
        assert_eq!(steering.classify_udp(&stray, None), ShardId(1));
        assert_eq!(port.mode(), expected);
    }
}

#[test]
fn the_devices_own_key_and_table_decide_ownership() {
    let key: Vec<u8> = (1..=40).collect();
    let reta = vec![1, 1, 0, 1];
    let claim = Rss::Toeplitz { key: key.clone(), reta: reta.clone(), udp: true };
    let port = PortSteering::new("test", &claim, 2);
    let hasher = Toeplitz::new(&key).unwrap();
    for n in 0..100 {
        let expected = reta[hasher.hash_tuple(&flow(n)) as usize % 4];
        assert_eq!(port.sharding().owner_of(&flow(n)), ShardId(expected));
    }
}
