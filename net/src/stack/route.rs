//! Our addresses and the way out: which source address, which next hop.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::tcp::segment::Addr;

/// The addresses of the interface and its default gateways, the same on every shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Routes {
    cidrs: Vec<IpCidr>,
    local: Vec<Addr>,
    gateway_v4: Option<Addr>,
    gateway_v6: Option<Addr>,
    /// What came with the addresses, where DHCP gave them.
    nameservers: Vec<IpAddr>,
}

impl Routes {
    /// With `addresses`, to which the link-local address of `mac` is added
    /// (RFC 4291 2.5.6, appendix A), and at most one gateway of each family.
    pub(crate) fn new(addresses: &[IpCidr], gateways: &[IpAddr], mac: EthernetAddress) -> Routes {
        let mut routes = Routes::default();
        for cidr in addresses {
            routes.add(*cidr);
        }
        let [a, b, c, d, e, f] = mac.0;
        let link_local =
            Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        routes.add(IpCidr::new(link_local.into(), 64));
        for gateway in gateways {
            match gateway {
                IpAddr::V4(_) => routes.gateway_v4 = Some(Addr::from(*gateway)),
                IpAddr::V6(_) => routes.gateway_v6 = Some(Addr::from(*gateway)),
            }
        }
        routes
    }

    /// With the name servers that DHCP has named.
    pub(crate) fn with_nameservers(self, nameservers: Vec<IpAddr>) -> Routes {
        Routes { nameservers, ..self }
    }

    /// The name servers that DHCP has named.
    pub(crate) fn nameservers(&self) -> &[IpAddr] {
        &self.nameservers
    }

    fn add(&mut self, cidr: IpCidr) {
        if !self.cidrs.contains(&cidr) {
            self.cidrs.push(cidr);
            self.local.push(Addr::from(IpAddr::from(cidr.address())));
        }
    }

    /// The addresses with their prefixes.
    pub(crate) fn cidrs(&self) -> &[IpCidr] {
        &self.cidrs
    }

    /// The gateway of the family of IPv4 (`true`) or IPv6.
    pub(crate) fn gateway(&self, ipv4: bool) -> Option<Addr> {
        if ipv4 { self.gateway_v4 } else { self.gateway_v6 }
    }

    /// Whether `addr` is one of ours.
    #[inline]
    pub(crate) fn is_local(&self, addr: &Addr) -> bool {
        // As numbers: what was put together of several fields a moment ago, and is looked at in one
        // piece, has to be waited for.
        let number = |addr: &Addr| u128::from_ne_bytes(addr.0);
        self.local.iter().any(|local| number(local) == number(addr))
    }

    /// The neighbour to hand a packet for `dst` to; `None` where there is no route.
    pub(crate) fn next_hop(&self, dst: &Addr) -> Option<Addr> {
        // RFC 1122 3.2.1.3 (g), RFC 4291 2.5.3: a loopback address is on no wire.
        let ip = IpAddr::from(*dst);
        if ip.is_loopback() {
            return None;
        }
        if self.on_link(dst).is_some() { Some(*dst) } else { self.gateway(dst.is_ipv4()) }
    }

    /// The source address for a packet to `dst`; `None` where there is no route.
    pub(crate) fn source_for(&self, dst: &Addr) -> Option<Addr> {
        let via = self.next_hop(dst)?;
        let index = self.on_link(&via).or_else(|| {
            // A gateway outside every prefix: any address of the family that is not link-local.
            self.local.iter().position(|a| a.is_ipv4() == dst.is_ipv4() && a.0[..2] != [0xfe, 0x80])
        })?;
        let chosen = self.local[index];
        let scoped = chosen.0[..2] == [0xfe, 0x80] && dst.0[..2] != [0xfe, 0x80];
        if scoped && !dst.is_ipv4() {
            // RFC 6724 5 rule 2: a link-local source does not reach a global destination.
            let global = |a: &&Addr| !a.is_ipv4() && a.0[..2] != [0xfe, 0x80];
            return self.local.iter().find(global).copied();
        }
        Some(chosen)
    }

    fn on_link(&self, dst: &Addr) -> Option<usize> {
        let ip = smoltcp::wire::IpAddress::from(IpAddr::from(*dst));
        self.cidrs.iter().position(|cidr| cidr.contains_addr(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    fn routes() -> Routes {
        let cidrs = ["10.1.0.2/16".parse().unwrap(), "fd00::2/64".parse().unwrap()];
        let gateways = ["10.1.0.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        Routes::new(&cidrs, &gateways, EthernetAddress([2, 0, 0, 0, 0, 9]))
    }

    #[test]
    fn on_link_goes_straight_and_the_rest_to_the_gateway() {
        let routes = routes();
        assert_eq!(routes.next_hop(&addr("10.1.9.9")), Some(addr("10.1.9.9")));
        assert_eq!(routes.next_hop(&addr("192.0.2.1")), Some(addr("10.1.0.1")));
        assert_eq!(routes.next_hop(&addr("fd00::77")), Some(addr("fd00::77")));
        assert_eq!(routes.next_hop(&addr("2001:db8::1")), Some(addr("fe80::1")));
        for loopback in ["127.0.0.1", "127.3.2.1", "::1"] {
            assert_eq!(routes.next_hop(&addr(loopback)), None, "{loopback}");
            assert_eq!(routes.source_for(&addr(loopback)), None, "{loopback}");
        }
        assert_eq!(Routes::default().next_hop(&addr("192.0.2.1")), None);
    }

    #[test]
    fn the_source_has_the_scope_of_the_destination() {
        let routes = routes();
        assert_eq!(routes.source_for(&addr("192.0.2.1")), Some(addr("10.1.0.2")));
        assert_eq!(routes.source_for(&addr("2001:db8::1")), Some(addr("fd00::2")));
        assert_eq!(routes.source_for(&addr("fe80::5")), Some(addr("fe80::ff:fe00:9")));
        assert!(routes.is_local(&addr("fe80::ff:fe00:9")));
    }
}
