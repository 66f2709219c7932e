//! The client by hand beside real servers, over the memory device.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use futures::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::Response;
use hyper::service::service_fn;
use throng::net::device::memory;
use throng::net::stats;
use throng::ws::topic::{Hub, TopicConfig};
use throng::ws::{self, CloseCode, CloseFrame, Message};
use throng::{Builder, TcpListener, UdpSocket, runtime, spawn_local};

use super::*;
use crate::role::Role;
use crate::websocket as servers;

/// What a server does.
#[derive(Clone, Copy)]
enum Serves {
    Echo,
    Broadcast,
    /// A ping, an echo, and the closing handshake.
    Goodbye,
    /// Another byte of the message.
    Lies,
    Pages,
    /// The same with another byte of the body.
    OtherPages,
    /// Sends back what comes, without WebSockets.
    Bytes,
    /// The same, but now and then with another byte.
    OtherBytes,
    /// Datagrams, likewise.
    Datagrams,
    OtherDatagrams,
    /// Some of them not, and some late.
    SomeDatagrams,
    /// Ten of each socket's.
    FewDatagrams,
    /// Reads what is asked for and ends the connection.
    Nothing,
}

/// Bytes of a page: many segments.
const PAGE: usize = 20_000;
/// Sockets of a server of datagrams.
const SOCKETS: u16 = 3;
/// How long some datagrams' echoes are held.
const LATE: Duration = Duration::from_millis(500);

struct Bed {
    raw: Raw,
    stop: Arc<AtomicBool>,
    server: JoinHandle<()>,
    /// Connections that the server has now, TIME_WAIT not among them.
    left: Arc<Mutex<usize>>,
}

impl Bed {
    fn new(link: &str, serves: Serves, traffic: Traffic, connections: usize) -> Bed {
        let (stop, left) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(usize::MAX)));
        let server: SocketAddr = "10.96.0.1:9000".parse().unwrap();
        let (device, inside) = (format!("memory:{link}"), (stop.clone(), left.clone()));
        let serving = thread::spawn(move || {
            let builder = Builder::new().device(device).address("10.96.0.1/24").shards(1);
            let hub = Hub::new(1, TopicConfig::default());
            let ended = builder.run(move |_| {
                let ((stop, left), hub) = (inside.clone(), hub.clone());
                async move {
                    let listener = TcpListener::bind(server)?;
                    let all = hub.enter()?.topic("all");
                    match serves {
                        Serves::Echo => spawn_local(servers::echo(listener)).detach(),
                        Serves::Broadcast => {
                            spawn_local(servers::broadcast(listener, all)).detach();
                        }
                        Serves::Pages | Serves::OtherPages => {
                            let mut body = crate::serve::page(PAGE);
                            if matches!(serves, Serves::OtherPages) {
                                body[PAGE - 1] ^= 1;
                            }
                            let body = Bytes::from(body);
                            let page = service_fn(move |_: hyper::Request<throng::http::Body>| {
                                let body = body.clone();
                                async { Ok::<_, Infallible>(Response::new(Full::new(body))) }
                            });
                            spawn_local(throng::http::serve(listener, page)).detach();
                        }
                        Serves::Bytes | Serves::OtherBytes => {
                            spawn_local(bytes(listener, serves)).detach();
                        }
                        Serves::Datagrams
                        | Serves::OtherDatagrams
                        | Serves::SomeDatagrams
                        | Serves::FewDatagrams => {
                            for port in 0..SOCKETS {
                                let addr = SocketAddr::new(server.ip(), server.port() + port);
                                let socket = UdpSocket::bind(addr)?;
                                spawn_local(datagrams(socket, serves)).detach();
                            }
                        }
                        Serves::Nothing => spawn_local(silent(listener)).detach(),
                        Serves::Goodbye | Serves::Lies => {
                            spawn_local(ill_mannered(listener, serves)).detach();
                        }
                    }
                    while !stop.load(Ordering::Acquire) {
                        runtime::sleep(Duration::from_millis(5)).await;
                        *left.lock().unwrap() = stats::current()?.usage.connections;
                    }
                    io::Result::Ok(())
                }
            });
            ended.unwrap().into_iter().collect::<io::Result<Vec<()>>>().unwrap();
        });
        let role = Role {
            traffic,
            device: format!("memory:{link}"),
            address: Some("10.96.0.2/24".to_owned()),
            server,
            connections,
            core: 0,
            shards: 1,
            together: false,
            adaptive: true,
            size: match traffic {
                Traffic::Http | Traffic::HttpClose => PAGE,
                _ => 64,
            },
            sockets: usize::from(SOCKETS),
            preallocate: 0,
        };
        let load = Load {
            role,
            window: 8,
            rate: None,
            timed: false,
            spinning: false,
            raw: true,
            ramp: None,
            upstream: None,
        };
        let queue = memory::open(link, 1, memory::Options::default()).unwrap().pop().unwrap();
        let mut raw = Raw::new(&load, vec![Box::new(queue)]).unwrap();
        raw.find_server().unwrap();
        Bed { raw, stop, server: serving, left }
    }

    /// Has the client work until it has done so much, without an error.
    fn work(&mut self, least: u64) {
        let begin = Clock::now();
        while self.raw.done < least && begin.elapsed() < PATIENCE {
            let done = self.raw.work(Duration::from_millis(100)).unwrap();
            assert_eq!(done.errors, 0, "{done:?}");
        }
        assert!(self.raw.done >= least, "no more than {}", self.raw.done);
    }

    /// Has the client work until so much has failed.
    fn fail(&mut self, errors: u64) {
        let begin = Clock::now();
        while self.raw.errors < errors && begin.elapsed() < PATIENCE {
            self.raw.work(Duration::from_millis(100)).unwrap();
        }
    }

    /// Waits until the server has as many connections, and ends it.
    fn ends_with(mut self, connections: usize) {
        let begin = Clock::now();
        while *self.left.lock().unwrap() != connections && begin.elapsed() < PATIENCE {
            self.raw.turns();
        }
        assert_eq!(*self.left.lock().unwrap(), connections, "connections at the server");
        self.stop.store(true, Ordering::Release);
        while !self.server.is_finished() {
            self.raw.turns();
        }
        self.server.join().unwrap();
    }
}

