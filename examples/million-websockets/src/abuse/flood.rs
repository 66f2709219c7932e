//! A flood of SYNs beside the live connections, from addresses that never answer: cookies, live
//! echoes go on, honest connections get in.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock};

use throng::net::device::{Device, DeviceSpec, OpenOptions, open};
use throng::net::engine::wire;
use throng::net::packet::Packet;
use throng::net::tcp::{Flags, FourTuple, Header, Options, SeqNum};
use throng::runtime::{self, Instant};

use super::crowd::{Crowd, connect};
use super::{PATIENCE, RATE, Scene};
use crate::client::latency::Latencies;
use crate::host::{self, House};
use crate::server::Settings;
use crate::stats::Network;

/// How long it lasts, and how many SYNs come in a second for each place of the half-open table.
const LASTS: Duration = Duration::from_secs(2);
const TIMES: u32 = 10;
/// Places of the half-open table: a real one's for many connections, few for few.
const PLACES: std::ops::RangeInclusive<u32> = 128..=16_384;
/// An honest connection comes this often meanwhile.
const COMES: Duration = Duration::from_millis(20);
/// Frames passed on at a time.
const BURST: usize = 64;

fn places(connections: u32) -> u32 {
    (connections / 8).clamp(*PLACES.start(), *PLACES.end())
}

pub(super) fn settings(settings: Settings, connections: u32) -> Settings {
    Settings { half_open: places(connections), ..settings }
}

/// The client's end is this relay's, which has the flood come out of nowhere.
pub(super) fn act(scene: &Arc<Scene>) -> io::Result<()> {
    let near = format!("{}-near", scene.device.split(',').next().unwrap_or_default());
    let near = format!("memory:{}", near.replace([':', ','], "-"));
    let near = near + &std::process::id().to_string();
    let one = |spec: &str| -> io::Result<Box<dyn Device>> {
        let spec: DeviceSpec = spec.parse().map_err(io::Error::other)?;
        let mut queues = open(&spec, 1, &OpenOptions::default())?;
        queues.pop().ok_or_else(|| io::Error::other("no queue"))
    };
    let relay = Arc::new(Relay::default());
    std::thread::scope(|scope| {
        let (to_server, to_client) = (one(&scene.device)?, one(&near)?);
        let passing = relay.clone();
        scope.spawn(move || passing.pass(to_server, to_client));
        let builder = host::client(&near, 1, scene.connections);
        let outcome = builder.run(|_| honest(scene.clone(), relay.clone()));
        relay.ended.store(true, Ordering::Release);
        outcome?.into_iter().collect()
    })
}

async fn honest(scene: Arc<Scene>, relay: Arc<Relay>) -> io::Result<()> {
    let findings = &scene.findings;
    // The relay takes a core's time as well: leave it some.
    let all = scene.connections;
    let crowd = Crowd::open(House::Many, 0..all - all / 10, all).await?;
    let quiet = crowd.echo_while(RATE, runtime::sleep(LASTS / 2)).await.1;
    findings.fact("echoes_before_us_p99", quiet.p99 as u64);
    let rate = places(all) * TIMES;
    let coming = async {
        let (mut held, mut failed, mut times) = (Vec::new(), 0, Latencies::default());
        let begin = runtime::now();
        relay.rate.store(rate, Ordering::Release);
        while runtime::now() - begin < LASTS {
            let number = all - all / 10 + held.len() as u32;
            let before = runtime::now();
            match runtime::timeout(PATIENCE, connect(number, all)).await {
                Ok(Ok(socket)) => held.push(socket),
                _ => failed += 1,
            }
            times.record((runtime::now() - before).as_nanos() as u64);
            runtime::sleep(COMES).await;
        }
        relay.rate.store(0, Ordering::Release);
        (held, failed, times.percentiles())
    };
    let ((held, failed, times), echoes) = crowd.echo_while(RATE, coming).await;
    scene.judge(&crowd, echoes);
    // The server's numbers of the end.
    runtime::sleep(Duration::from_millis(200)).await;
    let now = scene.watch.latest();
    let sum = |field: fn(&Network) -> u64| now.sum(|shard| field(&shard.network));
    let sent = relay.sent.load(Ordering::Relaxed);
    let (cookies, accepted) = (sum(|n| n.cookies_sent), sum(|n| n.cookies_accepted));
    findings.fact("syns", sent);
    findings.fact("cookies_sent", cookies);
    findings.fact("cookies_accepted", accepted);
    findings.fact("half_open", sum(|n| n.half_open));
    findings.fact("came_meanwhile", held.len() as u64);
    findings.fact("came_within_us_p99", times.p99 as u64);
    findings.expect(sent > u64::from(places(all)), || format!("{sent} SYNs are no flood"));
    findings.expect(cookies > sent.saturating_sub(places(all).into()) / 2, || {
        format!("{cookies} cookies for {sent} SYNs")
    });
    findings.expect(sum(|n| n.half_open) <= u64::from(places(all)), || {
        format!("{} half-open connections", sum(|n| n.half_open))
    });
    findings.expect(failed == 0 && !held.is_empty() && accepted > 0, || {
        format!("{failed} failed, {} came, {accepted} by a cookie", held.len())
    });
    drop(held);
    scene.end(&crowd).await;
    Ok(())
}

