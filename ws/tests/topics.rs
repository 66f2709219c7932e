//! Topics: who gets what, who is slow, who is dead, over TCP and a link in virtual time, and
//! between shards.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::{AsyncWriteExt, SinkExt, StreamExt};
use throng_http::admin::documented;
use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream, stats};
use throng_runtime::driver::NoDriver;
use throng_runtime::sim::{HostId, World};
use throng_runtime::{Driver, Instant, JoinHandle, ShardId, now, sleep, spawn_local, spawn_on};
use throng_ws::topic::{
    BackplaneStats, Hub, HubStats, News, Published, Slow, Subscription, Topic, TopicConfig, Topics,
};
use throng_ws::{CloseCode, Error, Frame, Message, WebSocket};

const LIMIT: Instant = Instant::from_millis(900_000);

fn server() -> SocketAddr {
    "10.0.0.1:80".parse().unwrap()
}

/// What the server's side saw.
#[derive(Clone, Default)]
struct Seen {
    topics: Rc<RefCell<Option<Topics>>>,
    ends: Rc<RefCell<Vec<Error>>>,
    received: Rc<Cell<u32>>,
}

impl Seen {
    fn topic(&self) -> Topic {
        self.topics.borrow().as_ref().unwrap().topic("news")
    }

    fn stats(&self) -> HubStats {
        self.topics.borrow().as_ref().unwrap().stats()
    }
}

async fn member(stream: TcpStream, topics: Vec<Topic>, seen: Seen) {
    let mut socket = throng_ws::accept(stream).await.unwrap();
    let mut subscribed: Vec<_> = topics.iter().map(Topic::subscribe).collect();
    drop(topics);
    while let Some(message) = socket.next_with(&mut subscribed).await {
        match message {
            Ok(message) if message.is_text() => {
                seen.received.set(seen.received.get() + 1);
                socket.send(message).await.unwrap();
            }
            Ok(_) => {}
            Err(error) => seen.ends.borrow_mut().push(error),
        }
    }
}

/// A server whose sockets subscribe to "news", and a client.
fn world<F: Future<Output = ()> + 'static>(
    config: TopicConfig,
    send_buffer: u32,
    client: impl FnOnce(Seen) -> F,
) {
    world_of(&["news"], config, send_buffer, client);
}

/// A server whose sockets subscribe to the topics of `names`, and a client.
fn world_of<F: Future<Output = ()> + 'static>(
    names: &'static [&'static str],
    config: TopicConfig,
    send_buffer: u32,
    client: impl FnOnce(Seen) -> F,
) {
    let (mut world, [client_host, server_host], seen, serving) = hosts(names, config, send_buffer);
    let done = Rc::new(Cell::new(false));
    let (set, client) = (done.clone(), client(seen.clone()));
    let client = world.spawn(client_host, ShardId(0), async move {
        client.await;
        set.set(true);
    });
    assert!(world.run_until(LIMIT, || done.get()), "not done, or panicked");
    drop((client, serving));
    let ended = world.now() + Duration::from_secs(200);
    world.run_until(ended, || false);
    let usage = world.enter(server_host, ShardId(0), stats::current).unwrap().usage;
    assert_eq!((usage.connections, usage.send_memory), (0, 0), "{usage:?}");
    world.enter(server_host, ShardId(0), || {
        let topics = seen.topics.borrow_mut().take().unwrap();
        assert!(topics.is_empty(), "with the last subscriber the topic is gone");
    });
}