/// An echo; the eleventh message of each connection is another.
async fn bytes(listener: TcpListener, serves: Serves) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let serving = async move {
            for number in 1.. {
                let mut said = stream.read_chunk(usize::MAX).await?.to_vec();
                if said.is_empty() {
                    break;
                }
                said[0] ^= u8::from(number == 11 && matches!(serves, Serves::OtherBytes));
                stream.write_chunk(said.into()).await?;
            }
            io::Result::Ok(())
        };
        spawn_local(serving).detach();
    }
}

/// An echo; the eleventh datagram of each socket is answered by another, or what else the kind says.
async fn datagrams(socket: UdpSocket, serves: Serves) -> io::Result<()> {
    for number in 1.. {
        let (said, from) = socket.recv_from().await?;
        match serves {
            Serves::FewDatagrams if number > 10 => continue,
            Serves::SomeDatagrams if number == 11 => continue,
            Serves::SomeDatagrams if number == 33 => runtime::sleep(LATE).await,
            _ => {}
        }
        let mut said = said.to_vec();
        said[0] ^= u8::from(number == 11 && matches!(serves, Serves::OtherDatagrams));
        socket.send_to(&said, from).await?;
    }
    Ok(())
}

async fn silent(listener: TcpListener) -> io::Result<()> {
    loop {
        listener.accept().await?.0.read_chunk(usize::MAX).await?;
    }
}

async fn ill_mannered(listener: TcpListener, serves: Serves) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let serving = async move {
            let mut socket = ws::accept(stream).await?;
            if matches!(serves, Serves::Goodbye) {
                socket.send(Message::Ping(vec![7; 9].into())).await?;
            }
            let heard = Rc::new(Cell::new(0));
            while let Some(message) = socket.next().await {
                match message? {
                    Message::Binary(mut said) if matches!(serves, Serves::Lies) => {
                        let mut other = said.to_vec();
                        other[40] ^= 1;
                        said = other.into();
                        socket.send(Message::Binary(said)).await?;
                    }
                    message @ Message::Binary(_) => socket.send(message).await?,
                    Message::Pong(said) if said[..] == [7; 9] => {
                        heard.set(heard.get() + 1);
                        let frame = CloseFrame { code: CloseCode::Away, reason: "bye".into() };
                        socket.close(Some(frame)).await?;
                    }
                    _ => {}
                }
            }
            assert_eq!(heard.get(), 1, "it ends in order, and only then");
            Ok::<_, ws::Error>(())
        };
        spawn_local(serving).detach();
    }
}