/// Joins two devices, and sends SYNs to one of them that came from neither.
#[derive(Default)]
struct Relay {
    /// SYNs a second.
    rate: AtomicU32,
    sent: AtomicU64,
    ended: AtomicBool,
}

impl Relay {
    fn pass(&self, mut to_server: Box<dyn Device>, mut to_client: Box<dyn Device>) {
        let begin = Clock::now();
        let (mut frames, mut forth, mut back) = (Vec::new(), VecDeque::new(), VecDeque::new());
        let mut stations = None;
        let (mut flooding, mut number) = (None, 0_u32);
        while !self.ended.load(Ordering::Acquire) {
            let now = Instant::from_nanos(begin.elapsed().as_nanos() as u64);
            let mut busy = to_client.receive(&mut frames, BURST, now);
            forth.extend(frames.drain(..));
            busy += to_server.receive(&mut frames, BURST, now);
            for frame in frames.drain(..) {
                stations = stations.or_else(|| Stations::of(frame.data()));
                // Answers to who does not exist come back to its router, and no further.
                if !is_to_nobody(frame.data()) {
                    back.push_back(frame);
                }
            }
            match (self.rate.load(Ordering::Acquire), stations) {
                (0, _) | (_, None) => flooding = None,
                (rate, Some(stations)) => {
                    let (since, sent) = *flooding.get_or_insert((Clock::now(), 0));
                    let due = (since.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                    // What the link has no room for now is not made up for later.
                    let more = if forth.len() > BURST { 0 } else { (due - sent).min(BURST as u64) };
                    forth.extend((0..more).map(|i| stations.syn(number.wrapping_add(i as u32))));
                    number = number.wrapping_add(more as u32);
                    flooding = Some((since, due));
                    self.sent.fetch_add(more, Ordering::Relaxed);
                    busy += more as usize;
                }
            }
            busy += to_server.transmit(&mut forth, now) + to_client.transmit(&mut back, now);
            if busy == 0 {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }
}

/// Network of nobody (RFC 2544 appendix C.2.2: for measurements).
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

fn is_to_nobody(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(30..32) == Some(&NOBODY.octets()[..2])
}

/// The two ends' addresses on the link.
#[derive(Clone, Copy)]
struct Stations {
    server: [u8; 6],
    client: [u8; 6],
}

impl Stations {
    /// As told by a frame from the server with a packet in it.
    fn of(frame: &[u8]) -> Option<Stations> {
        if frame.get(12..14)? != [8, 0] {
            return None;
        }
        let [client, server] = [0, 6].map(|at| frame.get(at..at + 6)?.try_into().ok());
        Some(Stations { server: server?, client: client? })
    }

    /// A SYN from the `number`th of many who do not exist.
    fn syn(&self, number: u32) -> Packet {
        let from = Ipv4Addr::from_bits(NOBODY.to_bits() | number & 0xffff);
        let port = 1_024 + (number >> 16) as u16 % 60_000;
        let to = host::endpoints(House::Many, 0, 1).1;
        let header = Header {
            tuple: FourTuple::new((IpAddr::V4(from), port).into(), to),
            seq: SeqNum(number.wrapping_mul(0x9e37_79b9)),
            ack: SeqNum(0),
            flags: Flags::SYN,
            window: 64_000,
            urgent: 0,
            ecn: 0,
            options: Options {
                mss: Some(1_460),
                window_scale: Some(7),
                sack_permitted: true,
                ..Options::default()
            },
        };
        let packet = wire::encode(&header, &[]);
        Packet::from([&self.server[..], &self.client, &[8, 0], &packet].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flood_comes_from_nobody_and_its_answers_go_nowhere() {
        let stations = Stations { server: [1; 6], client: [2; 6] };
        let (a, b) = (stations.syn(1), stations.syn(65_537));
        assert_ne!(a.data(), b.data());
        assert!(!is_to_nobody(a.data()));
        // The answer has the addresses the other way round.
        let mut answer = a.data().to_vec();
        let (from, to) = answer[26..34].split_at_mut(4);
        from.swap_with_slice(to);
        assert!(is_to_nobody(&answer));
        let told = Stations::of(&answer).expect("a packet");
        assert_eq!((told.client, told.server), ([1; 6], [2; 6]));
    }
}
