//! net_memif: shared memory between two ports.

use crate::frames::{connect, exchange, open};
use crate::isolated::{Need, isolated};

/// A socket nobody else uses.
pub(crate) fn socket(name: &str) -> String {
    let path = std::env::temp_dir().join(format!("throng-{name}-{}.sock", std::process::id()));
    path.to_str().unwrap().to_owned()
}

#[test]
fn frames_cross_in_both_directions() {
    isolated("memif::frames_cross_in_both_directions", Need::Nothing, || {
        let socket = socket("memif");
        let server = format!("net_memif0,role=server,id=0,socket={socket},socket-abstract=no");
        let client = format!("net_memif1,role=client,id=0,socket={socket},socket-abstract=no");
        let mut a = open(&server, 2);
        let mut b = open(&client, 2);
        for queue in 0..2 {
            connect(&mut *a[queue], &mut *b[queue]);
            connect(&mut *b[queue], &mut *a[queue]);
            exchange(&mut *a[queue], &mut *b[queue]);
            exchange(&mut *b[queue], &mut *a[queue]);
        }
        assert_ne!(a[0].capabilities().mac, b[0].capabilities().mac);
    });
}
