//! net_tap: the kernel on the other side.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use throng_net::device::{Device, OpenOptions};
use throng_net::packet::{ChecksumStatus, Packet, TxMeta};

use crate::frames::{Port, frame, now, open_with, packet, receive_until, rings, send};
use crate::isolated::{Need, isolated, run};
use crate::tcp::{self, KERNEL, OURS};

const INTERFACE: &str = "dpdktap0";

/// A port whose kernel side has an address and knows ours.
fn tap(queues: usize, options: &OpenOptions) -> Port {
    let port = open_with(&format!("net_tap0,iface={INTERFACE}"), queues, options);
    run(&format!("ip address add 10.77.0.1/24 dev {INTERFACE}"));
    run(&format!("ip link set {INTERFACE} up"));
    let mac = port[0].capabilities().mac.to_string().replace('-', ":");
    run(&format!("ip neighbour add 10.77.0.2 lladdr {mac} dev {INTERFACE}"));
    port
}

/// The MAC address of the kernel's interface.
fn kernel_mac() -> [u8; 6] {
    // Not from /sys, which shows the namespace it was mounted in.
    let output = Command::new("ip").args(["-o", "link", "show", INTERFACE]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let bytes: Vec<u8> = words
        .nth(1)
        .unwrap()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

fn arp_request(device: &dyn Device) -> Vec<u8> {
    let mac = device.capabilities().mac.0;
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(OURS);
    frame.extend([0; 6]);
    frame.extend(KERNEL);
    frame.resize(60, 0);
    frame
}

/// A UDP datagram to the kernel, both checksums left to the device.
fn udp(device: &dyn Device, port: u16, payload: &[u8]) -> (Vec<u8>, TxMeta) {
    let len = 8 + payload.len();
    let mut frame = tcp::ip(device, kernel_mac(), 17, len);
    frame.extend(4000u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend((len as u16).to_be_bytes());
    frame.extend(tcp::pseudo_header(17, len));
    frame.extend(payload);
    let tx = TxMeta {
        l2_len: 14,
        l3_len: 20,
        l4_len: 8,
        ip_checksum: true,
        udp_checksum: true,
        ..TxMeta::default()
    };
    (frame, tx)
}

/// Whether it is a UDP datagram over IPv4 that ends with `payload`.
fn is_udp(frame: &Packet, payload: &[u8]) -> bool {
    let data = frame.data();
    data[12..14] == [0x08, 0x00] && data[23] == 17 && data.ends_with(payload)
}

#[test]
fn the_kernel_answers_on_every_queue() {
    isolated("tap::the_kernel_answers_on_every_queue", Need::Network, || {
        let mut queues = tap(2, &OpenOptions::default());
        assert_ne!(queues[0].capabilities().mac.0, kernel_mac());
        for queue in 0..2 {
            let request = arp_request(&*queues[queue]);
            let request = packet(&mut *queues[queue], &request).unwrap();
            send(&mut *queues[queue], &mut VecDeque::from([request]));
            let start = Instant::now();
            let mut frames: Vec<Packet> = Vec::new();
            let answered = |frame: &Packet| {
                let data = frame.data();
                data[12..14] == [0x08, 0x06]
                    && data[20..22] == [0, 2]
                    && data[22..28] == kernel_mac()
            };
            // Which queue the answer takes is up to the kernel.
            while !frames.iter().any(answered) {
                frames.clear();
                queues[0].receive(&mut frames, 64, now());
                queues[1].receive(&mut frames, 64, now());
                assert!(start.elapsed() < Duration::from_secs(10), "no ARP reply");
            }
        }
    });
}

#[test]
fn checksums_are_the_devices_business() {
    isolated("tap::checksums_are_the_devices_business", Need::Network, || {
        let mut queues = tap(1, &OpenOptions::default());
        let device = &mut *queues[0];
        let capabilities = device.capabilities().clone();
        assert!(capabilities.rx_checksum && capabilities.tx_ip_checksum);
        assert!(capabilities.tx_udp_checksum && capabilities.tx_tcp_checksum);

        let socket = UdpSocket::bind(("10.77.0.1", 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (bytes, tx) = udp(device, socket.local_addr().unwrap().port(), b"odd number");
        let mut datagram = packet(device, &bytes).unwrap();
        datagram.tx = tx;
        send(device, &mut VecDeque::from([datagram]));
        let mut buffer = [0; 100];
        // The kernel drops what has a wrong checksum.
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"odd number");

        socket.send_to(b"echo", from).unwrap();
        receive_until(device, "datagram", |frame| {
            let echo = is_udp(&frame, b"echo");
            if echo {
                assert_eq!(frame.rx.checksum, ChecksumStatus::Good);
            }
            echo
        });
        assert_eq!(device.counters().tx_dropped, 0);
    });
}

#[test]
fn frames_to_an_interface_that_is_down_are_dropped() {
    isolated("tap::frames_to_an_interface_that_is_down_are_dropped", Need::Network, || {
        let mut queues = tap(1, &OpenOptions::default());
        let device = &mut *queues[0];
        run(&format!("ip link set {INTERFACE} down"));
        let mut queue: VecDeque<Packet> =
            (0..40).map(|i| Packet::from(frame(device, i, 60))).collect();
        send(device, &mut queue);
        assert_eq!(device.counters().tx_dropped, 40);
        run(&format!("ip link set {INTERFACE} up"));
        std::thread::sleep(Duration::from_millis(10));
        let request = arp_request(device);
        send(device, &mut VecDeque::from([Packet::from(request)]));
        receive_until(device, "ARP reply", |frame| frame.data()[12..14] == [0x08, 0x06]);
    });
}

#[test]
fn rings_leave_buffers_for_sending() {
    isolated("tap::rings_leave_buffers_for_sending", Need::Network, || {
        // The driver fills its receive ring at once.
        let options = OpenOptions { buffers: 512, ring: 1024, ..OpenOptions::default() };
        let mut queues = tap(1, &options);
        let device = &mut *queues[0];
        let held: Vec<Packet> = std::iter::from_fn(|| device.allocate(100)).collect();
        assert!(held.len() >= 256, "{} of 512 buffers", held.len());
    });
}

#[test]
fn running_out_of_buffers_is_survived() {
    isolated("tap::running_out_of_buffers_is_survived", Need::Network, || {
        let options = OpenOptions { buffers: 512, ring: 64, ..OpenOptions::default() };
        let mut queues = tap(1, &options);
        let device = &mut *queues[0];
        let socket = UdpSocket::bind(("10.77.0.1", 0)).unwrap();
        let flood = || {
            for _ in 0..100 {
                socket.send_to(b"flood", "10.77.0.2:4000").unwrap();
            }
        };
        let mut held = Vec::new();
        let start = Instant::now();
        while device.counters().rx_dropped == 0 {
            flood();
            device.receive(&mut held, 64, now());
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", device.counters());
        }
        assert!(held.len() > 256, "{} frames held", held.len());
        held.clear();
        // As before, once there are buffers again.
        let start = Instant::now();
        while !held.iter().any(|frame| is_udp(frame, b"after")) {
            held.clear();
            socket.send_to(b"after", "10.77.0.2:4000").unwrap();
            device.receive(&mut held, 64, now());
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", device.counters());
        }
    });
}

#[test]
fn a_sleeper_is_woken_by_a_frame() {
    isolated("tap::a_sleeper_is_woken_by_a_frame", Need::Network, || {
        let mut queues = tap(1, &OpenOptions::default());
        let device = &mut *queues[0];
        let socket = UdpSocket::bind(("10.77.0.1", 0)).unwrap();
        // The kernel's own traffic of a new interface (IPv6 discovery) is over after a while.
        let quiet = Instant::now() + Duration::from_secs(3);
        while Instant::now() < quiet {
            device.receive(&mut Vec::new(), 64, now());
        }
        for round in 0..5u8 {
            while !device.arm() {
                device.receive(&mut Vec::new(), 64, now());
            }
            assert!(!rings(device, Duration::from_millis(20)), "rang alone");
            socket.send_to(&[round; 9], "10.77.0.2:4000").unwrap();
            assert!(rings(device, Duration::from_secs(5)), "slept through");
            device.disarm();
            receive_until(device, "datagram", |frame| is_udp(&frame, &[round; 9]));
        }
    });
}