/// A world of a client's host and a server's, and the server's task.
fn hosts(
    names: &'static [&'static str],
    config: TopicConfig,
    send_buffer: u32,
) -> (World, [HostId; 2], Seen, JoinHandle<()>) {
    let options = Options { latency: Duration::from_millis(1), ..Options::default() };
    let (a, b) = memory::pair(1, options);
    let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
    };
    let mut world = World::new();
    let client_host = add_host(&mut world, boxed(a), &HostConfig::new(&["10.0.0.2/24"], 1));
    let mut host = HostConfig::new(&["10.0.0.1/24"], 2);
    host.tcp.initial_send_buffer = send_buffer;
    host.tcp.send_buffer = send_buffer;
    let server_host = add_host(&mut world, boxed(b), &host);
    let seen = Seen::default();
    let serving = seen.clone();
    let serving = world.spawn(server_host, ShardId(0), async move {
        let topics = Hub::new(1, config).enter().unwrap();
        *serving.topics.borrow_mut() = Some(topics.clone());
        let listener = TcpListener::bind(server()).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let topics = names.iter().map(|name| topics.topic(name)).collect();
            spawn_local(member(stream, topics, serving.clone())).detach();
        }
    });
    (world, [client_host, server_host], seen, serving)
}

async fn connect() -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(server()).await.unwrap();
    throng_ws::connect(format!("ws://{}/", server()), stream).await.unwrap().0
}

async fn expect_text(socket: &mut WebSocket<TcpStream>, text: &str) {
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
}

fn all(subscribers: u64) -> Published {
    Published { subscribers, refused: 0 }
}

/// A member that opens the handshake and reads nothing, not even the answer.
async fn mute() -> TcpStream {
    let mut stream = TcpStream::connect(server()).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[test]
fn everybody_gets_what_is_published_between_echoes() {
    world(TopicConfig::default(), 65_536, |seen| async move {
        let mut sockets = Vec::new();
        for _ in 0..300 {
            sockets.push(connect().await);
        }
        sleep(Duration::from_millis(50)).await;
        assert_eq!(seen.topic().presence(), 300);
        let long = "x".repeat(70_000);
        for text in ["one", "two", &long] {
            assert_eq!(seen.topic().publish(&Frame::text(text)), all(300));
        }
        sockets[7].send(Message::text("echo")).await.unwrap();
        for (i, socket) in sockets.iter_mut().enumerate() {
            let mut expected = vec!["one", "two", &long];
            if i == 7 {
                expected.push("echo");
            }
            for _ in 0..expected.len() {
                let message = socket.next().await.unwrap().unwrap();
                let text = message.to_text().unwrap();
                let at = expected.iter().position(|expected| *expected == text).unwrap();
                // An echo may overtake what is published, but that comes in order.
                assert!(at == 0 || text == "echo", "{i}: out of order");
                expected.remove(at);
            }
        }
        assert_eq!(seen.topic().waiting(), 0, "what all have taken is gone");
        let stats = seen.stats();
        assert_eq!((stats.published, stats.delivered, stats.missed), (3, 900, 0));
        // Who leaves is no member any more.
        for socket in &mut sockets[..100] {
            socket.close(None).await.unwrap();
        }
        sleep(Duration::from_millis(50)).await;
        assert_eq!(seen.topic().publish(&Frame::binary([1, 2])), all(200));
        for socket in &mut sockets[100..] {
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(vec![1, 2]));
        }
    });
}

#[test]
fn who_reads_slowly_misses_the_oldest_and_disturbs_nobody() {
    world(TopicConfig::default().backlog(4), 4_096, |seen| async move {
        let mut good = connect().await;
        let mut slow = connect().await;
        sleep(Duration::from_millis(50)).await;
        let body = "y".repeat(8_000);
        for i in 0..100 {
            assert_eq!(seen.topic().publish(&Frame::text(format!("{i} {body}"))), all(2));
            expect_text(&mut good, &format!("{i} {body}")).await;
        }
        assert_eq!(seen.topic().waiting(), 4, "no more than the backlog is kept");
        let mut got = Vec::new();
        while got.last() != Some(&99) {
            let message = slow.next().await.unwrap().unwrap();
            let number = message.to_text().unwrap().split(' ').next().unwrap().parse().unwrap();
            got.push(number);
        }
        assert!(got.is_sorted() && got.contains(&0) && got.len() < 60, "{got:?}");
        let missed = 100 - got.len() as u64;
        assert_eq!(seen.stats().missed, missed, "what it misses is counted");
        assert_eq!(seen.stats().disconnected, 0);
        // It is well again.
        seen.topic().publish(&Frame::text("now"));
        expect_text(&mut slow, "now").await;
        expect_text(&mut good, "now").await;
    });
}

