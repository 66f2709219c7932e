//! Questions and answers on the wire (RFC 1035 4), by the crate `domain`.

use std::net::IpAddr;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::{Name, ToName};
use domain::base::{Message, MessageBuilder, ParsedName};
use domain::rdata::{A, Aaaa, Cname, Soa};

use super::name::HostName;

/// The largest answer over UDP, in bytes: one that no path cuts up (RFC 6891 6.2.5).
const UDP_SIZE: u16 = 1_232;
/// Aliases followed from one name (CNAME).
pub(super) const MAX_ALIASES: usize = 16;
/// Addresses taken from one answer.
const MAX_ADDRESSES: usize = 64;

/// Which addresses are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Kind {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

impl Kind {
    fn rtype(self) -> Rtype {
        match self {
            Kind::A => Rtype::A,
            Kind::Aaaa => Rtype::AAAA,
        }
    }
}

/// What a message says to a question. Times are how long it may be remembered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// At least one address.
    Addresses(Vec<IpAddr>, Duration),
    /// The name is an alias, and the answer ends there.
    Alias(HostName, Duration),
    /// NXDOMAIN.
    NoSuchName(Duration),
    /// The name has no such address.
    NoData(Duration),
    /// The whole is to be had over TCP.
    Truncated,
    /// The server does not understand EDNS, or the question.
    FormErr,
    /// It says that it cannot help, or makes no sense.
    Failed(String),
    /// More aliases than are followed.
    TooManyAliases,
}

/// A question as it is sent, for the message `id`. With `edns` it says how large an answer
/// may be (RFC 6891).
pub(super) fn question(id: u16, name: &HostName, kind: Kind, edns: bool) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_rd(true);
    let mut message = message.question();
    // A name of 255 bytes and an OPT record fit into any message.
    if let Ok(qname) = Name::from_octets(name.wire()) {
        let _ = message.push((qname, kind.rtype()));
    }
    let mut message = message.additional();
    if edns {
        let _ = message.opt(|opt| {
            opt.set_udp_payload_size(UDP_SIZE);
            Ok(())
        });
    }
    message.finish()
}

/// What `bytes` say to the question. `None` where they are no answer to it: somebody else's
/// message, or a forged one (RFC 5452 3).
pub(super) fn reply(bytes: &[u8], id: u16, name: &HostName, kind: Kind) -> Option<Reply> {
    let message = Message::from_octets(bytes).ok()?;
    let header = message.header();
    if header.id() != id || !header.qr() || header.opcode() != Opcode::QUERY {
        return None;
    }
    let qname = Name::from_octets(name.wire()).ok()?;
    match message.sole_question() {
        Ok(question) => {
            let asked = question.qname().name_eq(&qname)
                && question.qtype() == kind.rtype()
                && question.qclass() == Class::IN;
            if !asked {
                return None;
            }
        }
        // A server that could not read the question has none to repeat (RFC 1035 4.1.1), and
        // some that refuse it do not.
        Err(_) if bytes.len() == 12 && !said_by_name(header.rcode()) => {}
        Err(_) => return None,
    }
    if header.tc() {
        return Some(Reply::Truncated);
    }
    Some(match header.rcode() {
        rcode if said_by_name(rcode) => {
            let said = read(&message, qname, kind);
            said.unwrap_or_else(|| Reply::Failed("a malformed answer".to_owned()))
        }
        Rcode::FORMERR | Rcode::NOTIMP => Reply::FormErr,
        rcode => Reply::Failed(rcode.to_string()),
    })
}

/// Whether a response with this code is about the name that was asked for.
fn said_by_name(rcode: Rcode) -> bool {
    matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN)
}

