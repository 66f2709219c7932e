//! A path that carries less than the links at its ends.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::AsyncReadExt;
use throng_net::device::Device;
use throng_net::device::memory::{self, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::stats::Stats;
use throng_net::{TcpListener, TcpStream, stats};
use throng_runtime::sim::{HostId, World};
use throng_runtime::{Instant, ShardId, spawn_local};

use crate::hop::{Behind, Hop};

const LEN: usize = 300_000;

struct Lab {
    world: World,
    client: HostId,
    server: HostId,
    hop: Arc<Mutex<Hop>>,
}

impl Lab {
    /// Two hosts 10 ms apart, whose server sends [`LEN`] bytes to whoever connects; segments
    /// that the client sends back are counted.
    fn new(mtu: usize, speaks: bool) -> Lab {
        let options = Options { latency: Duration::from_millis(5), ..Options::default() };
        let (mut near, mut far) = memory::pair(1, options);
        let (device, hop) = Behind::new(near.remove(0));
        {
            let mut hop = hop.lock().unwrap();
            (hop.mtu, hop.speaks) = (mtu, speaks);
        }
        let mut world = World::new();
        let config = HostConfig::new(&["10.0.0.2/24", "fd00::2/64"], 1);
        let client = add_host(&mut world, vec![Box::new(device)], &config);
        let config = HostConfig::new(&["10.0.0.1/24", "fd00::1/64"], 2);
        let device: Box<dyn Device> = Box::new(far.remove(0));
        let server = add_host(&mut world, vec![device], &config);
        world.spawn(server, ShardId(0), async {
            let listener = TcpListener::bind("[::]:7".parse().unwrap()).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                spawn_local(async move {
                    for part in 0..LEN / 10_000 {
                        let bytes = Bytes::from(vec![part as u8; 10_000]);
                        stream.write_chunk(bytes).await.unwrap();
                    }
                    while !stream.read_chunk(65_536).await.unwrap().is_empty() {}
                });
            }
        });
        Lab { world, client, server, hop }
    }

    /// Connects, reads all that the server sends, and sends as much. Returns how long that took.
    fn transfer(&mut self, ip: &str) -> Duration {
        let to = SocketAddr::new(ip.parse().unwrap(), 7);
        let done = Rc::new(RefCell::new(false));
        let ended = done.clone();
        self.world.spawn(self.client, ShardId(0), async move {
            let mut stream = TcpStream::connect(to).await.unwrap();
            let mut got = vec![0; LEN];
            stream.read_exact(&mut got).await.unwrap();
            for (part, bytes) in got.chunks(10_000).enumerate() {
                assert!(bytes.iter().all(|byte| *byte == part as u8));
            }
            stream.write_chunk(Bytes::from(got)).await.unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
            *ended.borrow_mut() = true;
        });
        let start = self.world.now();
        let limit = start + Duration::from_secs(60);
        assert!(self.world.run_until(limit, || *done.borrow()), "it did not end");
        self.world.now() - start
    }

    fn stats(&self, host: HostId) -> Stats {
        self.world.enter(host, ShardId(0), stats::current).unwrap()
    }

    fn longest(&self) -> [usize; 2] {
        std::mem::take(&mut self.hop.lock().unwrap().longest)
    }

    fn dropped(&self) -> usize {
        std::mem::take(&mut self.hop.lock().unwrap().dropped)
    }
}

fn since(start: Instant, lab: &Lab) -> Duration {
    lab.world.now() - start
}