#[test]
fn who_reads_slowly_is_disconnected_where_the_topic_says_so() {
    let config = TopicConfig::default().backlog(4).slow(Slow::Disconnect);
    world(config, 4_096, |seen| async move {
        let mut good = connect().await;
        let slow = mute().await;
        sleep(Duration::from_millis(50)).await;
        let body = "z".repeat(8_000);
        for i in 0..100 {
            seen.topic().publish(&Frame::text(format!("{i} {body}")));
            expect_text(&mut good, &format!("{i} {body}")).await;
        }
        assert!(matches!(seen.ends.borrow()[..], [Error::Slow]), "{:?}", seen.ends.borrow());
        assert_eq!((seen.stats().disconnected, seen.topic().presence()), (1, 1));
        assert_eq!(seen.topic().waiting(), 0);
        let usage = slow.info().unwrap();
        assert!(usage.error.is_some(), "it was reset: {usage:?}");
    });
}

#[test]
fn heartbeats_find_the_dead_and_leave_the_living() {
    heartbeats(&["news"]);
}

#[test]
fn heartbeats_of_several_topics_that_fall_due_at_once_are_one() {
    heartbeats(&["news", "weather", "sports"]);
}

#[test]
fn a_peer_whose_ping_had_to_wait_has_an_interval_to_answer() {
    // One leaves no room for the ping; of two the second waits in the topic meanwhile.
    for frames in [1, 2] {
        let config = TopicConfig::default().heartbeat(Duration::from_secs(10));
        world(config, 4_096, |seen| async move {
            let mut socket = connect().await;
            // It has been quiet at the first beat, in this second, and reads nothing at the next.
            sleep(Duration::from_secs(5)).await;
            let body = "z".repeat(400_000);
            for _ in 0..frames {
                assert_eq!(seen.topic().publish(&Frame::text(&body)), all(1));
            }
            // Shortly before the third.
            sleep(Duration::from_secs(15)).await;
            for _ in 0..frames {
                expect_text(&mut socket, &body).await;
            }
            sleep(Duration::from_secs(2)).await;
            let reading =
                spawn_local(async move { while let Some(Ok(_)) = socket.next().await {} });
            sleep(Duration::from_secs(40)).await;
            assert!(seen.ends.borrow().is_empty(), "{frames}: {:?}", seen.ends.borrow());
            assert_eq!(seen.topic().presence(), 1);
            reading.abort();
        });
    }
}

#[test]
fn a_peer_whose_ping_has_not_left_is_not_dead() {
    let config = TopicConfig::default().heartbeat(Duration::from_secs(10));
    world(config, 1 << 20, |seen| async move {
        let mut socket = connect().await;
        sleep(Duration::from_secs(5)).await;
        // More than its window: the ping of the second beat, ten seconds after the first, is queued
        // behind what has not left, and so it is at the third.
        let body = "z".repeat(400_000);
        assert_eq!(seen.topic().publish(&Frame::text(&body)), all(1));
        sleep(Duration::from_secs(7)).await;
        assert_eq!(seen.stats().pings, 1);
        // Shortly before the fifth the ping leaves, and is answered after it.
        sleep(Duration::from_secs(28)).await;
        expect_text(&mut socket, &body).await;
        sleep(Duration::from_secs(2)).await;
        let reading = spawn_local(async move { while let Some(Ok(_)) = socket.next().await {} });
        sleep(Duration::from_secs(40)).await;
        assert!(seen.ends.borrow().is_empty(), "{:?}", seen.ends.borrow());
        assert_eq!((seen.topic().presence(), seen.stats().dead), (1, 0));
        reading.abort();
    });
}

