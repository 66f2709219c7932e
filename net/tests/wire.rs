//! A stack against frames made by hand: what no well-behaved peer sends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4Packet, IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr,
    Ipv6Address, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::packet::Packet;
use throng_net::sim::{HostConfig, add_host};
use throng_net::stats::Stats;
use throng_net::{TcpListener, TcpSocket, TcpStream, UdpSocket, stats};
use throng_runtime::ShardId;
use throng_runtime::sim::{HostId, World};

const RAW: EthernetAddress = EthernetAddress([2, 9, 9, 9, 9, 9]);
const US: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const PEER: Ipv4Address = Ipv4Address::new(10, 0, 0, 9);
const GATEWAY: Ipv4Address = Ipv4Address::new(10, 0, 0, 254);

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn is_ipv4(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0]
}

/// A host, and the other end of its link in our hands.
struct Lab {
    world: World,
    host: HostId,
    raw: Vec<MemoryQueue>,
    mac: EthernetAddress,
}

impl Lab {
    fn new(shards: usize, options: Options, address: &str, gateways: &[Ipv4Address]) -> Lab {
        let (queues, raw) = memory::pair(shards, options);
        let mac = queues[0].capabilities().mac;
        let mut world = World::new();
        let mut config = HostConfig::new(&[address], 7);
        config.gateways = gateways.iter().map(|gateway| IpAddr::V4(*gateway)).collect();
        let queues = queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect();
        let host = add_host(&mut world, queues, &config);
        Lab { world, host, raw, mac }
    }

    fn plain() -> Lab {
        Lab::new(1, Options::default(), "10.0.0.1/16", &[GATEWAY])
    }

    /// A host that accepts on port 80.
    fn listening() -> Lab {
        let mut lab = Lab::plain();
        lab.world.spawn(lab.host, ShardId(0), async {
            let listener = TcpListener::bind(at("0.0.0.0", 80)).unwrap();
            let mut kept = Vec::new();
            loop {
                kept.push(listener.accept().await.unwrap());
            }
        });
        lab.run(1);
        lab
    }

    fn stats(&self) -> Stats {
        self.world.enter(self.host, ShardId(0), stats::current).unwrap()
    }

    fn run(&mut self, milliseconds: u64) {
        self.world.run_for(Duration::from_millis(milliseconds));
    }

    fn send(&mut self, frame: &[u8]) {
        let mut packet = self.raw[0].allocate(frame.len()).expect("a buffer of ours");
        assert!(packet.append(frame));
        let mut queue = VecDeque::from([packet]);
        assert_eq!(self.raw[0].transmit(&mut queue, self.world.now()), 1);
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut frames: Vec<Packet> = Vec::new();
        for queue in &mut self.raw {
            while queue.receive(&mut frames, 64, self.world.now()) > 0 {}
        }
        frames.iter().map(|frame| frame.data().to_vec()).collect()
    }

    fn ethernet(&self, ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14];
        EthernetRepr { src_addr: RAW, dst_addr: self.mac, ethertype }
            .emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        frame.extend_from_slice(payload);
        frame
    }

    /// An ARP reply of `ip` to `to`, who may be somebody else.
    fn arp_reply(&mut self, ip: Ipv4Address, to: Ipv4Address) {
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: RAW,
            source_protocol_addr: ip,
            target_hardware_addr: self.mac,
            target_protocol_addr: to,
        };
        let mut bytes = vec![0; arp.buffer_len()];
        arp.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
        let frame = self.ethernet(EthernetProtocol::Arp, &bytes);
        self.send(&frame);
        self.run(1);
    }

    fn ipv4(&self, src: Ipv4Address, protocol: IpProtocol, l4: &[u8]) -> Vec<u8> {
        let ip = Ipv4Repr {
            src_addr: src,
            dst_addr: US,
            next_header: protocol,
            payload_len: l4.len(),
            hop_limit: 64,
        };
        let mut packet = vec![0; 20];
        packet.extend_from_slice(l4);
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &ChecksumCapabilities::default());
        self.ethernet(EthernetProtocol::Ipv4, &packet)
    }

    /// A SYN from `src` to our port 80.
    fn syn(&mut self, src: Ipv4Address) {
        let segment = tcp(src.into(), US.into(), (999, 80), 5, None);
        let frame = self.ipv4(src, IpProtocol::Tcp, &segment);
        self.send(&frame);
    }
}

/// A SYN, or with `ack` a SYN-ACK.
fn tcp(src: IpAddress, dst: IpAddress, ports: (u16, u16), seq: u32, ack: Option<u32>) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: ports.0,
        dst_port: ports.1,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 8_000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let mut bytes = vec![0; repr.buffer_len()];
    let caps = ChecksumCapabilities::default();
    repr.emit(&mut TcpPacket::new_unchecked(&mut bytes[..]), &src, &dst, &caps);
    bytes
}

