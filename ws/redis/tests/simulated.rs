//! An engine made for the test, over TCP of ours in virtual time: one that does not answer, talks
//! nonsense, or loses connections when it has delivered and not answered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId, now, sleep, spawn_local};
use throng_ws::Frame;
use throng_ws::topic::{BackplaneStats, Hub, News, Subscription, TopicConfig, Topics};
use throng_ws_redis::{Config, Redis};

const ENGINE: &str = "10.0.0.1:6379";
const HELLO: &[u8] = b"%1\r\n$5\r\nproto\r\n:3\r\n";

/// Runs an engine, which gets each connection, beside what uses it.
fn world<E, U>(engine: impl Fn(TcpStream) -> E + 'static, user: impl FnOnce(Config) -> U)
where
    E: Future<Output = ()> + 'static,
    U: Future<Output = ()> + 'static,
{
    let options = Options { latency: Duration::from_millis(1), ..Options::default() };
    let (a, b) = memory::pair(1, options);
    let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
    };
    let mut world = World::new();
    let users = add_host(&mut world, boxed(a), &HostConfig::new(&["10.0.0.2/24"], 1));
    let engines = add_host(&mut world, boxed(b), &HostConfig::new(&["10.0.0.1/24"], 2));
    let serving = world.spawn(engines, ShardId(0), async move {
        let address: SocketAddr = ENGINE.parse().unwrap();
        let listener = TcpListener::bind(address).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(engine(stream)).detach();
        }
    });
    let done = Rc::new(RefCell::new(false));
    let (set, user) = (done.clone(), user(Config::from_url(&format!("redis://{ENGINE}")).unwrap()));
    let using = world.spawn(users, ShardId(0), async move {
        user.await;
        *set.borrow_mut() = true;
    });
    assert!(world.run_until(Instant::from_millis(3_600_000), || *done.borrow()), "not done");
    drop((serving, using));
}

fn node(config: Config) -> Topics {
    let topics = Hub::new(1, TopicConfig::default()).enter().unwrap();
    topics.attach(|inbound| Redis::start(config, inbound)).unwrap();
    topics
}