#[test]
fn a_peer_that_is_gone_is_found_while_more_is_published() {
    let config = TopicConfig::default().heartbeat(Duration::from_secs(10));
    let (mut world, [client, server], seen, _serving) = hosts(&["news"], config, 1 << 20);
    world
        .spawn(client, ShardId(0), async {
            let mut socket = connect().await;
            while let Some(Ok(_)) = socket.next().await {}
        })
        .detach();
    let news = seen.clone();
    let publishing = world.spawn(server, ShardId(0), async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            news.topic().publish(&Frame::text("news"));
        }
    });
    world.run_for(Duration::from_secs(60));
    assert!(seen.ends.borrow().is_empty(), "{:?}", seen.ends.borrow());
    world.remove_host(client);
    world.run_for(Duration::from_secs(60));
    assert!(matches!(seen.ends.borrow()[..], [Error::PingTimeout]), "{:?}", seen.ends);
    assert_eq!(seen.stats().dead, 1);
    publishing.abort();
}

fn heartbeats(topics: &'static [&'static str]) {
    let config = TopicConfig::default().heartbeat(Duration::from_secs(10));
    world_of(topics, config, 65_536, |seen| async move {
        // Reads, and so answers pings; talks, and is not asked; and one that does neither.
        let mut quiet = connect().await;
        let reading = spawn_local(async move { while let Some(Ok(_)) = quiet.next().await {} });
        let mut talker = connect().await;
        let dead = mute().await;
        for _ in 0..60 {
            talker.send(Message::text("hello")).await.unwrap();
            expect_text(&mut talker, "hello").await;
            sleep(Duration::from_secs(2)).await;
        }
        assert!(matches!(seen.ends.borrow()[..], [Error::PingTimeout]), "{:?}", seen.ends);
        assert_eq!((seen.stats().dead, seen.topic().presence()), (1, 2));
        // In 120 s some 5 or 6 for who was quiet, and one for the dead.
        let pings = seen.stats().pings;
        assert!((5..=8).contains(&pings), "{pings} pings");
        reading.abort();
        drop(dead);
    });
}

#[test]
fn a_topic_that_closes_sends_its_members_away() {
    world(TopicConfig::default(), 65_536, |seen| async move {
        let mut sockets = Vec::new();
        for _ in 0..200 {
            sockets.push(connect().await);
        }
        sleep(Duration::from_millis(50)).await;
        let topic = seen.topic();
        topic.publish(&Frame::text("last"));
        topic.close();
        for socket in &mut sockets {
            expect_text(socket, "last").await;
            match socket.next().await.unwrap().unwrap() {
                Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Away),
                other => panic!("{other:?}"),
            }
            assert!(socket.next().await.is_none());
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(topic.presence(), 0);
        assert!(seen.ends.borrow().is_empty(), "{:?}", seen.ends.borrow());
    });
}

/// Without a network: what a topic does by itself.
fn shard(main: impl Future<Output = ()> + 'static) {
    let mut world = World::new();
    let host = world.add_host(vec![Box::new(NoDriver)]);
    let done = Rc::new(Cell::new(false));
    let set = done.clone();
    let task = world.spawn(host, ShardId(0), async move {
        main.await;
        set.set(true);
    });
    assert!(world.run_until(LIMIT, || done.get()), "not done, or panicked");
    drop(task);
}

