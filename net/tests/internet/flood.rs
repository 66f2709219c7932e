//! A SYN flood, ten times what the half-open table holds, and clients that come meanwhile.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
    Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use throng_net::device::Device;
use throng_net::device::memory::{self, Options};
use throng_net::packet::Packet;
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream, stats};
use throng_runtime::sim::World;
use throng_runtime::{ShardId, sleep, spawn_local};

use crate::hop::Behind;

const HALF_OPEN: usize = 64;
const CLIENTS: usize = 40;
const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);

/// A SYN to port 7 of the server, from an address that never answers.
fn syn(number: u32, to: EthernetAddress) -> Packet {
    let source = Ipv4Address::from(0x0a00_4000 + (number & 0x3fff));
    let tcp = TcpRepr {
        src_port: 1024 + (number >> 14) as u16,
        dst_port: 7,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(number as i32),
        ack_number: None,
        window_len: 65_535,
        window_scale: Some(7),
        max_seg_size: Some(1460),
        sack_permitted: true,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: SERVER,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let caps = ChecksumCapabilities::default();
    let mut frame = vec![0; 14 + ip.buffer_len() + tcp.buffer_len()];
    let src_addr = EthernetAddress([2, 6, 6, 6, 6, 6]);
    EthernetRepr { src_addr, dst_addr: to, ethertype: EthernetProtocol::Ipv4 }
        .emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &caps);
    let (from, to) = (IpAddress::Ipv4(source), IpAddress::Ipv4(SERVER));
    tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[34..]), &from, &to, &caps);
    Packet::from(frame)
}

async fn serve() {
    let listener = TcpListener::bind("0.0.0.0:7".parse().unwrap()).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        spawn_local(async move {
            while let Ok(chunk) = stream.read_chunk(65_536).await {
                if chunk.is_empty() || stream.write_chunk(chunk).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn one_client(number: usize, done: Rc<RefCell<usize>>) {
    let server = SocketAddr::new(std::net::IpAddr::V4(SERVER), 7);
    let mut stream = TcpStream::connect(server).await.unwrap();
    let info = stream.info().unwrap();
    assert!(info.sack && info.timestamps && info.snd_scale.is_some(), "options are kept");
    let said = vec![number as u8; 10_000];
    stream.write_all(&said).await.unwrap();
    let mut heard = vec![0; said.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(said, heard);
    *done.borrow_mut() += 1;
}

#[test]
fn clients_connect_through_a_flood() {
    let options = Options { latency: Duration::from_millis(5), ..Options::default() };
    let (mut near, mut far) = memory::pair(1, options);
    let mac = far[0].capabilities().mac;
    let (device, hop) = Behind::new(near.remove(0));
    let mut world = World::new();
    let config = HostConfig::new(&["10.0.0.2/16"], 1);
    let client = add_host(&mut world, vec![Box::new(device)], &config);
    let mut config = HostConfig::new(&["10.0.0.1/16"], 2);
    config.tcp.max_half_open = HALF_OPEN;
    let device: Box<dyn Device> = Box::new(far.remove(0));
    let server = add_host(&mut world, vec![device], &config);
    world.spawn(server, ShardId(0), serve());
    let done = Rc::new(RefCell::new(0));
    let counted = done.clone();
    world.spawn(client, ShardId(0), async move {
        for number in 0..CLIENTS {
            sleep(Duration::from_millis(50)).await;
            spawn_local(one_client(number, counted.clone()));
        }
    });
    // Ten times the table's size in a second, for two seconds.
    let mut number = 0;
    for _ in 0..200 {
        let frames = (0..HALF_OPEN as u32 / 10 + 1).map(|i| syn(number + i, mac));
        hop.lock().unwrap().injected.extend(frames);
        number += HALF_OPEN as u32 / 10 + 1;
        world.run_for(Duration::from_millis(10));
    }
    world.run_for(Duration::from_secs(2));
    assert_eq!(*done.borrow(), CLIENTS, "all of them");
    let stats = world.enter(server, ShardId(0), stats::current).unwrap();
    assert!(number as usize >= 10 * HALF_OPEN);
    assert!(stats.tcp.syn_cookies_sent > u64::from(number) / 2, "{:?}", stats.tcp);
    assert!(stats.tcp.syn_cookies_accepted > CLIENTS as u64 / 2, "{:?}", stats.tcp);
    assert_eq!(stats.tcp.accepts, CLIENTS as u64);
}