#[test]
fn mapped_addresses_on_the_wire_are_refused() {
    for source in ["::ffff:10.0.0.9", "::ffff:127.0.0.1", "::ffff:255.255.255.255"] {
        let mut lab = Lab::listening();
        let src: Ipv6Address = source.parse().unwrap();
        let dst: Ipv6Address = "::ffff:10.0.0.1".parse().unwrap();
        let segment = tcp(src.into(), dst.into(), (1234, 80), 77, None);
        let ip = Ipv6Repr {
            src_addr: src,
            dst_addr: dst,
            next_header: IpProtocol::Tcp,
            payload_len: segment.len(),
            hop_limit: 64,
        };
        let mut packet = vec![0; 40];
        packet.extend_from_slice(&segment);
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
        let frame = lab.ethernet(EthernetProtocol::Ipv6, &packet);
        lab.send(&frame);
        lab.run(5);
        let stats = lab.stats();
        assert_eq!((stats.stack.rx_segments, stats.usage.half_open), (0, 0), "{source}");
        assert_eq!(stats.stack.rx_bad_source, 1, "{source}");
    }
}

#[test]
fn our_own_address_is_no_source() {
    let mut lab = Lab::listening();
    lab.syn(US);
    lab.run(5);
    let stats = lab.stats();
    assert_eq!((stats.stack.rx_bad_source, stats.usage.half_open), (1, 0));
}

#[test]
fn a_gateway_outside_every_prefix_is_learnt() {
    let mut lab = Lab::new(1, Options::default(), "192.0.2.5/32", &[Ipv4Address::new(10, 0, 0, 1)]);
    lab.world.spawn(lab.host, ShardId(0), async {
        let _ = TcpStream::connect(at("198.51.100.1", 80)).await;
    });
    lab.run(1);
    assert!(!lab.receive().iter().any(|frame| is_ipv4(frame)));
    lab.arp_reply(Ipv4Address::new(10, 0, 0, 1), Ipv4Address::new(192, 0, 2, 5));
    assert!(lab.receive().iter().any(|frame| is_ipv4(frame)), "no SYN after the answer");
}

#[test]
fn a_flood_from_made_up_neighbours_does_not_silence_the_shard() {
    let mut lab = Lab::listening();
    lab.arp_reply(GATEWAY, US);
    lab.syn(Ipv4Address::new(198, 51, 100, 7));
    lab.run(1);
    lab.arp_reply(GATEWAY, US);
    assert!(lab.receive().iter().any(|frame| is_ipv4(frame)), "an answer before the flood");
    for i in 0..6_000u32 {
        lab.syn(Ipv4Address::new(10, 0, 1 + (i / 200) as u8, (i % 200) as u8 + 1));
        if i % 64 == 63 {
            lab.world.sweep();
            lab.receive();
        }
    }
    lab.run(1);
    lab.receive();
    lab.syn(Ipv4Address::new(198, 51, 100, 8));
    lab.run(50);
    let to_client = |frame: &Vec<u8>| is_ipv4(frame) && frame[30..34] == [198, 51, 100, 8];
    assert!(lab.receive().iter().any(to_client), "a client behind the gateway got no answer");
}

