//! What one is told when a device cannot be had.

use std::os::fd::AsRawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
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

#[test]
fn a_port_that_runs_but_does_not_suit_is_refused_for_that() {
    let name = "errors::a_port_that_runs_but_does_not_suit_is_refused_for_that";
    isolated(name, Need::Nothing, || {
        let file = format!("/tmp/throng-dpdk-{}.pcap", std::process::id());
        let port = format!("net_pcap0,tx_pcap={file}");
        // It has no way to change its address.
        let mac = Some(smoltcp::wire::EthernetAddress([2, 0, 0, 0, 0, 9]));
        let options = OpenOptions { mac, ..OpenOptions::default() };
        let text = dpdk::open(&[port], 1, &options).err().unwrap().to_string();
        std::fs::remove_file(file).ok();
        assert!(text.contains("setting the MAC address"), "{text}");
    });
}

#[test]
fn a_port_that_finds_no_descriptor_is_given_up() {
    isolated("errors::a_port_that_finds_no_descriptor_is_given_up", Need::Network, || {
        let options = OpenOptions { buffers: 512, ..OpenOptions::default() };
        drop(dpdk::open(&["net_null0".to_owned()], 1, &options).unwrap());
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
        // Wherever the descriptors end, also between the port's start and its queues.
        let opened = (0..40).find(|&more| {
            setrlimit(Resource::RLIMIT_NOFILE, next + more, hard).unwrap();
            let port = format!("net_tap{more},iface=dpdkfd{more}");
            let result = dpdk::open(&[port], 1, &options);
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
            result.is_ok()
        });
        assert!(opened.is_some_and(|more| more > 1), "{opened:?}");
    });
}