#[test]
fn publishing_faster_than_a_crowd_is_told_is_refused_and_not_lost() {
    shard(async {
        let topics = Hub::new(1, TopicConfig::default().backlog(2)).enter().unwrap();
        assert!(Hub::new(0, TopicConfig::default()).enter().is_err());
        let topic = topics.topic("crowd");
        let got = Rc::new(Cell::new(0));
        for _ in 0..5_000 {
            let (mut subscription, got) = (topic.subscribe(), got.clone());
            let task = async move {
                loop {
                    let news = std::future::poll_fn(|cx| subscription.poll_news(cx)).await;
                    match news {
                        News::Frame(frame) => assert_eq!(frame.payload(), "x"),
                        other => panic!("{other:?}"),
                    }
                    got.set(got.get() + 1);
                }
            };
            spawn_local(task).detach();
        }
        sleep(Duration::from_millis(10)).await;
        let frame = Frame::text("x");
        let published: Vec<_> = (0..4).map(|_| topic.publish(&frame)).collect();
        let refused = Published { subscribers: 0, refused: 1 };
        assert_eq!(published, [all(5_000), all(5_000), refused, refused]);
        sleep(Duration::from_millis(100)).await;
        assert_eq!((got.get(), topic.waiting()), (10_000, 0));
        assert_eq!(topic.publish(&frame), all(5_000), "and then there is room");
        sleep(Duration::from_millis(100)).await;
        let stats = topics.stats();
        assert_eq!((stats.published, stats.delivered), (3, 15_000));
        assert_eq!((stats.refused, stats.missed), (2, 0));
    });
}

#[test]
fn what_everybody_has_taken_or_nobody_will_is_not_kept() {
    shard(async {
        let topics = Hub::new(1, TopicConfig::default().backlog_bytes(100)).enter().unwrap();
        let topic = topics.topic("a");
        topic.publish(&Frame::text("to nobody"));
        assert_eq!(topic.waiting(), 0);
        let mut first = topic.subscribe();
        let second = topic.subscribe();
        topic.publish(&Frame::text("1"));
        topic.publish(&Frame::text("2"));
        let next = std::future::poll_fn(|cx| first.poll_news(cx)).await;
        assert_eq!(next, News::Frame(Frame::text("1")));
        assert_eq!(topic.waiting(), 2, "the second has taken none");
        drop(second);
        assert_eq!(topic.waiting(), 1);
        // One larger than all that is kept displaces the rest.
        topic.publish(&Frame::binary(vec![0; 1_000]));
        assert_eq!(topic.waiting(), 1);
        let next = std::future::poll_fn(|cx| first.poll_news(cx)).await;
        assert_eq!(next, News::Missed(1, Slow::Drop));
        drop(first);
        assert_eq!((topic.waiting(), topics.len()), (0, 1));
        drop(topic);
        assert!(topics.is_empty());
        let another = topics.topic("b");
        assert_eq!((another.name(), another.presence()), ("b", 0));
    });
}

/// Tells when each heartbeat of `subscription` came.
async fn beats(mut subscription: Subscription, beats: Rc<RefCell<Vec<Instant>>>) {
    loop {
        let news = std::future::poll_fn(|cx| subscription.poll_news(cx)).await;
        assert_eq!(news, News::Heartbeat);
        beats.borrow_mut().push(now());
    }
}

#[test]
fn a_crowd_that_comes_shortens_nobodys_time_to_answer() {
    shard(async {
        let interval = Duration::from_secs(10);
        let config = TopicConfig::default().heartbeat(interval);
        let topic = Hub::new(1, config).enter().unwrap().topic("room");
        let members: Vec<_> = (0..3_000).map(|_| Rc::<RefCell<Vec<_>>>::default()).collect();
        spawn_local(beats(topic.subscribe(), members[0].clone())).detach();
        while members[0].borrow().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        // In one moment, and then while they are visited.
        for crowd in members[1..].chunks(500) {
            for member in crowd {
                spawn_local(beats(topic.subscribe(), member.clone())).detach();
            }
            sleep(Duration::from_millis(3_300)).await;
        }
        sleep(4 * interval).await;
        let mut last: Vec<_> = Vec::new();
        for member in &members {
            let member = member.borrow();
            for pair in member.windows(2) {
                let between = pair[1] - pair[0];
                assert!((interval * 9 / 10..=interval * 12 / 10).contains(&between), "{between:?}");
            }
            last.push(*member.last().unwrap());
        }
        // Spread over the interval.
        last.sort_unstable();
        let widest = last.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest <= interval / 16, "{widest:?}");
    });
}