async fn until(topics: &Topics, what: impl Fn(&BackplaneStats) -> bool) -> BackplaneStats {
    loop {
        let stats = topics.backplane().unwrap();
        if what(&stats) {
            return stats;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

async fn next(subscription: &mut Subscription) -> Frame {
    match poll_fn(|cx| subscription.poll_news(cx)).await {
        News::Frame(frame) => frame,
        other => panic!("{other:?} instead of a frame"),
    }
}

#[test]
fn an_engine_that_says_nothing_is_left_and_tried_later_each_time() {
    let tried = Rc::new(RefCell::new(Vec::new()));
    let seen = tried.clone();
    let engine = move |mut stream: TcpStream| {
        seen.borrow_mut().push(now());
        async move {
            // It reads, and is left.
            let mut buf = [0; 1_000];
            while let Ok(1..) = stream.read(&mut buf).await {}
        }
    };
    world(engine, |config| async move {
        let topics = node(config.timeout(Duration::from_secs(2)));
        let stats = until(&topics, |stats| stats.timeouts == 10).await;
        assert_eq!((stats.failures, stats.connects, stats.connected), (10, 0, 0));
        let tried = tried.borrow();
        for (n, pair) in tried.windows(2).enumerate() {
            let pause = (pair[1] - pair[0]).saturating_sub(Duration::from_secs(2));
            let longest = Duration::from_millis((100 << n).min(10_000));
            let slack = Duration::from_millis(20);
            assert!(pause + slack >= longest / 2 && pause <= longest + slack, "{n}: {pause:?}");
        }
        let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses[8] > 10 * (pauses[0] - Duration::from_secs(2)));
    });
}

#[test]
fn an_engine_that_falls_silent_is_asked_and_left() {
    let engine = |mut stream: TcpStream| async move {
        stream.write_all(HELLO).await.unwrap();
        let mut buf = [0; 1_000];
        while let Ok(1..) = stream.read(&mut buf).await {}
    };
    world(engine, |config| async move {
        let topics = node(config);
        until(&topics, |stats| stats.connected == 1).await;
        let begin = now();
        until(&topics, |stats| stats.timeouts == 1).await;
        // 5 s of silence, and 5 s without an answer to a ping.
        assert!((now() - begin).abs_diff(Duration::from_secs(10)) < Duration::from_millis(100));
    });
}

#[test]
fn nonsense_ends_a_connection_and_is_counted() {
    const NONSENSE: [&[u8]; 7] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b":1\r\n",
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
        b"$104857600\r\n",
        b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n",
        b"+PONG\r\n+PONG\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
    ];
    let count = RefCell::new(0);
    let engine = move |mut stream: TcpStream| {
        let nonsense = NONSENSE[*count.borrow() % NONSENSE.len()];
        *count.borrow_mut() += 1;
        async move {
            stream.write_all(&[HELLO, nonsense].concat()).await.unwrap();
            let mut buf = [0; 1_000];
            while let Ok(1..) = stream.read(&mut buf).await {}
        }
    };
    world(engine, |config| async move {
        let topics = node(config);
        let all = NONSENSE.len() as u64;
        let stats = until(&topics, |stats| stats.failures == all).await;
        assert_eq!((stats.malformed, stats.timeouts), (all, 0));
    });
}

/// Who is subscribed to what, of an engine that delivers, and for the first few messages closes the
/// connection they came from instead of answering.
#[derive(Default)]
struct Forgetful {
    subscribed: HashMap<Vec<u8>, Vec<UnboundedSender<Vec<u8>>>>,
    lost: u32,
}

/// The parts of the commands that begin in `bytes`.
fn commands(bytes: &mut Vec<u8>) -> Vec<Vec<Vec<u8>>> {
    let mut commands = Vec::new();
    let line = |bytes: &[u8], at: usize| -> Option<(usize, usize)> {
        let end = at + bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let number = std::str::from_utf8(&bytes[at + 1..end]).unwrap().parse().unwrap();
        Some((number, end + 2))
    };
    'all: loop {
        let Some((parts, mut at)) = (!bytes.is_empty()).then(|| line(bytes, 0)).flatten() else {
            return commands;
        };
        let mut command = Vec::new();
        for _ in 0..parts {
            if at >= bytes.len() {
                break 'all;
            }
            let Some((len, start)) = line(bytes, at) else { break 'all };
            if bytes.len() < start + len + 2 {
                break 'all;
            }
            command.push(bytes[start..start + len].to_vec());
            at = start + len + 2;
        }
        bytes.drain(..at);
        commands.push(command);
    }
    commands
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

async fn serve(stream: TcpStream, engine: Rc<RefCell<Forgetful>>) {
    let (mut reader, mut writer) = stream.split();
    let (sender, mut queue) = unbounded::<Vec<u8>>();
    spawn_local(async move {
        while let Some(bytes) = queue.next().await {
            let end = bytes.is_empty();
            if end || writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = writer.close().await;
    })
    .detach();
    let (mut received, mut buf) = (Vec::new(), [0; 4_000]);
    while let Ok(n @ 1..) = reader.read(&mut buf).await {
        received.extend_from_slice(&buf[..n]);
        for command in commands(&mut received) {
            let mut engine = engine.borrow_mut();
            let say = |bytes: Vec<u8>| drop(sender.unbounded_send(bytes));
            match &command[0][..] {
                b"HELLO" => say(HELLO.to_vec()),
                b"SUBSCRIBE" => {
                    for channel in &command[1..] {
                        let of = engine.subscribed.entry(channel.clone()).or_default();
                        of.push(sender.clone());
                        let head = b">3\r\n$9\r\nsubscribe\r\n".to_vec();
                        say([head, bulk(channel), b":1\r\n".to_vec()].concat());
                    }
                }
                b"PUBLISH" => {
                    let message =
                        [b">3\r\n$7\r\nmessage\r\n".to_vec(), bulk(&command[1]), bulk(&command[2])];
                    let all = engine.subscribed.get(&command[1]).cloned().unwrap_or_default();
                    for one in all {
                        let _ = one.unbounded_send(message.concat());
                    }
                    if engine.lost < 3 {
                        engine.lost += 1;
                        // The end of it, before the answer.
                        say(Vec::new());
                        return;
                    }
                    say(b":1\r\n".to_vec());
                }
                _ => say(b"+PONG\r\n".to_vec()),
            }
        }
    }
}

#[test]
fn what_is_sent_again_reaches_nobody_twice() {
    let state = Rc::new(RefCell::new(Forgetful::default()));
    let engine = move |stream| serve(stream, state.clone());
    world(engine, |config| async move {
        let (a, b) = (node(config.clone()), node(config));
        let mut far = b.topic("news").subscribe();
        until(&b, |stats| stats.topics == 1).await;
        until(&a, |stats| stats.connected == 1).await;
        for i in 0..10 {
            a.topic("news").publish(&Frame::text(i.to_string()));
        }
        for i in 0..10 {
            assert_eq!(next(&mut far).await, Frame::text(i.to_string()));
        }
        let stats = until(&a, |stats| stats.sent == 10).await;
        assert!(stats.resent >= 3 && stats.failures == 3, "{stats:?}");
        sleep(Duration::from_secs(1)).await;
        let stats = b.backplane().unwrap();
        assert_eq!((stats.received, stats.repeated), (10, 3), "{stats:?}");
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(far.poll_news(&mut cx).is_pending());
    });
}

#[test]
fn a_burst_is_given_to_subscribers_as_fast_as_they_take_it() {
    const BURST: u64 = 1_000;
    let engine = |mut stream: TcpStream| async move {
        let (mut received, mut buf) = (Vec::new(), [0; 1_000]);
        while let Ok(n @ 1..) = stream.read(&mut buf).await {
            received.extend_from_slice(&buf[..n]);
            for command in commands(&mut received) {
                let said = match &command[0][..] {
                    b"HELLO" => HELLO.to_vec(),
                    b"SUBSCRIBE" => {
                        let channel = bulk(&command[1]);
                        let message = |i: u64| {
                            let text = bulk(i.to_string().as_bytes());
                            [b">3\r\n$7\r\nmessage\r\n", &channel[..], &text].concat()
                        };
                        let entered = [b">3\r\n$9\r\nsubscribe\r\n", &channel[..], b":1\r\n"];
                        let all: Vec<_> = (0..BURST).map(message).collect();
                        [entered.concat(), all.concat()].concat()
                    }
                    _ => b"+PONG\r\n".to_vec(),
                };
                stream.write_all(&said).await.unwrap();
            }
        }
    };
    world(engine, |config| async move {
        let topics = node(config);
        let mut near = topics.topic("news").subscribe();
        for i in 0..BURST {
            assert_eq!(next(&mut near).await, Frame::text(i.to_string()));
        }
        assert_eq!(topics.backplane().unwrap().received, BURST);
        assert_eq!((topics.stats().missed, topics.stats().refused), (0, 0));
    });
}

#[test]
fn long_names_keep_nobody_from_talking() {
    let state = Rc::new(RefCell::new(Forgetful { lost: 3, ..Forgetful::default() }));
    let engine = move |stream| serve(stream, state.clone());
    world(engine, |config| async move {
        let config = config.max_message(10);
        let (a, b) = (node(config.clone()), node(config));
        // Longer than any message.
        let name = "x".repeat(1_000);
        let mut far = b.topic(&name).subscribe();
        // Longer than what is carried.
        let beyond = "y".repeat(1 << 20);
        let mut lonely = b.topic(&beyond).subscribe();
        until(&b, |stats| stats.topics == 1).await;
        a.topic(&name).publish(&Frame::text("hello"));
        assert_eq!(next(&mut far).await, Frame::text("hello"));
        b.topic(&beyond).publish(&Frame::text("alone"));
        assert_eq!(next(&mut lonely).await, Frame::text("alone"));
        sleep(Duration::from_secs(1)).await;
        let stats = b.backplane().unwrap();
        assert_eq!((stats.failures, stats.denied, stats.too_large), (0, 1, 1), "{stats:?}");
    });
}
