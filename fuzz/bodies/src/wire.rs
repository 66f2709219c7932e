//! A whole stack, fed with frames: TCP near its windows, fragments, ARP, NDP, ICMP, UDP, DNS
//! answers, DHCP, and anything. It has a listener, established connections, a UDP socket, a
//! task that looks up names and one that connects. What it sends is well-formed, and its
//! engine's invariants hold.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpOption, TcpPacket};
use throng_net::device::Device;
use throng_net::device::memory::{self, Checksum, MemoryQueue, Segmentation};
use throng_net::packet::Packet;
use throng_net::sim::{HostConfig, add_host, check_invariants};
use throng_net::tcp::{Flags, FourTuple, Header, Options, SeqNum};
use throng_net::{TcpListener, TcpStream, UdpSocket, lookup_host, resolver};
use throng_runtime::ShardId;
use throng_runtime::sim::{HostId, World};

use crate::draw::Draw;
use crate::frames::{self, ICMP, ICMPV6, Ip, L3, TCP, UDP};
use crate::remote::{Remote, stream};
use crate::settings;

/// Most frames of a run.
const FRAMES: u32 = 150;
/// Most things that happen while time passes once.
const STEPS: u32 = 30;
const PEER_MAC: [u8; 6] = [2, 9, 9, 9, 9, 9];
const V4: [u8; 4] = [10, 0, 0, 1];
const PEER_V4: [u8; 4] = [10, 0, 0, 9];
const V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const PEER_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// Runs one input.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data, FRAMES);
    let mut lab = Lab::new(&mut draw);
    while draw.another() {
        lab.event(&mut draw);
        lab.world.enter(lab.host, ShardId(0), check_invariants).expect("a shard with a stack");
    }
    lab.pass(Duration::from_secs(300));
}

struct Lab {
    world: World,
    host: HostId,
    raw: MemoryQueue,
    mac: [u8; 6],
    remotes: Vec<Remote>,
    /// IP packets that the stack has sent, the latest last.
    sent: VecDeque<Vec<u8>>,
    /// The latest DNS query with its ports, and the latest DHCP transaction.
    query: Option<((u16, u16), Vec<u8>)>,
    xid: [u8; 4],
    /// Whether its questions for neighbours are answered.
    answers: bool,
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

impl Lab {
    fn new(draw: &mut Draw<'_>) -> Lab {
        let bits = draw.byte();
        let mut options = memory::Options { ring: 256, buffers: 256, ..Default::default() };
        if bits & 1 != 0 {
            options.checksum = Checksum::Fill;
            options.segmentation = Segmentation::Cut;
        }
        let (queues, mut raw) = memory::pair_with((1, options), (1, Default::default()));
        let mac = queues[0].capabilities().mac.0;
        let mut config = HostConfig::new(&["10.0.0.1/24", "fd00::1/64"], 7);
        config.gateways = vec![at("10.0.0.254:0").ip()];
        config.names = resolver::Config { nameservers: vec![at("10.0.0.53:53")], ..config.names };
        config.dhcp = bits & 2 != 0;
        config.tcp = settings::config(draw);
        let mut world = World::new();
        let queues = queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect();
        let host = add_host(&mut world, queues, &config);
        let mut lab = Lab {
            world,
            host,
            raw: raw.remove(0),
            mac,
            remotes: vec![
                Remote::new("10.0.0.1:80", "10.0.0.9:5555"),
                Remote::new("[fd00::1]:80", "[fd00::9]:5555"),
                Remote::new("10.0.0.1:1", "10.0.0.9:81"),
                Remote::new("10.0.0.1:80", "10.0.0.9:5556"),
            ],
            sent: VecDeque::new(),
            query: None,
            xid: [0; 4],
            answers: true,
        };
        lab.start_tasks();
        lab.turn();
        if bits & 4 == 0 {
            lab.greet(0);
            lab.greet(1);
        }
        lab.answers = bits & 8 == 0;
        lab
    }