#[test]
fn the_heartbeats_of_small_rooms_wake_the_shard_rarely() {
    shard(async {
        let config = TopicConfig::default().heartbeat(Duration::from_secs(60));
        let topics = Hub::new(1, config).enter().unwrap();
        let members: Vec<_> = (0..100).map(|_| Rc::<RefCell<Vec<_>>>::default()).collect();
        for (room, member) in members.iter().enumerate() {
            let subscription = topics.topic(&room.to_string()).subscribe();
            spawn_local(beats(subscription, member.clone())).detach();
        }
        let before = throng_runtime::stats().polls;
        sleep(Duration::from_secs(601)).await;
        let polls = throng_runtime::stats().polls - before;
        assert!(members.iter().all(|member| (9..=10).contains(&member.borrow().len())));
        // A poll of the member, and the topic's own.
        assert!(polls <= 100 * 10 * 20, "{polls} polls for 100 rooms in 10 intervals");
    });
}

#[test]
fn what_all_topics_of_a_shard_keep_is_bounded() {
    shard(async {
        let config = TopicConfig::default().shard_bytes(12_000);
        let topics = Hub::new(1, config).enter().unwrap();
        let frame = Frame::binary(vec![0; 1_000]);
        let refused = Published { subscribers: 0, refused: 1 };
        // Eleven of them fill it; none of the subscribers reads.
        let rooms: Vec<_> = (0..20).map(|room| topics.topic(&room.to_string())).collect();
        let mut subscribed: Vec<_> = rooms.iter().map(Topic::subscribe).collect();
        for (room, topic) in rooms.iter().enumerate() {
            assert_eq!(topic.publish(&frame), if room < 11 { all(1) } else { refused });
        }
        assert!((11_000..=12_000).contains(&topics.kept_bytes()), "{}", topics.kept_bytes());
        assert_eq!((topics.stats().refused, topics.stats().full), (9, 9));
        // A room that keeps some of it has the newest instead, and another what is given back:
        // by one who takes a frame, one who leaves, and a topic with an allowance of its own.
        assert_eq!(rooms[0].publish(&frame), all(1));
        let mut next =
            async |place: usize| std::future::poll_fn(|cx| subscribed[place].poll_news(cx)).await;
        assert_eq!(next(0).await, News::Missed(1, Slow::Drop));
        assert_eq!(next(0).await, News::Frame(frame.clone()));
        assert_eq!(rooms[15].publish(&frame), all(1));
        assert_eq!(rooms[16].publish(&frame), refused);
        drop(subscribed.remove(1));
        assert_eq!(rooms[16].publish(&frame), all(1));
        let vip = topics.topic_with("vip", config.shard_bytes(1 << 20));
        let slow = vip.subscribe();
        for _ in 0..100 {
            assert_eq!(vip.publish(&frame), all(1));
        }
        drop((subscribed, rooms));
        assert_eq!(vip.waiting(), 64);
        drop(slow);
        assert_eq!((topics.kept_bytes(), topics.len()), (0, 1), "all is given back");
        // And by a topic that ends with its subscriber.
        let last = topics.topic("last").subscribe();
        last.topic().publish(&frame);
        assert_ne!(topics.kept_bytes(), 0);
        drop(last);
        assert_eq!(topics.kept_bytes(), 0);
    });
}

#[test]
fn what_one_shard_publishes_reaches_subscribers_on_all() {
    const SHARDS: usize = 3;
    let config = throng_runtime::Config { shards: SHARDS, ..throng_runtime::Config::default() };
    let driver = |_| Ok(Box::new(NoDriver) as Box<dyn Driver>);
    let hub = Hub::new(SHARDS, TopicConfig::default());
    let outputs = throng_runtime::run(config, driver, move |shard| {
        let hub = hub.clone();
        async move {
            let topics = hub.enter().unwrap();
            assert!(hub.enter().is_err(), "once only");
            let topic = topics.topic("everywhere");
            let mut subscription = topic.subscribe();
            while topic.presence() < SHARDS as u64 {
                sleep(Duration::from_millis(1)).await;
            }
            let published = topic.publish(&Frame::text(shard.to_string()));
            assert_eq!(published, all(SHARDS as u64));
            let mut got = Vec::new();
            while got.len() < SHARDS {
                match std::future::poll_fn(|cx| subscription.poll_news(cx)).await {
                    News::Frame(frame) => got.push(frame.payload().to_vec()),
                    other => panic!("{other:?}"),
                }
            }
            // All have theirs before any leaves.
            for other in 0..SHARDS as u16 {
                spawn_on(ShardId(other), || async {}).await.unwrap();
            }
            drop(subscription);
            while topic.presence() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            got.sort();
            got
        }
    });
    for got in outputs.unwrap() {
        assert_eq!(got, [b"0", b"1", b"2"]);
    }
}

