//! The decision is logged, once.
//!
//! Alone in its binary: while there is a single subscriber, `tracing` asks that of the thread
//! which first comes to a log statement whether anybody wants it, and keeps the answer for
//! all threads. Another test's thread, which has none, would say no for this one.

#[path = "common/flows.rs"]
mod flows;
#[path = "common/log.rs"]
mod log;

use flows::{deliver_rightly, flow, toeplitz};
use log::logged;
use throng_net::device::Rss;
use throng_net::steering::PortSteering;
use throng_runtime::ShardId;

#[test]
fn the_decision_is_logged_once_with_its_reason() {
    let lines = logged(tracing::Level::INFO, || {
        PortSteering::new("eth7", &Rss::None, 4);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in ["eth7", "by software", "claims no RSS"] {
        assert!(lines[0].contains(word), "{lines:?}");
    }
    let lines = logged(tracing::Level::INFO, || {
        let port = PortSteering::new("eth7", &toeplitz(2), 2);
        deliver_rightly(&port, 0..500, true);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in ["eth7", "by the device's RSS", "flows=32", "hash_reported=true"] {
        assert!(lines[0].contains(word), "{lines:?}");
    }
    let lines = logged(tracing::Level::INFO, || {
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
