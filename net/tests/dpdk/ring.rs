//! net_ring: two ports of one process.

use throng_net::device::{OpenOptions, dpdk};

use crate::frames::exchange;
use crate::isolated::{Need, isolated};

#[test]
fn frames_cross_in_both_directions() {
    isolated("ring::frames_cross_in_both_directions", Need::Nothing, || {
        let (mut a, mut b) = dpdk::ring_pair(2, &OpenOptions::default()).unwrap();
        for queue in 0..2 {
            exchange(&mut *a[queue], &mut *b[queue]);
            exchange(&mut *b[queue], &mut *a[queue]);
        }
        assert_ne!(a[0].capabilities().mac, b[0].capabilities().mac);
    });
}