#[test]
fn every_echo_is_its_own() {
    let mut bed = Bed::new("raw-echo", Serves::Echo, Traffic::Websocket, 50);
    bed.raw.open().unwrap();
    bed.work(200);
    assert!(bed.raw.partial.is_empty());
    bed.ends_with(50);
}

#[test]
fn connections_that_are_upgraded_are_gone_at_both_ends() {
    let mut bed = Bed::new("raw-upgrade", Serves::Echo, Traffic::Upgrade, 100);
    bed.work(200);
    bed.ends_with(0);
}

#[test]
fn every_byte_of_an_echo_is_compared() {
    let mut bed = Bed::new("raw-bytes", Serves::Bytes, Traffic::Echo, 20);
    bed.raw.open().unwrap();
    bed.work(1_000);
    bed.ends_with(20);
    let mut bed = Bed::new("raw-other-bytes", Serves::OtherBytes, Traffic::Echo, 3);
    bed.raw.open().unwrap();
    bed.fail(3);
    assert_eq!((bed.raw.done, bed.raw.errors), (30, 3));
    // It has reset the connections that lied.
    bed.ends_with(0);
}

#[test]
fn every_byte_of_a_page_is_compared() {
    let mut bed = Bed::new("raw-long-pages", Serves::Pages, Traffic::Http, 20);
    bed.raw.open().unwrap();
    bed.work(500);
    assert!(bed.raw.page.as_ref().is_some_and(|page| page.len() > PAGE));
    bed.ends_with(20);
    let mut bed = Bed::new("raw-other-pages", Serves::OtherPages, Traffic::Http, 3);
    bed.raw.open().unwrap();
    bed.fail(3);
    assert_eq!((bed.raw.done, bed.raw.errors, bed.raw.on_way), (0, 3, 0));
    bed.ends_with(0);
}

#[test]
fn every_byte_of_a_datagram_is_compared() {
    let mut bed = Bed::new("raw-datagrams", Serves::Datagrams, Traffic::Udp, 20);
    bed.raw.open_flows();
    bed.work(1_000);
    bed.ends_with(0);
    let mut bed = Bed::new("raw-other-datagrams", Serves::OtherDatagrams, Traffic::Udp, 3);
    bed.raw.open_flows();
    bed.fail(3);
    // What is wrong is an error, and asked for again.
    assert_eq!((bed.raw.errors, bed.raw.on_way), (3, 0));
    assert!(bed.raw.done > 30, "{} in all", bed.raw.done);
    bed.ends_with(0);
}

#[test]
fn lost_datagrams_are_asked_for_again() {
    let mut bed = Bed::new("raw-some-datagrams", Serves::SomeDatagrams, Traffic::Udp, 3);
    bed.raw.open_flows();
    let mut all = Taken::default();
    while bed.raw.done < 300 {
        let done = bed.raw.work(Duration::from_millis(100)).unwrap();
        assert_eq!(done.errors, 0, "{done:?}");
        all = all + bed.raw.overdue.taken;
    }
    // Three were lost, and the echoes of three more were late.
    assert!(all.late >= 3 && all.asked_again >= all.late + 3, "{all:?}");
    bed.ends_with(0);
}

#[test]
fn a_server_that_answers_no_datagram_is_asked_so_often() {
    let mut bed = Bed::new("raw-few-datagrams", Serves::FewDatagrams, Traffic::Udp, 3);
    bed.raw.open_flows();
    bed.raw.overdue.after = Duration::from_millis(10);
    bed.raw.work(Duration::from_millis(400)).unwrap();
    assert_eq!((bed.raw.errors, bed.raw.on_way), (3, 0));
    assert!((1..=30).contains(&bed.raw.done), "{} in all", bed.raw.done);
    bed.ends_with(0);
}

#[test]
fn a_page_counts_when_it_has_come() {
    let mut bed = Bed::new("raw-pages", Serves::Pages, Traffic::HttpClose, 100);
    bed.work(200);
    bed.ends_with(0);
    let mut bed = Bed::new("raw-nothing", Serves::Nothing, Traffic::HttpClose, 100);
    bed.raw.work(Duration::from_millis(100)).unwrap();
    assert!(bed.raw.done == 0 && bed.raw.errors > 0, "{} and {}", bed.raw.done, bed.raw.errors);
    bed.ends_with(0);
}

