//! net_tap: the kernel on the other side.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use throng_net::device::Device;
use throng_net::packet::{ChecksumStatus, TxMeta};

use crate::frames::{open, packet, receive_until, send};
use crate::isolated::{Need, isolated, run};

const KERNEL: [u8; 4] = [10, 77, 0, 1];
const OURS: [u8; 4] = [10, 77, 0, 2];

/// The MAC address of the kernel's interface.
fn kernel_mac(interface: &str) -> [u8; 6] {
    // Not from /sys, which shows the namespace it was mounted in.
    let output = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
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
fn udp(device: &dyn Device, to: [u8; 6], port: u16, payload: &[u8]) -> (Vec<u8>, TxMeta) {
    let udp_len = (8 + payload.len()) as u16;
    let mut frame = to.to_vec();
    frame.extend(device.capabilities().mac.0);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + udp_len).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(OURS);
    frame.extend(KERNEL);
    frame.extend(4000u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(udp_len.to_be_bytes());
    let words = [OURS, KERNEL].concat();
    let sum: u32 =
        words.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>()
            + 17
            + u32::from(udp_len);
    frame.extend((((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
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

#[test]
fn the_kernel_answers() {
    isolated("tap::the_kernel_answers", Need::Network, || {
        let mut queues = open("net_tap0,iface=dpdktap0", 2);
        run("ip address add 10.77.0.1/24 dev dpdktap0");
        run("ip link set dpdktap0 up");
        let device = &mut *queues[0];
        assert_ne!(device.capabilities().mac.0, kernel_mac("dpdktap0"));

        let request = arp_request(device);
        let request = packet(device, &request).unwrap();
        send(device, &mut VecDeque::from([request]));
        let mut answer = None;
        receive_until(device, "ARP reply", |frame| {
            let data = frame.data();
            if data[12..14] == [0x08, 0x06] && data[20..22] == [0, 2] {
                answer = Some(data[22..28].to_vec());
            }
            answer.is_some()
        });
        assert_eq!(answer.unwrap(), kernel_mac("dpdktap0"));
    });
}

#[test]
fn checksums_are_the_devices_business() {
    isolated("tap::checksums_are_the_devices_business", Need::Network, || {
        let mut queues = open("net_tap0,iface=dpdktap1", 1);
        run("ip address add 10.77.0.1/24 dev dpdktap1");
        run("ip link set dpdktap1 up");
        let device = &mut *queues[0];
        let mac = kernel_mac("dpdktap1");
        let capabilities = device.capabilities().clone();
        assert!(capabilities.rx_checksum && capabilities.tx_ip_checksum);
        assert!(capabilities.tx_udp_checksum && capabilities.tx_tcp_checksum);

        let socket = UdpSocket::bind(("10.77.0.1", 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        run(&format!(
            "ip neighbour add 10.77.0.2 lladdr {} dev dpdktap1",
            capabilities.mac.to_string().replace('-', ":")
        ));
        let (bytes, tx) = udp(device, mac, socket.local_addr().unwrap().port(), b"odd number");
        let mut datagram = packet(device, &bytes).unwrap();
        datagram.tx = tx;
        send(device, &mut VecDeque::from([datagram]));
        let mut buffer = [0; 100];
        // The kernel drops what has a wrong checksum.
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"odd number");

        socket.send_to(b"echo", from).unwrap();
        receive_until(device, "datagram", |frame| {
            let data = frame.data();
            let udp = data[12..14] == [0x08, 0x00] && data[23] == 17 && data.ends_with(b"echo");
            if udp {
                assert_eq!(frame.rx.checksum, ChecksumStatus::Good);
            }
            udp
        });
        assert_eq!(device.counters().tx_dropped, 0);
    });
}
