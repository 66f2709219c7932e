use proptest::prelude::*;

use super::*;

fn proxied(source: &str, destination: &str) -> Header {
    let at = |text: &str| text.parse().unwrap();
    Header::Proxied(Addresses { source: at(source), destination: at(destination) })
}

/// Takes a header from the front of bytes as a reader does: what it says, and how long it is.
fn take(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let mut taken = 0;
    loop {
        match missing(&bytes[..taken])? {
            0 => return Ok(Some((parse(&bytes[..taken])?, taken))),
            more if taken + more > bytes.len() => return Ok(None),
            more => taken += more,
        }
    }
}

fn v2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, kind], &length, rest].concat()
}

#[test]
fn lines_of_version_1() {
    for (line, wanted) in [
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n", proxied("192.0.2.1:1", "192.0.2.2:65535")),
        ("PROXY TCP6 2001:db8::1 ::1 0 443\r\n", proxied("[2001:db8::1]:0", "[::1]:443")),
        ("PROXY UNKNOWN\r\n", Header::Local),
        ("PROXY UNKNOWN ffff::1 what ever 1 2\r\n", Header::Local),
    ] {
        let bytes = [line, "GET / HTTP/1.1\r\n"].concat();
        assert_eq!(take(bytes.as_bytes()), Ok(Some((wanted, line.len()))), "{line}");
    }
    for line in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1\r\n192.0.2.2 1 2\r\n",
        &format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)),
    ] {
        assert!(take(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn headers_of_version_2() {
    let four = [192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187];
    let wanted = proxied("192.0.2.1:80", "192.0.2.2:443");
    let right = v2(0x21, 0x11, &four);
    assert_eq!(take(&[&right[..], b"more"].concat()), Ok(Some((wanted, 28))));
    // A host name and an empty addition.
    let additions = [&four[..], &[2, 0, 1, b'a', 4, 0, 0]].concat();
    assert_eq!(take(&v2(0x21, 0x11, &additions)), Ok(Some((wanted, 35))));
    for (command, kind, rest) in [(0x20, 0x11, &four[..]), (0x20, 0, &[]), (0x20, 0x11, &[9])] {
        assert_eq!(parse(&v2(command, kind, rest)), Ok(Header::Local), "LOCAL");
    }
    assert_eq!(parse(&v2(0x21, 0, &[])), Ok(Header::Local), "unspecified");
    assert_eq!(parse(&v2(0x21, 0x12, &four)), Ok(Header::Local), "UDP");
    assert_eq!(parse(&v2(0x21, 0x31, &[0; 216])), Ok(Header::Local), "unix");
    for (command, kind, rest) in [
        (0x11, 0x11, &four[..]),
        (0x22, 0x11, &four),
        (0x21, 0x41, &four),
        (0x21, 0x13, &four),
        (0x21, 0x11, &four[..11]),
        (0x21, 0x21, &four),
        (0x21, 0x11, &additions[..14]),
        (0x21, 0x11, &[&additions[..], &[1, 0, 9]].concat()),
        (0x21, 0x11, &[0; 4096]),
    ] {
        assert!(take(&v2(command, kind, rest)).is_err(), "{command:x} {kind:x} {rest:?}");
    }
}

#[test]
fn a_checksum_has_to_be_right() {
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
    let with = |sum: u32| {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187];
        v2(0x21, 0x11, &[&four[..], &[3, 0, 4], &sum.to_be_bytes()].concat())
    };
    let right = crc32c(with(0).into_iter());
    assert!(parse(&with(right)).is_ok());
    assert_eq!(parse(&with(right ^ 1)), Err(Malformed("the checksum is wrong")));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// As it is understood: in one family.
fn joined(addresses: &Addresses) -> Header {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (source, destination) = (canonical(addresses.source), canonical(addresses.destination));
    let wide = |at: SocketAddr| match at.ip() {
        IpAddr::V4(v4) if source.is_ipv6() || destination.is_ipv6() => {
            SocketAddr::new(v4.to_ipv6_mapped().into(), at.port())
        }
        _ => at,
    };
    Header::Proxied(Addresses { source: wide(source), destination: wide(destination) })
}

proptest! {
    #[test]
    fn what_is_written_is_read(source in address(), destination in address(), more: Vec<u8>) {
        let addresses = Addresses { source, destination };
        for version in [Version::V1, Version::V2] {
            for (said, wanted) in [(Some(&addresses), joined(&addresses)), (None, Header::Local)] {
                let header = encode(version, said);
                let bytes = [&header[..], &more].concat();
                prop_assert_eq!(take(&bytes), Ok(Some((wanted, header.len()))));
                // No beginning of it is one, and none is refused.
                for end in 0..header.len() {
                    prop_assert_eq!(take(&bytes[..end]), Ok(None));
                }
            }
        }
    }

    /// Nothing panics, and nothing is taken beyond the bounds.
    #[test]
    fn damage_is_no_trouble(
        source in address(),
        destination in address(),
        rest in proptest::collection::vec(any::<u8>(), 0..64),
        at in any::<prop::sample::Index>(),
        byte: u8,
        second: bool,
    ) {
        let version = if second { Version::V2 } else { Version::V1 };
        let header = encode(version, Some(&Addresses { source, destination }));
        let mut bytes = [&header[..], &rest].concat();
        let at = at.index(header.len());
        bytes[at] = byte;
        let (taken, changed) = (take(&bytes), byte != header[at]);
        if at < WORD.len() && changed {
            prop_assert!(taken.is_err(), "another beginning: {taken:?}");
        }
        if let Ok(Some((_, length))) = taken {
            prop_assert!(length <= bytes.len() && length <= LONGEST);
        }
        let _ = take(&rest);
        let _ = parse(&rest);
        let _ = parse(&[SIGNATURE, &rest].concat());
    }
}
