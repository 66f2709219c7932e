//! What the host's files say: resolv.conf(5) and hosts(5).

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::name::HostName;

/// The port of name servers (RFC 1035 4.2).
const PORT: u16 = 53;
/// Servers taken from resolv.conf, as glibc does.
const MAX_SERVERS: usize = 3;
/// Domains taken from its search list.
const MAX_SEARCH: usize = 16;
/// Bytes read of a file; lists of blocked hosts are long.
const MAX_FILE: u64 = 16 << 20;

/// Where a text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, read again when it changes. One that is not there is empty.
    File(PathBuf),
    /// The text itself.
    Text(String),
}

impl Source {
    /// What would be different if the text had changed.
    pub(super) fn stamp(&self) -> Option<(SystemTime, u64)> {
        let Source::File(path) = self else { return None };
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    pub(super) fn read(&self) -> String {
        match self {
            Source::Text(text) => text.clone(),
            Source::File(path) => read_file(path).unwrap_or_else(|error| {
                tracing::debug!(path = %path.display(), %error, "read as empty");
                String::new()
            }),
        }
    }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The settings of resolv.conf(5). What it does not know it passes over.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<HostName>,
    /// Names with fewer dots are looked for in the search list first.
    pub(super) ndots: usize,
    /// How long a server has.
    pub(super) timeout: Duration,
    /// How often each is asked.
    pub(super) attempts: u32,
    /// Begin with another server every time.
    pub(super) rotate: bool,
    /// TCP only.
    pub(super) tcp: bool,
}

impl Default for ResolvConf {
    fn default() -> ResolvConf {
        ResolvConf {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            tcp: false,
        }
    }
}

impl ResolvConf {
    pub(super) fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            // A comment begins in the first column, for glibc; nothing else has these signs.
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // An address with a zone is passed over with all that is no address.
                    let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    if let Some(ip) = server.filter(|_| conf.servers.len() < MAX_SERVERS) {
                        conf.servers.push(SocketAddr::new(ip, PORT));
                    }
                }
                // The last of them counts.
                Some("search" | "domain") => {
                    let names = words.filter_map(|word| HostName::parse(word).ok());
                    conf.search = names.take(MAX_SEARCH).collect();
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let (key, number) = match word.split_once(':') {
            Some((key, number)) => (key, number.parse::<u32>().ok()),
            None => (word, None),
        };
        // The bounds are glibc's.
        match (key, number) {
            ("ndots", Some(number)) => self.ndots = number.min(15) as usize,
            ("timeout", Some(number)) => {
                self.timeout = Duration::from_secs(number.clamp(1, 30).into());
            }
            ("attempts", Some(number)) => self.attempts = number.clamp(1, 5),
            ("rotate", None) => self.rotate = true,
            ("use-vc", None) => self.tcp = true,
            _ => {}
        }
    }
}

/// The names of hosts(5), in lower case.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<Box<str>, Vec<IpAddr>>);

impl Hosts {
    pub(super) fn parse(text: &str) -> Hosts {
        let mut names: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(ip) = words.next().and_then(|word| word.parse().ok()) else { continue };
            for name in words.filter_map(|word| HostName::parse(word).ok()) {
                let addresses = names.entry(name.as_str().into()).or_default();
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
        }
        Hosts(names)
    }

    /// The addresses of a name, in the order of the file.
    pub(super) fn get(&self, name: &HostName) -> Option<&[IpAddr]> {
        self.0.get(name.as_str()).map(Vec::as_slice)
    }
}

/// Reads a name server as settings have it: an address, or one with a port.
pub(crate) fn parse_server(text: &str) -> Option<SocketAddr> {
    let with_port = text.parse::<SocketAddr>().ok();
    let server = with_port.or_else(|| Some(SocketAddr::new(text.parse().ok()?, PORT)))?;
    let many = server.ip().is_multicast() || server.ip() == Ipv4Addr::BROADCAST;
    let usable = !server.ip().is_unspecified() && !many && server.port() != 0;
    usable.then_some(server)
}

/// A server that DHCP has named.
pub(super) fn leased_server(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, PORT)
}

/// Whom glibc asks where nobody says otherwise.
pub(super) fn own_host() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_as_glibc_reads_it() {
        let conf = ResolvConf::parse(
            "# made by hand\ndomain old.example\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n\
             nameserver 2001:db8::1 # second\n; nameserver 192.0.2.9\nsearch Example.com sub.test. b@d\n\
             nameserver 192.0.2.3\nnameserver 192.0.2.4\nsortlist 10.0.0.0/8\n\
             options ndots:2 timeout:3 attempts:4\noptions rotate edns0 trust-ad timeout:x\n",
        );
        let servers: Vec<_> = conf.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"]);
        let search: Vec<_> = conf.search.iter().map(HostName::as_str).collect();
        assert_eq!(search, ["example.com", "sub.test"]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (2, Duration::from_secs(3), 4));
        assert!(conf.rotate && !conf.tcp);
        let wild = ResolvConf::parse("options ndots:99 timeout:0 attempts:4294967295 use-vc");
        assert_eq!((wild.ndots, wild.timeout, wild.attempts), (15, Duration::from_secs(1), 5));
        assert!(wild.tcp);
        assert_eq!(ResolvConf::parse("nameserver\noptions\nsearch"), ResolvConf::default());
    }

    #[test]
    fn hosts_have_several_names_and_addresses() {
        let hosts = Hosts::parse(
            "127.0.0.1 localhost\n10.0.0.1 Web.example.com web # the server\n# 10.0.0.9 web\n\
             fd00::1\tweb\nnonsense web\n10.0.0.1 web\n",
        );
        let get = |name: &str| {
            let addresses = hosts.get(&HostName::parse(name).unwrap()).unwrap_or_default();
            addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(get("WEB"), ["10.0.0.1", "fd00::1"]);
        assert_eq!(get("web.example.com."), ["10.0.0.1"]);
        assert!(get("example.com").is_empty());
    }

    #[test]
    fn a_server_is_an_address_with_or_without_port() {
        let server = |text| parse_server(text).map(|addr| addr.to_string());
        assert_eq!(server("10.0.0.1").as_deref(), Some("10.0.0.1:53"));
        assert_eq!(server("10.0.0.1:5353").as_deref(), Some("10.0.0.1:5353"));
        assert_eq!(server("fd00::1").as_deref(), Some("[fd00::1]:53"));
        assert_eq!(server("[fd00::1]:5353").as_deref(), Some("[fd00::1]:5353"));
        for bad in ["", "dns", "0.0.0.0", "224.0.0.1", "10.0.0.1:0", "10.0.0.1:x"] {
            assert_eq!(server(bad), None, "{bad}");
        }
    }
}
