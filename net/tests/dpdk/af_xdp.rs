//! net_af_xdp on a veth pair, a device at each end.

use std::collections::VecDeque;

use throng_net::device::{Device, OpenOptions};
use throng_net::packet::Packet;

use crate::frames::{
    connect, exchange, frame, number, open, open_with, packet, receive_until, send,
};
use crate::isolated::{Need, is_root, isolated, run};

#[test]
fn frames_cross_a_veth_pair() {
    isolated("af_xdp::frames_cross_a_veth_pair", Need::Network, || {
        if !is_root() {
            println!("skipped: AF_XDP needs root");
            return;
        }
        run("ip link add dpdkx0 numrxqueues 2 numtxqueues 2 type veth peer name dpdkx1 \
             numrxqueues 2 numtxqueues 2");
        for end in ["dpdkx0", "dpdkx1"] {
            run(&format!("ip link set {end} up"));
            run(&format!("ethtool -K {end} tx off"));
        }
        let mut a = open(
            "net_af_xdp0,iface=dpdkx0,start_queue=0+net_af_xdp1,iface=dpdkx0,start_queue=1",
            2,
        );
        let mut b = open(
            "net_af_xdp2,iface=dpdkx1,start_queue=0+net_af_xdp3,iface=dpdkx1,start_queue=1",
            2,
        );
        for queue in 0..2 {
            connect(&mut *a[queue], &mut *b[queue]);
            connect(&mut *b[queue], &mut *a[queue]);
            exchange(&mut *a[queue], &mut *b[queue]);
            exchange(&mut *b[queue], &mut *a[queue]);
        }
    });
}

/// Buffers of a queue; rings hold up to half of them.
const BUFFERS: usize = 4096;

/// What the kernel does not know for a buffer of the queue is never sent, and lost to receiving: when
/// its turn came, and that of others like it, the queue starves.
fn every_buffer_serves() {
    if !is_root() {
        println!("skipped: AF_XDP needs root");
        return;
    }
    run("ip link add dpdkx0 type veth peer name dpdkx1");
    let open = |number: u32, end: &str| {
        run(&format!("ip link set {end} up"));
        run(&format!("ethtool -K {end} tx off"));
        let options = OpenOptions { buffers: BUFFERS, ..OpenOptions::default() };
        open_with(&format!("net_af_xdp{number},iface={end}"), 1, &options).remove(0)
    };
    let (mut a, mut b) = (open(0, "dpdkx0"), open(1, "dpdkx1"));
    connect(&mut *a, &mut *b);
    connect(&mut *b, &mut *a);
    send_all_buffers(&mut *a, &mut *b);
    send_all_buffers(&mut *b, &mut *a);
}

/// Sends every buffer that `from` has, a burst at a time, and keeps the last that `to` receives, so
/// that it has to receive into all of its own.
fn send_all_buffers(from: &mut dyn Device, to: &mut dyn Device) {
    let mut all = VecDeque::new();
    loop {
        let bytes = frame(from, all.len() as u32, 100);
        match packet(from, &bytes) {
            Some(packet) => all.push_back(packet),
            None => break,
        }
    }
    assert!(all.len() > BUFFERS / 4, "{} buffers", all.len());
    let mut kept = VecDeque::new();
    let mut sent = 0;
    while !all.is_empty() {
        let mut burst: VecDeque<Packet> = all.drain(..all.len().min(20)).collect();
        sent += burst.len() as u32;
        send(from, &mut burst);
        receive_until(to, "burst", |got| {
            let last = number(got.data()).is_some_and(|number| number.wrapping_add(1) == sent);
            kept.push_back(got);
            if kept.len() > BUFFERS / 4 {
                kept.pop_front();
            }
            last
        });
    }
}

#[test]
fn every_buffer_serves_on_the_pages_there_are() {
    isolated(
        "af_xdp::every_buffer_serves_on_the_pages_there_are",
        Need::Network,
        every_buffer_serves,
    );
}

#[test]
fn every_buffer_serves_without_huge_pages() {
    isolated(
        "af_xdp::every_buffer_serves_without_huge_pages",
        Need::NetworkOnSmallPages,
        every_buffer_serves,
    );
}