#[test]
fn routers_that_speak_cost_a_round_trip() {
    for (ip, mtu) in [("10.0.0.1", 1_400), ("10.0.0.1", 600), ("fd00::1", 1_280)] {
        let undisturbed = Lab::new(0, true).transfer(ip);
        let mut lab = Lab::new(mtu, true);
        let took = lab.transfer(ip);
        assert_eq!(lab.longest(), [mtu, mtu], "{ip}: full use of what there is");
        let dropped = lab.dropped();
        assert!((2..60).contains(&dropped), "{ip} {mtu}: {dropped} were too long");
        for host in [lab.client, lab.server] {
            let stats = lab.stats(host);
            assert_eq!(stats.tcp.path_mtu_lowered, 1, "{:?}", stats.tcp);
            assert_eq!((stats.tcp.timeouts, stats.tcp.recoveries), (0, 0), "{:?}", stats.tcp);
        }
        assert!(took < undisturbed * 2 + Duration::from_millis(100), "{took:?} {undisturbed:?}");
        // Later connections know.
        lab.transfer(ip);
        assert_eq!(lab.dropped(), 0);
        // For ten minutes.
        let start = lab.world.now();
        lab.hop.lock().unwrap().mtu = 0;
        lab.world.run_for(Duration::from_secs(590));
        lab.longest();
        lab.transfer(ip);
        assert_eq!(lab.longest(), [mtu, mtu]);
        lab.world.run_for(Duration::from_secs(620).saturating_sub(since(start, &lab)));
        lab.transfer(ip);
        assert_eq!(lab.longest(), [1_500, 1_500]);
    }
}

#[test]
fn old_routers_name_no_mtu() {
    let mut lab = Lab::new(1_300, true);
    lab.hop.lock().unwrap().names_mtu = false;
    lab.transfer("10.0.0.1");
    assert_eq!(lab.longest(), [1_006, 1_006], "the plateau after the one that was too high");
    assert_eq!(lab.stats(lab.server).tcp.timeouts, 0);
}

#[test]
fn a_narrower_path_in_mid_transfer() {
    let mut lab = Lab::new(1_400, true);
    lab.transfer("10.0.0.1");
    lab.hop.lock().unwrap().mtu = 700;
    lab.longest();
    lab.transfer("10.0.0.1");
    assert_eq!(lab.longest(), [700, 700]);
    assert_eq!(lab.stats(lab.server).tcp.path_mtu_lowered, 2);
}

#[test]
fn routers_that_are_silent_cost_three_timeouts() {
    for (ip, mtu, used) in
        [("10.0.0.1", 1_400, 770), ("10.0.0.1", 600, 552), ("fd00::1", 1_300, 1_280)]
    {
        let mut lab = Lab::new(mtu, false);
        let took = lab.transfer(ip);
        assert_eq!(lab.longest(), [used, used], "{ip} {mtu}");
        assert!(took < Duration::from_secs(8), "{ip} {mtu}: {took:?}");
        let timeouts = lab.stats(lab.server).tcp.timeouts;
        // One more where the last acknowledgement travels on a segment that vanishes.
        assert!((3..=6).contains(&timeouts), "{ip} {mtu}: {timeouts} timeouts");
        // Segments of full size went now and then, and cost no more of them.
        assert_eq!(lab.stats(lab.server).tcp.path_mtu_raised, 0);
        lab.dropped();
        lab.transfer(ip);
        assert!(lab.dropped() > 0, "it was found out for one connection only");
    }
}

#[test]
fn an_outage_is_not_taken_for_a_narrow_path() {
    // Nothing at all passes for so long that all sizes have been tried in vain.
    let mut lab = Lab::new(0, false);
    let hop = lab.hop.clone();
    lab.world.spawn(lab.server, ShardId(0), async move {
        throng_runtime::sleep(Duration::from_millis(60)).await;
        hop.lock().unwrap().mtu = 1;
        throng_runtime::sleep(Duration::from_millis(4_500)).await;
        hop.lock().unwrap().mtu = 0;
    });
    lab.transfer("10.0.0.1");
    let tcp = lab.stats(lab.server).tcp;
    assert!(tcp.timeouts >= 4 && tcp.path_mtu_suspected >= 2, "{tcp:?}");
    lab.longest();
    lab.transfer("10.0.0.1");
    assert_eq!(lab.longest(), [1_500, 1_500]);
}
