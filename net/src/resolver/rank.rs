//! In which order addresses are tried: RFC 6724 6.
//!
//! Rules 1, 2, 5, 6, 8, 9 and 10 as they are written, with the policy table of 2.1. Left out
//! are 3 (deprecated sources), 4 (home addresses) and 7 (encapsulating transports), which ask
//! for what neither the stack nor the host's plain sockets tell. Rule 9, the longest common
//! prefix, is for IPv6 alone: with IPv4 it undoes what a server achieves by turning its
//! answers round.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Which families are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    pub(crate) const BOTH: Families = Families { v4: true, v6: true };
}

/// Sorts destinations, best first. `source_for` gives the source address for one; those
/// without come last.
pub(super) fn sort(addrs: &mut [SocketAddr], source_for: impl Fn(IpAddr) -> Option<IpAddr>) {
    if addrs.len() > 1 {
        addrs.sort_by_cached_key(|addr| key(addr.ip(), source_for(addr.ip())));
    }
}

/// The rules in their order; less is better.
type Key = (bool, bool, bool, Reverse<u8>, u8, Reverse<u32>);

fn key(destination: IpAddr, source: Option<IpAddr>) -> Key {
    let (precedence, label) = policy(destination);
    let scope = scope(destination);
    let Some(source) = source else {
        return (true, true, true, Reverse(precedence), scope, Reverse(0));
    };
    let other_scope = self::scope(source) != scope;
    let other_label = policy(source).1 != label;
    let common = common_prefix(source, destination);
    (false, other_scope, other_label, Reverse(precedence), scope, Reverse(common))
}

/// Precedence and label (RFC 6724 2.1).
fn policy(ip: IpAddr) -> (u8, u8) {
    let segments = match ip {
        IpAddr::V4(_) => return (35, 4),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => return (35, 4),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => return (50, 0),
        IpAddr::V6(ip) => ip.segments(),
    };
    match segments {
        [0x2002, ..] => (30, 2),
        [0x2001, 0, ..] => (5, 5),
        [first, ..] if first & 0xfe00 == 0xfc00 => (3, 13),
        [0, 0, 0, 0, 0, 0, ..] => (1, 3),
        [first, ..] if first & 0xffc0 == 0xfec0 => (1, 11),
        [0x3ffe, ..] => (1, 12),
        _ => (40, 1),
    }
}

/// The scope as in multicast addresses (RFC 6724 3.1, 3.2): 2 of the link, 5 of the site,
/// 14 global.
fn scope(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_link_local() => 2,
        IpAddr::V4(_) => 14,
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unicast_link_local() => 2,
        IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfec0 => 5,
        IpAddr::V6(_) => 14,
    }
}

/// Bits that two IPv6 addresses have in common, of the 64 that make a prefix.
fn common_prefix(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros().min(64),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(addrs: &[&str], sources: &[&str]) -> Vec<String> {
        let sources: Vec<IpAddr> = sources.iter().map(|text| text.parse().unwrap()).collect();
        let mut addrs: Vec<SocketAddr> =
            addrs.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 80)).collect();
        sort(&mut addrs, |ip| {
            let family = sources.iter().filter(|source| source.is_ipv4() == ip.is_ipv4());
            family
                .max_by_key(|source| (scope(**source) == scope(ip), common_prefix(**source, ip)))
                .copied()
        });
        addrs.iter().map(|addr| addr.ip().to_string()).collect()
    }

    #[test]
    fn the_rules_of_rfc_6724() {
        // The examples of 10.2, as far as they need no deprecated or home address.
        let global = ["2001:db8:1::1", "fe80::1", "198.51.100.117"];
        assert_eq!(
            sorted(&["198.51.100.121", "2001:db8:1::2"], &global),
            ["2001:db8:1::2", "198.51.100.121"]
        );
        assert_eq!(
            sorted(&["2001:db8:1::2", "198.51.100.121"], &["fe80::1", "198.51.100.117"]),
            ["198.51.100.121", "2001:db8:1::2"]
        );
        assert_eq!(
            sorted(&["2001:db8:1::2", "10.1.2.3"], &["fe80::1", "10.1.2.4"]),
            ["10.1.2.3", "2001:db8:1::2"]
        );
        assert_eq!(sorted(&["2001:db8:1::2", "fe80::2"], &global), ["fe80::2", "2001:db8:1::2"]);
        assert_eq!(
            sorted(
                &["2002:c633:6401::2", "2001:db8:1::2"],
                &["2002:c633:6401::1", "2001:db8:1::1"]
            ),
            ["2001:db8:1::2", "2002:c633:6401::2"]
        );
        // IPv4 before a unique local address.
        assert_eq!(
            sorted(&["fd00::2", "10.0.0.1"], &["fd00::1", "10.0.0.2"]),
            ["10.0.0.1", "fd00::2"]
        );
        // Rule 9, and 10: what is equal stays as it came.
        assert_eq!(
            sorted(
                &["2001:db8:f::2", "2001:db8:1::2", "10.0.0.9", "10.0.0.1"],
                &["2001:db8:1::1", "10.0.0.2"]
            ),
            ["2001:db8:1::2", "2001:db8:f::2", "10.0.0.9", "10.0.0.1"]
        );
    }

    #[test]
    fn what_cannot_be_reached_is_last() {
        let v4 = ["10.0.0.2"];
        assert_eq!(sorted(&["2001:db8::1", "10.0.0.1"], &v4), ["10.0.0.1", "2001:db8::1"]);
        assert_eq!(sorted(&["2001:db8::1", "2001:db8::2"], &v4), ["2001:db8::1", "2001:db8::2"]);
    }
}
