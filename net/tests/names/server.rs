//! A name server made of our own sockets, which answers what a test tells it to. It writes
//! its messages byte by byte, so that the resolver's reading is held against something else.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::{TcpListener, UdpSocket};
use throng_runtime::{sleep, spawn_local};

pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;

/// A question as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) tcp: bool,
    /// The UDP size of the OPT record, if there was one.
    pub(crate) edns: Option<u16>,
    pub(crate) from: SocketAddr,
}

impl Query {
    fn parse(bytes: &[u8], from: SocketAddr, tcp: bool) -> Query {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(word(2), 0x0100, "a query with recursion desired");
        assert_eq!(word(4), 1, "one question");
        let mut name = String::new();
        let mut at = 12;
        while bytes[at] != 0 {
            let end = at + 1 + usize::from(bytes[at]);
            name.push_str(std::str::from_utf8(&bytes[at + 1..end]).unwrap());
            name.push('.');
            at = end;
        }
        name.pop();
        let kind = word(at + 1);
        assert_eq!(word(at + 3), 1, "class IN");
        // OPT: the root, type 41, the size as class.
        let edns = (word(10) == 1).then(|| {
            assert_eq!((bytes[at + 5], word(at + 6)), (0, 41));
            word(at + 8)
        });
        Query { id: word(0), name, kind, tcp, edns, from }
    }
}

/// An answer in the making.
pub(crate) struct Answer {
    id: u16,
    flags: u16,
    question: Vec<u8>,
    answers: Vec<u8>,
    authority: Vec<u8>,
    counts: [u16; 2],
}

impl Answer {
    /// An empty one to `query`, from a server that recurses.
    pub(crate) fn to(query: &Query) -> Answer {
        Answer::about(query.id, &query.name, query.kind)
    }

    pub(crate) fn about(id: u16, name: &str, kind: u16) -> Answer {
        let mut question = wire(name);
        question.extend_from_slice(&kind.to_be_bytes());
        question.extend_from_slice(&[0, 1]);
        let (answers, authority) = (Vec::new(), Vec::new());
        Answer { id, flags: 0x8180, question, answers, authority, counts: [0, 0] }
    }

    pub(crate) fn rcode(mut self, rcode: u16) -> Answer {
        self.flags |= rcode;
        self
    }

    pub(crate) fn truncated(mut self) -> Answer {
        self.flags |= 0x0200;
        self
    }

    pub(crate) fn address(mut self, name: &str, ttl: u32, ip: &str) -> Answer {
        let (kind, data) = match ip.parse().unwrap() {
            IpAddr::V4(ip) => (A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
        };
        self.answers.extend(record(name, kind, ttl, &data));
        self.counts[0] += 1;
        self
    }

    pub(crate) fn cname(mut self, name: &str, ttl: u32, target: &str) -> Answer {
        self.answers.extend(record(name, 5, ttl, &wire(target)));
        self.counts[0] += 1;
        self
    }

    /// A SOA record for a negative answer.
    pub(crate) fn soa(mut self, zone: &str, ttl: u32, minimum: u32) -> Answer {
        let mut data = [wire("ns.test"), wire("root.test")].concat();
        for word in [1, 2, 3, 4, minimum] {
            data.extend_from_slice(&word.to_be_bytes());
        }
        self.authority.extend(record(zone, 6, ttl, &data));
        self.counts[1] += 1;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let words = [self.id, self.flags, 1, self.counts[0], self.counts[1], 0];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend_from_slice(&self.question);
        bytes.extend_from_slice(&self.answers);
        bytes.extend_from_slice(&self.authority);
        bytes
    }
}

fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn record(name: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = wire(name);
    record.extend_from_slice(&kind.to_be_bytes());
    record.extend_from_slice(&[0, 1]);
    record.extend_from_slice(&ttl.to_be_bytes());
    record.extend_from_slice(&(data.len() as u16).to_be_bytes());
    record.extend_from_slice(data);
    record
}

/// What is sent for a query: messages, each so long after the one before.
pub(crate) type Script = Rc<dyn Fn(&Query) -> Vec<(Duration, Vec<u8>)>>;

/// The queries that came, by all servers of a test.
pub(crate) type Log = Rc<RefCell<Vec<(SocketAddr, Query)>>>;

/// Serves at `addr` over UDP and TCP until the world ends.
pub(crate) async fn serve(addr: SocketAddr, script: Script, log: Log) {
    let listener = TcpListener::bind(addr).unwrap();
    let (tcp_script, tcp_log) = (script.clone(), log.clone());
    spawn_local(async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            spawn_local(answer_tcp(stream, from, addr, tcp_script.clone(), tcp_log.clone()));
        }
    });
    let socket = Rc::new(UdpSocket::bind(addr).unwrap());
    loop {
        let (bytes, from) = socket.recv_from().await.unwrap();
        let query = Query::parse(&bytes, from, false);
        log.borrow_mut().push((addr, query.clone()));
        let (script, socket) = (script.clone(), socket.clone());
        spawn_local(async move {
            for (delay, message) in script(&query) {
                sleep(delay).await;
                socket.send_to(&message, from).await.unwrap();
            }
        });
    }
}

async fn answer_tcp(
    mut stream: throng_net::TcpStream,
    from: SocketAddr,
    addr: SocketAddr,
    script: Script,
    log: Log,
) {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.unwrap();
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).await.unwrap();
    let query = Query::parse(&bytes, from, true);
    log.borrow_mut().push((addr, query.clone()));
    for (delay, message) in script(&query) {
        sleep(delay).await;
        stream.write_all(&(message.len() as u16).to_be_bytes()).await.unwrap();
        stream.write_all(&message).await.unwrap();
    }
}