/// A link that takes some 6,000 frames a second.
#[test]
fn a_crowd_is_told_as_fast_as_the_device_takes_it() {
    const MEMBERS: u64 = 4_000;
    let options = Options { ring: 128, ..Options::default() };
    let slow = Options { rate: Some(5_000_000), ..options.clone() };
    let (mut a, mut b) = memory::pair_with((1, slow), (1, options));
    let (a, b): (Box<dyn Device>, Box<dyn Device>) = (Box::new(a.remove(0)), Box::new(b.remove(0)));
    let mut world = World::new();
    let client_host = add_host(&mut world, vec![a], &HostConfig::new(&["10.0.0.2/24"], 1));
    let server_host = add_host(&mut world, vec![b], &HostConfig::new(&["10.0.0.1/24"], 2));
    let (told, checked) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let set = checked.clone();
    let serving = world.spawn(server_host, ShardId(0), async move {
        let topics = Hub::new(1, TopicConfig::default()).enter().unwrap();
        let topic = topics.topic("news");
        let (listener, seen) = (TcpListener::bind(server()).unwrap(), Seen::default());
        for _ in 0..MEMBERS {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(member(stream, vec![topic.clone()], seen.clone())).detach();
        }
        while topic.presence() < MEMBERS {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_secs(1)).await;
        let usage = || stats::current().unwrap().usage;
        assert_eq!(usage().with_buffers, 0);
        assert_eq!(topic.publish(&Frame::text("to you all")), all(MEMBERS));
        let mut most = 0;
        while topic.waiting() > 0 || usage().with_buffers > 0 {
            most = most.max(usage().with_buffers);
            sleep(Duration::from_millis(1)).await;
        }
        assert!((1_000..2_600).contains(&most), "{most} of {MEMBERS} had buffers at a time");
        set.set(true);
    });
    let hearing = told.clone();
    let client = world.spawn(client_host, ShardId(0), async move {
        for _ in 0..MEMBERS {
            let (mut socket, hearing) = (connect().await, hearing.clone());
            let task = async move {
                expect_text(&mut socket, "to you all").await;
                hearing.set(hearing.get() + 1);
                std::future::pending::<()>().await;
            };
            spawn_local(task).detach();
        }
    });
    assert!(world.run_until(LIMIT, || told.get() == MEMBERS), "{} were told", told.get());
    let until = world.now() + Duration::from_secs(1);
    assert!(world.run_until(until, || checked.get()), "its checks failed, or it waits");
    drop((client, serving));
}

/// The part of `docs/METRICS.md` that is about topics:
/// `UPDATE_METRICS=1 cargo test -p throng-ws --test topics metrics` makes it.
#[test]
fn the_documentation_of_metrics_names_every_number() {
    let page = documented("topics", &[HubStats::METRICS])
        + &documented("backplane", &[BackplaneStats::METRICS]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
    let found = std::fs::read_to_string(path).unwrap();
    let (rest, found) = found.split_at(found.find("\n## topics\n").unwrap_or(found.len()));
    if std::env::var_os("UPDATE_METRICS").is_some() {
        return std::fs::write(path, rest.to_owned() + &page).unwrap();
    }
    assert!(found == page, "docs/METRICS.md is not what the code says: see above");
}
