//! The filter chooses the packets tcpdump chooses.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use throng_net::pcap::Filter;

const ADDRESSES: &[&str] =
    &["10.0.0.1", "10.0.0.2", "10.1.2.3", "192.168.7.9", "fd00::1", "fd00::2", "2001:db8::9"];
const PORTS: &[u16] = &[22, 53, 80, 443, 8080, 40000];

fn octets(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `options`: 32-bit words of IPv4 options. `fragment`: the flags and offset field.
fn ipv4(src: &str, dst: &str, protocol: u8, options: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let mut packet = vec![0x40 | (5 + options), 0];
    packet.extend(((header + body.len()) as u16).to_be_bytes());
    packet.extend([0, 9]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(octets(src));
    packet.extend(octets(dst));
    packet.resize(header, 1);
    packet.extend(body);
    ethernet(0x0800, &packet)
}

fn ipv6(src: &str, dst: &str, next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(octets(src));
    packet.extend(octets(dst));
    packet.extend(body);
    ethernet(0x86dd, &packet)
}

fn arp(kind: u16, sender: &str, target: &str) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
    packet.extend(octets(sender));
    packet.extend([0; 6]);
    packet.extend(octets(target));
    ethernet(kind, &packet)
}

fn ports(src: u16, dst: u16, length: usize) -> Vec<u8> {
    let mut body = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    body.resize(20 + length, 0x50);
    body
}

/// A bit of everything, each frame unlike the others.
fn traffic() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (at, src) in ADDRESSES.iter().enumerate() {
        for dst in ADDRESSES {
            let v4 = |ip: &str| ip.contains('.');
            if v4(src) != v4(dst) {
                continue;
            }
            for (turn, protocol) in [6, 17, 132, 1, 58, 47].into_iter().enumerate() {
                let src_port = PORTS[(at + turn) % PORTS.len()];
                let dst_port = PORTS[(at * 5 + turn * 2 + 1) % PORTS.len()];
                let body = ports(src_port, dst_port, 7 * turn + at);
                if v4(src) {
                    frames.push(ipv4(src, dst, protocol, 0, 0, &body));
                    frames.push(ipv4(src, dst, protocol, 2, 0x2000, &body));
                    frames.push(ipv4(src, dst, protocol, 0, 0x0010, &body));
                } else {
                    frames.push(ipv6(src, dst, protocol, &body));
                    let fragment = [&[protocol, 0, 0, 1, 0, 0, 0, 1][..], &body].concat();
                    frames.push(ipv6(src, dst, 44, &fragment));
                }
            }
            if v4(src) {
                frames.push(arp(0x0806, src, dst));
                frames.push(arp(0x8035, src, dst));
            }
        }
    }
    // A VLAN tag, another type.
    let tagged = ipv4("10.0.0.1", "10.0.0.2", 6, 0, 0, &ports(80, 22, 3));
    frames.push([&tagged[..12], &[0x81, 0, 0, 5], &tagged[12..]].concat());
    frames.push(ethernet(0x88cc, &[0; 60]));
    for (number, frame) in frames.iter_mut().enumerate() {
        frame.extend((number as u32).to_be_bytes());
    }
    frames
}

const FILTERS: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "not tcp",
    "not ip and not ip6",
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst host 10.0.0.1",
    "src 10.0.0.1",
    "dst fd00::2",
    "host fd00::1",
    "ip host 10.1.2.3",
    "arp host 10.0.0.2",
    "ip6 host fd00::1",
    "arp src host 10.0.0.1",
    "net 10.0.0.0/8",
    "net 10.0.0.0/30",
    "src net 10.0.0.0/15",
    "dst net 192.168.0.0/16",
    "net fd00::/8",
    "net 2001:db8::/33",
    "net 0.0.0.0/0",
    "net ::/0",
    "ip net 10.0.0.0/9",
    "port 80",
    "src port 80",
    "dst port 53",
    "tcp port 80",
    "udp port 53",
    "tcp src port 443",
    "udp dst port 8080",
    "portrange 50-90",
    "tcp portrange 400-9000",
    "src portrange 40000-40000",
    "portrange 90-50",
    "less 60",
    "greater 70",
    "tcp and port 80 or udp",
    "udp or tcp and port 80",
    "tcp or udp and port 53 or arp",
    "not (port 80 or port 443)",
    "not port 80 and not port 443",
    "! tcp && ! udp || icmp",
    "(tcp or udp) and (host 10.0.0.1 or host fd00::1) and not port 22",
    "tcp port 80 and (src net 10.0.0.0/8 or dst net fd00::/16)",
    "not not tcp",
    "tcp and(port 22)",
];

