//! net_af_xdp on a veth pair, a device at each end.

use crate::frames::{connect, exchange, open};
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
