//! What one is told when a device cannot be had.

use throng_net::device::{OpenOptions, dpdk};

use crate::isolated::{Need, isolated};

#[test]
fn an_error_names_the_device_and_the_reason() {
    isolated("errors::an_error_names_the_device_and_the_reason", Need::Nothing, || {
        let error = |ports: &[&str], shards: usize| {
            let ports: Vec<String> = ports.iter().map(|port| port.to_string()).collect();
            dpdk::open(&ports, shards, &OpenOptions::default()).err().unwrap().to_string()
        };
        let text = error(&["net_tap0,iface=dpdkerr", "net_tap1,iface=dpdkerr"], 3);
        assert!(text.contains("2 ports for 3 shards"), "{text}");
        let text = error(&["net_nosuch0"], 1);
        assert!(text.contains("dpdk:net_nosuch0"), "{text}");
        let text = error(&["net_memif0,role=server,nonsense=1"], 1);
        assert!(text.contains("net_memif0") && text.contains("nonsense"), "{text}");
        let text = error(&["net_virtio_user0,path=/nowhere/socket"], 1);
        assert!(text.contains("/nowhere/socket"), "{text}");
        let text = error(&["net_null0"], 5000);
        assert!(text.contains("at most 1024 queue pairs"), "{text}");
        // None of this keeps a device from being opened.
        assert!(dpdk::open(&["net_null0".to_owned()], 1, &OpenOptions::default()).is_ok());
    });
}