/// The old format, which is easy to write and to read: magic, version, zone, accuracy,
/// snaplen, Ethernet.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for (number, frame) in frames.iter().enumerate() {
        for word in [1_000 + number as u32, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

fn frames_of(pcap: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &pcap[24..];
    let mut frames = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}

#[test]
fn it_chooses_what_tcpdump_chooses() {
    if !super::has("tcpdump") {
        return;
    }
    let frames = traffic();
    let file = pcap(&frames);
    for text in FILTERS {
        let mut tcpdump = Command::new("tcpdump")
            .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
            .args(["-r", "-", "-w", "-", "--", text])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump");
        let mut stdin = tcpdump.stdin.take().unwrap();
        let input = file.clone();
        let feeding = std::thread::spawn(move || {
            // It ends early where it does not like the filter.
            let _ = stdin.write_all(&input);
        });
        let output = tcpdump.wait_with_output().unwrap();
        feeding.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}: {said}");
        let theirs = frames_of(&output.stdout);
        let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let ours: Vec<_> = frames.iter().filter(|frame| filter.matches(frame)).cloned().collect();
        let differs = ours.iter().find(|frame| !theirs.contains(frame));
        let missing = theirs.iter().find(|frame| !ours.contains(frame));
        assert_eq!((differs, missing), (None, None), "{text}");
        assert!(!ours.is_empty() && ours.len() < frames.len(), "{text} says nothing");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (text, part) in [
        ("", "primitive"),
        ("tcp prot 80", "prot"),
        ("foo", "foo"),
        ("host", "address"),
        ("host example.org", "example.org"),
        ("ip host fd00::1", "family"),
        ("net 10.0.0.1/8", "beyond"),
        ("net 10.0.0.0", "10.0.0.0/8"),
        ("net 10.0.0.0/33", "/33"),
        ("port 65536", "65536"),
        ("port -1", "-1"),
        ("portrange 80", "8000-8099"),
        ("(tcp", "not closed"),
        ("tcp)", ")"),
        ("tcp and", "primitive"),
        ("tcp udp", "udp"),
        ("tcp host 10.0.0.1", "host"),
        ("arp port 80", "port"),
        ("src", "primitive"),
        ("less x", "x"),
    ] {
        let error = text.parse::<Filter>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let nested = |depth: usize| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert!(nested(62).parse::<Filter>().is_ok());
    assert!(nested(63).parse::<Filter>().is_err());
    let deep = "tcp or (".repeat(62) + "udp" + &")".repeat(62);
    assert!(deep.parse::<Filter>().unwrap().matches(&traffic()[0]), "the first of 63 counts");
    assert!(format!("tcp{}", " or tcp".repeat(1_000)).parse::<Filter>().is_err(), "too long");
}

#[test]
fn a_frame_of_any_length_is_looked_at() {
    let filters: Vec<Filter> = FILTERS.iter().map(|text| text.parse().unwrap()).collect();
    for frame in traffic().iter().step_by(7) {
        for length in 0..frame.len() {
            for filter in &filters {
                filter.matches(&frame[..length]);
            }
        }
    }
    assert!(!"port 80".parse::<Filter>().unwrap().matches(&[]));
    assert!("not port 80".parse::<Filter>().unwrap().matches(&[]));
}