#[test]
fn all_get_what_one_says_once() {
    let mut bed = Bed::new("raw-broadcast", Serves::Broadcast, Traffic::Broadcast, 50);
    bed.raw.open().unwrap();
    bed.work(200);
    assert!(bed.raw.published.number >= 4);
    // A message that somebody gets twice is not one.
    let (talk, label) = (bed.raw.talk.clone().unwrap(), bed.raw.published);
    let mut frame = [0; crate::load::websocket::LONGEST];
    let len = talk.message(label, &mut frame);
    let mask: Vec<u8> = frame[2..6].to_vec();
    let payload = frame[6..len].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let again = [vec![0x82, 64], payload.collect()].concat();
    bed.raw.on_websocket(7, &again);
    assert_eq!((bed.raw.errors, bed.raw.established), (1, 49));
    bed.ends_with(49);
}

#[test]
fn pings_and_closing_are_answered() {
    let mut bed = Bed::new("raw-goodbye", Serves::Goodbye, Traffic::Websocket, 5);
    // They open, and the server pings and closes.
    for _ in 0..5 {
        bed.raw.open_next();
    }
    let begin = Clock::now();
    while bed.raw.errors < 5 && begin.elapsed() < PATIENCE {
        bed.raw.turns();
    }
    assert_eq!((bed.raw.errors, bed.raw.established), (5, 0), "an end that nobody asked for");
    assert!(bed.raw.pick().is_none(), "nobody is asked any more");
    bed.ends_with(0);
}

#[test]
fn an_answer_that_is_none_ends_its_connection() {
    let mut bed = Bed::new("raw-lies", Serves::Lies, Traffic::Websocket, 3);
    bed.raw.open().unwrap();
    bed.raw.running = true;
    bed.raw.ask_another(None);
    bed.raw.running = false;
    bed.raw.until("the answer", |raw| raw.on_way == 0).unwrap();
    assert_eq!((bed.raw.done, bed.raw.errors, bed.raw.established), (0, 1, 2));
    bed.ends_with(2);
}

#[test]
fn a_frame_in_pieces_is_put_together() {
    let mut bed = Bed::new("raw-pieces", Serves::Echo, Traffic::Websocket, 2);
    bed.raw.open().unwrap();
    let talk = bed.raw.talk.clone().unwrap();
    for cut in 1..66 {
        // What connection 1 has been asked, and its echo in two pieces.
        let label = Label { index: 1, number: bed.raw.conns[1].seq, due: 0 };
        bed.raw.conns[1].missing = ASKED;
        bed.raw.conns[1].seq = label.number.wrapping_add(talk.frame_len());
        bed.raw.on_way = 1;
        let mut frame = [0; crate::load::websocket::LONGEST];
        let len = talk.message(label, &mut frame);
        let mask: Vec<u8> = frame[2..6].to_vec();
        let payload = frame[6..len].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let echo = [vec![0x82, 64], payload.collect()].concat();
        bed.raw.on_websocket(1, &echo[..cut]);
        assert_eq!((bed.raw.done, bed.raw.partial.len()), (cut as u64 - 1, 1));
        bed.raw.on_websocket(1, &echo[cut..]);
        assert_eq!((bed.raw.done, bed.raw.partial.len(), bed.raw.errors), (cut as u64, 0, 0));
    }
}

#[test]
fn connections_and_messages_come_by_the_clock() {
    let mut bed = Bed::new("raw-ramp", Serves::Echo, Traffic::Websocket, 300);
    bed.raw.load.rate = Some(500.0);
    bed.raw.wanted = 100;
    bed.raw.open().unwrap();
    let found = bed.raw.ramp(400.0, Duration::from_millis(500)).unwrap();
    assert_eq!((&found["opened"], &found["errors"]), (&200.into(), &0.into()));
    let seconds = found["seconds"].as_f64().unwrap();
    assert!((0.45..5.0).contains(&seconds), "200 at 400 a second took {seconds} s");
    for (when, time) in [("meanwhile", seconds), ("after", 0.5)] {
        let echoes = found[when]["echoes"].as_f64().unwrap();
        let share = echoes / (500.0 * time);
        assert!((0.5..2.0).contains(&share), "{when}: {echoes} in {time} s");
        assert!(found[when]["p50_us"].as_f64().unwrap() > 0.0);
    }
    bed.ends_with(300);
}
