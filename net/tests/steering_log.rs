//! The decision is logged, once. Alone in its binary: what other threads do with the same
//! log statements decides whether they are looked at.

use std::net::SocketAddr;

use throng_net::device::Rss;
use throng_net::rss::{Reta, SYMMETRIC_KEY};
use throng_net::steering::PortSteering;
use throng_net::tcp::segment::FourTuple;
use throng_runtime::ShardId;

fn flow(n: u32) -> FourTuple {
    let remote: SocketAddr =
        format!("10.0.{}.{}:{}", n >> 8 & 255, n & 255, 1024 + n * 7 % 60000).parse().unwrap();
    FourTuple {
        local: "10.9.9.9".parse::<std::net::IpAddr>().unwrap().into(),
        remote: remote.ip().into(),
        local_port: 80,
        remote_port: remote.port(),
    }
}

fn toeplitz(shards: u16) -> Rss {
    Rss::Toeplitz { key: SYMMETRIC_KEY.to_vec(), reta: Reta::even(shards, 128).entries().to_vec() }
}

/// Delivers flows to the shards that own them.
fn deliver_rightly(port: &PortSteering, flows: std::ops::Range<u32>, with_hash: bool) {
    let truth = port.sharding().clone();
    for n in flows {
        let tuple = flow(n);
        let hash = truth.hasher().hash_tuple(&tuple);
        let owner = truth.owner(hash);
        let mut steering = port.shard(owner);
        assert_eq!(steering.classify(&tuple, with_hash.then_some(hash)), owner);
    }
}

/// What `f` logs, one line for each event.
fn logged(f: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, f);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_decision_is_logged_once_with_its_reason() {
    let lines = logged(|| {
        PortSteering::new("eth7", &Rss::None, 4);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in ["eth7", "by software", "claims no RSS"] {
        assert!(lines[0].contains(word), "{lines:?}");
    }
    let lines = logged(|| {
        let port = PortSteering::new("eth7", &toeplitz(2), 2);
        deliver_rightly(&port, 0..500, true);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in ["eth7", "by the device's RSS", "flows=32", "hash_reported=true"] {
        assert!(lines[0].contains(word), "{lines:?}");
    }
    let lines = logged(|| {
        let port = PortSteering::new("eth7", &toeplitz(2), 2);
        for n in 0..50 {
            port.shard(ShardId(0)).classify(&flow(n), None);
        }
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in ["eth7", "by software", "another queue than predicted", "predicted=1"] {
        assert!(lines[0].contains(word), "{lines:?}");
    }
}