    fn start_tasks(&mut self) {
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
            self.world.spawn(self.host, ShardId(0), task).detach();
        };
        spawn(Box::pin(async {
            let Ok(listener) = TcpListener::bind(at("[::]:80")) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                throng_runtime::spawn_local(talk(stream)).detach();
            }
        }));
        spawn(Box::pin(async {
            let Ok(socket) = UdpSocket::bind(at("0.0.0.0:7")) else { return };
            while let Ok((datagram, from)) = socket.recv_from().await {
                let _ = socket.send_to(&datagram, from).await;
            }
        }));
        spawn(Box::pin(async {
            loop {
                let _ = lookup_host("a.example:80").await;
                throng_runtime::sleep(Duration::from_secs(5)).await;
            }
        }));
        spawn(Box::pin(async {
            loop {
                if let Ok(stream) = TcpStream::connect(at("10.0.0.9:81")).await {
                    talk(stream).await;
                }
                throng_runtime::sleep(Duration::from_secs(5)).await;
            }
        }));
    }

    /// An ordinary handshake.
    fn greet(&mut self, which: usize) {
        let clock = self.clock();
        let remote = &mut self.remotes[which];
        let mut header = remote.header(Flags::SYN, clock);
        header.options = Options {
            mss: Some(1_460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some((clock, 0)),
            sack: [None; 4],
        };
        remote.timestamps = true;
        remote.next = header.seq + 1;
        self.put_tcp(&header, &[], &[]);
        self.turn();
        let remote = &self.remotes[which];
        assert!(remote.is_answered(), "a listener does not answer {:?}", remote.tuple);
        let header = remote.header(Flags::ACK, clock);
        self.put_tcp(&header, &[], &[]);
        self.turn();
    }

    fn clock(&self) -> u32 {
        self.world.now().as_millis() as u32
    }

    fn event(&mut self, draw: &mut Draw<'_>) {
        let kind = draw.byte();
        let mut frame = match kind & 15 {
            0..=4 => {
                let clock = self.clock();
                let which = draw.below(self.remotes.len() as u32) as usize;
                let (header, mut payload) = self.remotes[which].segment(draw, clock);
                payload.truncate(1_480);
                let odd = if draw.one_in(8) { draw.bytes(20) } else { &[] };
                self.tcp_frame(&header, &payload, odd)
            }
            5 => self.udp_frame(draw),
            6 => self.arp_frame(draw),
            7 => self.ndp_frame(draw),
            8 => self.icmp_frame(draw),
            9 | 10 => self.fragment_frame(draw),
            11 => self.dhcp_frame(draw),
            12 => {
                let ethertype = draw.of(&[0x0800, 0x86dd, 0x0806, 0x8100, 0x88cc]);
                let mut frame = frames::ethernet(self.mac, PEER_MAC, ethertype);
                frame.extend_from_slice(draw.bytes(120));
                frame
            }
            13 => return self.dns_answer(draw),
            _ => return self.let_pass(draw),
        };
        if kind & 16 != 0 {
            mangle(draw, &mut frame);
            frames::seal(&mut frame);
        } else {
            frames::seal(&mut frame);
            if kind & 96 == 96 {
                mangle(draw, &mut frame);
            }
        }
        self.put(&frame);
        // Else they make a burst.
        if kind & 128 == 0 {
            self.turn();
        }
    }

    fn let_pass(&mut self, draw: &mut Draw<'_>) {
        let milliseconds = match draw.byte() {
            byte @ 0..=127 => u64::from(byte),
            128..=191 => 200,
            192..=240 => 3_000,
            241..=250 => 60_000,
            _ => 700_000,
        };
        self.pass(Duration::from_millis(milliseconds));
    }

    /// Lets time pass, from one thing that happens to the next: not very many of them, for
    /// some come up a million times a day, and they are most of what a run costs.
    fn pass(&mut self, time: Duration) {
        let end = self.world.now() + time;
        for _ in 0..STEPS {
            let now = self.world.now();
            let next = self.world.next_deadline().unwrap_or(end).clamp(now, end);
            self.world.run_for(next - now);
            self.turn();
            if next == end {
                break;
            }
        }
    }

    /// A few turns of the shard, without time passing, and what it sends.
    fn turn(&mut self) {
        for _ in 0..4 {
            let moved = self.world.sweep();
            if !self.look() && !moved {
                break;
            }
        }
    }

    fn put(&mut self, frame: &[u8]) {
        if let Some(mut packet) = self.raw.allocate(frame.len())
            && packet.append(frame)
        {
            let mut queue = VecDeque::from([packet]);
            self.raw.transmit(&mut queue, self.world.now());
        }
    }

    fn tcp_frame(&self, header: &Header, payload: &[u8], odd: &[u8]) -> Vec<u8> {
        let l4 = frames::tcp(header, payload, odd);
        let ip = Ip { ecn: header.ecn & 3, fragment: 0x4000, ..Ip::default() };
        self.ip_frame(header.tuple.local.is_ipv4(), TCP, ip, &l4)
    }

    fn put_tcp(&mut self, header: &Header, payload: &[u8], odd: &[u8]) {
        let mut frame = self.tcp_frame(header, payload, odd);
        frames::seal(&mut frame);
        self.put(&frame);
    }

    fn ip_frame(&self, v4: bool, protocol: u8, ip: Ip, l4: &[u8]) -> Vec<u8> {
        let mut frame = frames::ethernet(self.mac, PEER_MAC, if v4 { 0x0800 } else { 0x86dd });
        if v4 {
            frames::ip(&mut frame, &PEER_V4, &V4, protocol, ip, l4);
        } else {
            frames::ip(&mut frame, &PEER_V6, &V6, protocol, ip, l4);
        }
        frame
    }

    fn udp_frame(&self, draw: &mut Draw<'_>) -> Vec<u8> {
        let port = draw.of(&[7, 53, 67, 68, 9, 0]);
        let l4 = frames::udp((draw.of(&[999, 53, 67, 0]), port), draw.bytes(60));
        self.ip_frame(draw.one_in(2), UDP, Ip::default(), &l4)
    }

    fn arp_frame(&self, draw: &mut Draw<'_>) -> Vec<u8> {
        let any = [PEER_V4, V4, [10, 0, 0, 254], [10, 0, 0, 53], [0; 4], [255; 4], [224, 0, 0, 1]];
        let (from, to) = (draw.of(&any), draw.of(&any));
        let mac = draw.of(&[PEER_MAC, PEER_MAC, self.mac, [0; 6], [0xff; 6]]);
        arp(self.mac, draw.of(&[2, 1, 2, 3]), (mac, from), to)
    }

    fn ndp_frame(&self, draw: &mut Draw<'_>) -> Vec<u8> {
        let target = draw.of(&[PEER_V6, V6, [0xff; 16], [0; 16]]);
        let mut l4 = neighbor(draw.of(&[136, 135, 136, 134, 133, 137]), target);
        l4[4] = draw.of(&[0x60, 0x20, 0x40, 0xe0]);
        if draw.one_in(4) {
            l4.truncate(24);
            l4.extend_from_slice(draw.bytes(16));
        }
        self.ip_frame(false, ICMPV6, Ip::default(), &l4)
    }

    /// An ICMP message; errors quote what was sent.
    fn icmp_frame(&self, draw: &mut Draw<'_>) -> Vec<u8> {
        let v4 = draw.one_in(2);
        let kind = draw.of(&[3, 3, 3, 11, 8, 0, 4, 5, 1, 2, 2, 128]);
        let rest = draw.of(&[0u32, 1_280, 576, 68, 1_400, 0xffff, 1_499, u32::MAX]);
        let mut l4 = vec![kind, draw.below(16) as u8, 0, 0];
        l4.extend_from_slice(&rest.to_be_bytes());
        let version = if v4 { 4 } else { 6 };
        let mut fitting = self.sent.iter().rev().filter(|packet| packet[0] >> 4 == version);
        if let Some(quoted) = fitting.nth(draw.below(4) as usize) {
            let most = draw.of(&[28, 48, 68, 576, 20]);
            l4.extend_from_slice(&quoted[..most.min(quoted.len())]);
        } else {
            l4.extend_from_slice(draw.bytes(60));
        }
        self.ip_frame(v4, if v4 { ICMP } else { ICMPV6 }, Ip::default(), &l4)
    }

    fn fragment_frame(&self, draw: &mut Draw<'_>) -> Vec<u8> {
        let protocol = draw.of(&[UDP, TCP, ICMP, ICMPV6]);
        let (ident, more) = (draw.below(3) as u16, draw.one_in(2));
        let offset = draw.of(&[0u16, 1, 2, 3, 4, 8, 185, 8_190]);
        let mut l4 = draw.bytes(64).to_vec();
        if offset == 0 && protocol == UDP {
            l4 = frames::udp((999, 7), &l4);
        }
        if draw.one_in(2) {
            let fragment = offset | if more { 0x2000 } else { 0 };
            return self.ip_frame(true, protocol, Ip { ident, fragment, ecn: 0 }, &l4);
        }
        // RFC 8200 4.5.
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let mut packet = vec![protocol, 0, high, low, 0, 0, 0, ident as u8];
        packet.extend_from_slice(&l4);
        let header = draw.of(&[44, 44, 44, 0, 43, 60, 59]);
        self.ip_frame(false, header, Ip::default(), &packet)
    }

    fn dhcp_frame(&self, draw: &mut Draw<'_>) -> Vec<u8> {
        let payload = frames::dhcp(draw, self.xid, self.mac);
        let l4 = frames::udp((67, 68), &payload);
        let mut frame = frames::ethernet([0xff; 6], PEER_MAC, 0x0800);
        let to = draw.of(&[[255; 4], V4]);
        frames::ip(&mut frame, &[10, 0, 0, 254], &to, UDP, Ip::default(), &l4);
        frame
    }

    fn dns_answer(&mut self, draw: &mut Draw<'_>) {
        let Some((ports, query)) = self.query.take() else { return };
        let answer = frames::dns(draw, &query);
        let l4 = frames::udp((ports.1, ports.0), &answer);
        let mut frame = frames::ethernet(self.mac, PEER_MAC, 0x0800);
        frames::ip(&mut frame, &[10, 0, 0, 53], &V4, UDP, Ip::default(), &l4);
        if draw.one_in(4) {
            mangle(draw, &mut frame);
        }
        frames::seal(&mut frame);
        self.put(&frame);
        self.turn();
    }

    /// Looks at what was sent. Returns whether there was anything.
    fn look(&mut self) -> bool {
        let mut out: Vec<Packet> = Vec::new();
        while self.raw.receive(&mut out, 64, self.world.now()) > 0 {}
        for packet in &out {
            self.heard(packet.data());
        }
        !out.is_empty()
    }

    fn heard(&mut self, frame: &[u8]) {
        assert!(frame.len() >= L3, "no Ethernet header");
        let packet = &frame[L3..];
        match u16::from_be_bytes([frame[12], frame[13]]) {
            0x0800 => self.heard_v4(packet),
            0x86dd => self.heard_v6(packet),
            0x0806 => {
                assert_eq!(packet.len(), 28, "an ARP message of another length");
                let wanted = [packet[24], packet[25], packet[26], packet[27]];
                let ours = [packet[14], packet[15], packet[16], packet[17]];
                if packet[7] == 1 && self.answers && wanted[3] != 77 {
                    let answer = arp(self.mac, 2, (PEER_MAC, wanted), ours);
                    self.put(&answer);
                }
            }
            other => panic!("a frame of type {other:04x}"),
        }
    }

    fn heard_v4(&mut self, packet: &[u8]) {
        let ip = Ipv4Packet::new_checked(packet).expect("a right IPv4 header");
        assert!(ip.verify_checksum(), "the checksum of an IPv4 header");
        assert_eq!(usize::from(ip.total_len()), packet.len(), "an IPv4 packet's length");
        self.remember(packet);
        if ip.more_frags() || ip.frag_offset() > 0 {
            return;
        }
        let (src, dst) = (ip.src_addr().into(), ip.dst_addr().into());
        match ip.next_header() {
            IpProtocol::Tcp => self.heard_tcp(ip.payload(), src, dst),
            IpProtocol::Udp => {
                let udp = ip.payload();
                let ports =
                    (u16::from_be_bytes([udp[0], udp[1]]), u16::from_be_bytes([udp[2], udp[3]]));
                match ports.1 {
                    53 => self.query = Some((ports, udp[8..].to_vec())),
                    67 => self.xid.copy_from_slice(&udp[12..16]),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn heard_v6(&mut self, packet: &[u8]) {
        let ip = Ipv6Packet::new_checked(packet).expect("a right IPv6 header");
        assert_eq!(ip.total_len(), packet.len(), "an IPv6 packet's length");
        self.remember(packet);
        let (src, dst) = (ip.src_addr().into(), ip.dst_addr().into());
        match ip.next_header() {
            IpProtocol::Tcp => self.heard_tcp(ip.payload(), src, dst),
            // RFC 4861 4.3.
            IpProtocol::Icmpv6 if packet[40] == 135 && self.answers && packet.len() >= 64 => {
                let mut target = [0; 16];
                target.copy_from_slice(&packet[48..64]);
                let l4 = neighbor(136, target);
                let mut frame = self.ip_frame(false, ICMPV6, Ip::default(), &l4);
                frames::seal(&mut frame);
                self.put(&frame);
            }
            _ => {}
        }
    }

    fn heard_tcp(&mut self, segment: &[u8], src: IpAddress, dst: IpAddress) {
        let tcp = TcpPacket::new_checked(segment).expect("a right TCP header");
        assert!(tcp.verify_checksum(&src, &dst), "the checksum of a TCP segment");
        let tuple = FourTuple {
            local: std::net::IpAddr::from(src).into(),
            remote: std::net::IpAddr::from(dst).into(),
            local_port: tcp.src_port(),
            remote_port: tcp.dst_port(),
        };
        let mut options = Options::default();
        let mut rest = tcp.options();
        while !rest.is_empty() {
            let (after, option) = TcpOption::parse(rest).expect("options that can be read");
            match option {
                TcpOption::EndOfList => break,
                TcpOption::TimeStamp { tsval, tsecr } => options.timestamps = Some((tsval, tsecr)),
                _ => {}
            }
            rest = after;
        }
        let header = Header {
            tuple,
            seq: SeqNum(tcp.seq_number().0 as u32),
            ack: SeqNum(tcp.ack_number().0 as u32),
            flags: Flags(segment[13]),
            window: tcp.window_len(),
            urgent: tcp.urgent_at(),
            ecn: 0,
            options,
        };
        if tcp.syn() && !tcp.ack() && tuple.remote_port == 81 {
            self.remotes[2].tuple = tuple;
        }
        let payload = &segment[usize::from(tcp.header_len())..];
        if let Some(remote) = self.remotes.iter_mut().find(|remote| remote.tuple == tuple) {
            remote.hear(&header, payload);
        }
    }

    fn remember(&mut self, packet: &[u8]) {
        if self.sent.len() == 8 {
            self.sent.pop_front();
        }
        self.sent.push_back(packet.to_vec());
    }
}

/// Reads what comes and writes as much of the stream.
async fn talk(mut peer: TcpStream) {
    let mut written = 0;
    while let Ok(bytes) = peer.read_chunk(4_096).await {
        if bytes.is_empty() {
            break;
        }
        let answer = stream(written, bytes.len() as u32);
        written += answer.len() as u32;
        if peer.write_chunk(answer.into()).await.is_err() {
            break;
        }
    }
}

/// An ARP message (RFC 826).
fn arp(to: [u8; 6], operation: u8, from: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let mut frame = frames::ethernet(to, PEER_MAC, 0x0806);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&from.1);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&target);
    frame
}

/// A neighbour discovery message with the link address of the peer (RFC 4861 4).
fn neighbor(kind: u8, target: [u8; 16]) -> Vec<u8> {
    let mut l4 = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
    l4.extend_from_slice(&target);
    l4.extend_from_slice(&[if kind == 135 { 1 } else { 2 }, 1]);
    l4.extend_from_slice(&PEER_MAC);
    l4
}

/// Makes some bytes other ones, or the frame shorter.
fn mangle(draw: &mut Draw<'_>, frame: &mut Vec<u8>) {
    for _ in 0..=draw.below(4) {
        if frame.is_empty() {
            return;
        }
        let at = draw.below(frame.len() as u32) as usize;
        match draw.byte() {
            0..=31 => frame.truncate(at),
            byte => frame[at] ^= byte,
        }
    }
}