/// Follows the answer from the name asked for to its addresses.
fn read(message: &Message<&[u8]>, qname: Name<Vec<u8>>, kind: Kind) -> Option<Reply> {
    let mut addresses = Vec::new();
    let mut aliases = Vec::new();
    for record in message.answer().ok()? {
        let record = record.ok()?;
        if record.class() != Class::IN {
            continue;
        }
        let (owner, ttl) = (record.owner(), seconds(record.ttl().as_secs()));
        let ip = match record.rtype() {
            Rtype::CNAME => {
                let record = record.to_record::<Cname<ParsedName<_>>>().ok()??;
                aliases.push((owner, ttl, record.data().cname().to_vec()));
                continue;
            }
            Rtype::A if kind == Kind::A => record.to_record::<A>().ok()??.data().addr().into(),
            Rtype::AAAA if kind == Kind::Aaaa => {
                record.to_record::<Aaaa>().ok()??.data().addr().into()
            }
            _ => continue,
        };
        addresses.push((owner, ttl, ip));
    }
    let mut name = qname;
    let mut longest = Duration::MAX;
    let mut steps = 0;
    while let Some((_, ttl, target)) = aliases.iter().find(|(owner, ..)| owner.name_eq(&name)) {
        steps += 1;
        if steps > MAX_ALIASES {
            return Some(Reply::TooManyAliases);
        }
        longest = longest.min(*ttl);
        name = target.clone();
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for (_, ttl, ip) in addresses.iter().filter(|(owner, ..)| owner.name_eq(&name)) {
        if found.len() < MAX_ADDRESSES && !found.contains(ip) {
            found.push(*ip);
        }
        longest = longest.min(*ttl);
    }
    if !found.is_empty() {
        return Some(Reply::Addresses(found, longest));
    }
    let negative = negative_ttl(message, &name)?;
    let ttl = longest.min(negative.unwrap_or(Duration::ZERO));
    if message.header().rcode() == Rcode::NXDOMAIN {
        // RFC 2308 2.1: it is the last name of the chain that does not exist.
        return Some(Reply::NoSuchName(ttl));
    }
    if steps > 0 && negative.is_none() {
        let target = HostName::parse(&name.to_string()).ok()?;
        return Some(Reply::Alias(target, longest));
    }
    let header = message.header();
    if negative.is_none() && !header.aa() && !header.ra() {
        // RFC 2308 2.2: a server that only knows whom else to ask.
        return Some(Reply::Failed("a referral".to_owned()));
    }
    Some(Reply::NoData(ttl))
}

/// How long it may be remembered that `name` has nothing: RFC 2308 5, the lesser of the SOA
/// record's own time and its minimum. `Some(None)` without such a record, `None` where the
/// section is malformed.
fn negative_ttl(message: &Message<&[u8]>, name: &Name<Vec<u8>>) -> Option<Option<Duration>> {
    for record in message.authority().ok()? {
        let record = record.ok()?;
        if record.rtype() == Rtype::SOA && name.ends_with(&record.owner()) {
            let soa = record.to_record::<Soa<ParsedName<_>>>().ok()??;
            let minimum = seconds(soa.data().minimum().as_secs());
            return Some(Some(seconds(soa.ttl().as_secs()).min(minimum)));
        }
    }
    Some(None)
}

/// RFC 2181 8: a time with the highest bit set is zero.
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(if ttl > i32::MAX as u32 { 0 } else { ttl.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> HostName {
        HostName::parse("www.example.com").expect("a name")
    }

    /// A question turned into an answer with `records` records of whatever follows.
    fn answer(kind: Kind, records: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = question(7, &name(), kind, false);
        bytes[2..4].copy_from_slice(&[0x81, 0x80]);
        bytes[7] = records;
        bytes.extend_from_slice(rest);
        bytes
    }

    /// An address of the name asked for, the owner compressed (RFC 1035 4.1.4).
    const RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1];

    #[test]
    fn a_question_is_as_rfc_1035_has_it() {
        let bytes = question(0x1234, &name(), Kind::Aaaa, true);
        let head = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03www\x07example\x03com\0\0\x1c\0\x01";
        let opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
        assert_eq!(bytes, [&head[..], &opt[..]].concat());
    }

    #[test]
    fn compressed_owners_are_read_and_loops_of_pointers_end() {
        let reply = |bytes: &[u8]| super::reply(bytes, 7, &name(), Kind::A);
        let found = vec![IpAddr::from([10, 0, 0, 1])];
        let minute = Duration::from_secs(60);
        assert_eq!(reply(&answer(Kind::A, 1, &RECORD)), Some(Reply::Addresses(found, minute)));
        // The owner points to itself, or beyond the end.
        let at = answer(Kind::A, 0, &[]).len() as u8;
        for pointer in [at, 0xff] {
            let mut record = RECORD;
            record[1] = pointer;
            let failed = reply(&answer(Kind::A, 1, &record));
            assert!(matches!(failed, Some(Reply::Failed(_))), "{failed:?}");
        }
        // Fewer records than promised.
        assert!(matches!(reply(&answer(Kind::A, 2, &RECORD)), Some(Reply::Failed(_))));
    }

    #[test]
    fn a_bare_header_says_that_a_server_cannot_help_and_no_more() {
        let reply_with = |rcode: u8| {
            let bytes = [0, 7, 0x81, 0x80 | rcode, 0, 0, 0, 0, 0, 0, 0, 0];
            reply(&bytes, 7, &name(), Kind::A)
        };
        assert_eq!(reply_with(1), Some(Reply::FormErr));
        for rcode in [2, 5] {
            assert!(matches!(reply_with(rcode), Some(Reply::Failed(_))), "{rcode}");
        }
        assert_eq!((reply_with(0), reply_with(3)), (None, None));
    }

    #[test]
    fn a_referral_is_no_answer() {
        let mut bytes = answer(Kind::A, 0, &[]);
        assert_eq!(reply(&bytes, 7, &name(), Kind::A), Some(Reply::NoData(Duration::ZERO)));
        bytes[3] = 0;
        let referral = reply(&bytes, 7, &name(), Kind::A);
        assert_eq!(referral, Some(Reply::Failed("a referral".to_owned())));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..Default::default() })]

        /// Nothing that comes makes it panic, and what it takes for addresses is bounded.
        #[test]
        fn no_message_does_harm(
            noise in proptest::collection::vec(any::<u8>(), 0..120),
            changes in proptest::collection::vec((0..120usize, any::<u8>()), 0..4),
            records in any::<u8>(),
            authority in 0..3u8,
        ) {
            let rest = [&RECORD[..], &noise].concat();
            let mut bytes = answer(Kind::A, records, &rest);
            bytes[9] = authority;
            for (at, byte) in changes {
                if let Some(there) = bytes.get_mut(at) {
                    *there = byte;
                }
            }
            for message in [&bytes[..], &noise[..]] {
                if let Some(Reply::Addresses(found, _)) = reply(message, 7, &name(), Kind::A) {
                    prop_assert!(!found.is_empty() && found.len() <= MAX_ADDRESSES);
                }
            }
        }
    }
}