#[test]
fn shards_do_not_share_identifications() {
    let mut lab = Lab::new(2, Options::default(), "10.0.0.1/16", &[]);
    for shard in 0..2 {
        lab.world.spawn(lab.host, ShardId(shard), async {
            let socket = UdpSocket::bind(at("0.0.0.0", 7)).unwrap();
            loop {
                socket.send_to(&[1; 3000], at("10.0.0.9", 7)).await.unwrap();
                throng_runtime::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    lab.run(1);
    lab.arp_reply(PEER, US);
    lab.run(20);
    let first = |frame: &&Vec<u8>| is_ipv4(frame) && frame[20] & 0x3f == 0x20 && frame[21] == 0;
    let frames = lab.receive();
    let mut idents: Vec<_> =
        frames.iter().filter(first).map(|frame| [frame[18], frame[19]]).collect();
    let count = idents.len();
    idents.sort_unstable();
    idents.dedup();
    assert!(count >= 6 && idents.len() == count, "{} of {count} differ", idents.len());
}

#[test]
fn a_soft_error_does_not_spoil_a_connect_that_succeeds() {
    let mut lab = Lab::plain();
    let outcome = Rc::new(RefCell::new(None));
    let said = outcome.clone();
    lab.world.spawn(lab.host, ShardId(0), async move {
        *said.borrow_mut() = Some(TcpStream::connect(at("10.0.0.9", 80)).await.map(drop));
    });
    lab.run(1);
    lab.arp_reply(PEER, US);
    let syn = lab.receive().into_iter().find(|frame| is_ipv4(frame)).expect("a SYN");
    // Net unreachable, from a router, with the SYN quoted (RFC 1122 4.2.3.9: soft).
    let mut icmp = vec![3, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&syn[14..14 + 28]);
    Icmpv4Packet::new_unchecked(&mut icmp[..]).fill_checksum();
    let frame = lab.ipv4(Ipv4Address::new(10, 0, 0, 77), IpProtocol::Icmp, &icmp);
    lab.send(&frame);
    lab.run(5);
    assert!(outcome.borrow().is_none(), "a soft error ended the attempt");
    let port = u16::from_be_bytes([syn[34], syn[35]]);
    let seq = u32::from_be_bytes([syn[38], syn[39], syn[40], syn[41]]);
    let answer = tcp(PEER.into(), US.into(), (80, port), 1000, Some(seq.wrapping_add(1)));
    let frame = lab.ipv4(PEER, IpProtocol::Tcp, &answer);
    lab.send(&frame);
    lab.run(5);
    assert!(matches!(*outcome.borrow(), Some(Ok(()))), "{:?}", outcome.borrow());
}

#[test]
fn what_others_tell_each_other_is_not_learnt_on_any_shard() {
    let mut lab = Lab::new(2, Options::default(), "10.0.0.1/16", &[]);
    lab.run(1);
    lab.arp_reply(PEER, Ipv4Address::new(10, 0, 0, 8));
    lab.receive();
    for shard in 0..2 {
        lab.world.spawn(lab.host, ShardId(shard), async {
            let socket = UdpSocket::bind(at("0.0.0.0", 7)).unwrap();
            socket.send_to(b"x", at("10.0.0.9", 7)).await.unwrap();
        });
        lab.run(1);
        assert!(!lab.receive().iter().any(|frame| is_ipv4(frame)), "shard {shard} did not ask");
    }
}

#[test]
fn a_segment_without_a_buffer_is_tried_again() {
    let options = Options { buffers: 8, ..Options::default() };
    let mut lab = Lab::new(1, options, "10.0.0.1/16", &[]);
    lab.run(1);
    lab.world.spawn(lab.host, ShardId(0), async {
        let socket = UdpSocket::bind(at("0.0.0.0", 7)).unwrap();
        for _ in 0..9 {
            let _ = socket.send_to(b"x", at("10.0.0.9", 7)).await;
        }
        let _ = TcpStream::connect(at("10.0.0.9", 80)).await;
    });
    lab.run(1);
    lab.arp_reply(PEER, US);
    let mut syns = 0;
    for _ in 0..20 {
        lab.run(5);
        let next = lab.world.next_deadline();
        let soon = lab.world.now() + Duration::from_secs(2);
        assert!(next.is_some_and(|at| at < soon), "a sleeping shard would never send: {next:?}");
        let is_syn = |frame: &&Vec<u8>| is_ipv4(frame) && frame[23] == 6;
        syns += lab.receive().iter().filter(is_syn).count();
    }
    assert!(syns > 0, "no SYN went out");
}

#[test]
fn addresses_that_cannot_be_reached_are_refused_at_once() {
    let mut lab = Lab::new(1, Options::default(), "10.0.0.1/16", &[]);
    let kinds = Rc::new(RefCell::new(Vec::new()));
    let said = kinds.clone();
    lab.world.spawn(lab.host, ShardId(0), async move {
        let from_v4 = TcpSocket::new().bind(at("10.0.0.1", 0));
        let mixed = from_v4.connect(at("fe80::9", 80)).await.unwrap_err();
        let own = TcpStream::connect(at("10.0.0.1", 80)).await.unwrap_err();
        let foreign = TcpListener::bind(at("10.0.0.2", 80)).unwrap_err();
        let socket = UdpSocket::bind(at("0.0.0.0", 0)).unwrap();
        let many = socket.send_to(b"x", at("224.0.0.1", 80)).await.unwrap_err();
        let far = socket.send_to(b"x", at("192.0.2.1", 80)).await.unwrap_err();
        *said.borrow_mut() = [mixed, own, foreign, many, far].map(|error| error.kind()).to_vec();
    });
    lab.run(5);
    use ErrorKind::{AddrNotAvailable, InvalidInput, NetworkUnreachable};
    let expected =
        [InvalidInput, AddrNotAvailable, AddrNotAvailable, InvalidInput, NetworkUnreachable];
    assert_eq!(*kinds.borrow(), expected);
}
