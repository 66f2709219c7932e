//! net_vhost and net_virtio_user: both ends of a virtio device.

use crate::frames::{Port, connect, exchange, open};
use crate::isolated::{Need, isolated};
use crate::memif::socket;

/// The two ports. The vhost side has to be there first and to go last.
fn pair(name: &str, queues: usize) -> (Port, Port) {
    let path = socket(name);
    let host = open(&format!("net_vhost0,iface={path},queues={queues},tso=1"), queues);
    let guest = open(
        &format!(
            "net_virtio_user0,path={path},queues={queues},queue_size=1024,packed_vq=1,in_order=1,\
             mrg_rxbuf=0"
        ),
        queues,
    );
    (guest, host)
}

#[test]
fn frames_cross_in_both_directions() {
    isolated("vhost::frames_cross_in_both_directions", Need::Nothing, || {
        let (mut a, mut b) = pair("vhost", 2);
        for queue in 0..2 {
            connect(&mut *a[queue], &mut *b[queue]);
            connect(&mut *b[queue], &mut *a[queue]);
            exchange(&mut *a[queue], &mut *b[queue]);
            exchange(&mut *b[queue], &mut *a[queue]);
        }
    });
}
