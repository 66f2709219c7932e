//! Who gets what.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use throng_runtime::{ShardId, sleep};
use throng_ws::Frame;
use throng_ws::topic::{Hub, Subscription, TopicConfig};
use throng_ws_redis::Redis;

use crate::support::{Server, attach, next, node, rest, run, text, until};

#[test]
fn a_message_reaches_both_once_and_in_order() {
    let Some(server) = Server::start(&[]) else { return };
    let config = server.config("");
    run(1, move |_| {
        let config = config.clone();
        async move {
            let (a, b) = (node(config.clone()), node(config));
            let (here, there) = (a.topic("news"), b.topic("news"));
            let (mut near, mut far) = (here.subscribe(), there.subscribe());
            until(&a, |stats| stats.topics == 1).await;
            until(&b, |stats| stats.topics == 1).await;
            let frame = |i: u32| match i % 3 {
                0 => Frame::binary([0xff, i as u8]),
                _ => Frame::text(format!("news {i}")),
            };
            for i in 0..500 {
                let published = here.publish(&frame(i));
                assert_eq!((published.subscribers, published.refused), (1, 0), "of this process");
            }
            for i in 0..500 {
                assert_eq!(next(&mut near).await, frame(i));
                assert_eq!(next(&mut far).await, frame(i));
            }
            there.publish(&Frame::text("back"));
            assert_eq!(text(&mut near).await, "back");
            assert_eq!(text(&mut far).await, "back");
            until(&a, |stats| stats.own == 500 && stats.sent == 500).await;
            let (first, second) = (a.backplane().unwrap(), b.backplane().unwrap());
            assert_eq!((first.received, second.received), (1, 500));
            assert_eq!((first.waiting, first.waiting_bytes, first.dropped), (0, 0, 0));
            assert_eq!((second.repeated, second.not_taken, second.failures), (0, 0, 0));
            assert!(rest(&mut near).await.is_empty() && rest(&mut far).await.is_empty());
        }
    });
}

/// The subscribers that the server counts of a channel.
fn subscribers(server: &TcpStream, channel: &str) -> String {
    let mut server = server.try_clone().unwrap();
    server.write_all(format!("PUBSUB NUMSUB {channel}\r\n").as_bytes()).unwrap();
    let mut answer = vec![0; 1_000];
    let n = server.read(&mut answer).unwrap();
    let answer = String::from_utf8(answer[..n].to_vec()).unwrap();
    answer.trim_end().rsplit(':').next().unwrap().to_owned()
}

#[test]
fn only_topics_with_subscribers_are_subscribed_to() {
    let Some(server) = Server::start(&[]) else { return };
    let (config, address) = (server.config("").prefix("app/"), server.address());
    run(1, move |_| {
        let config = config.clone();
        async move {
            let engine = TcpStream::connect(address).unwrap();
            let (a, b) = (node(config.clone()), node(config));
            // Before there is a connection and after it, in one go and one by one.
            let early: Vec<Subscription> =
                (0..1_000).map(|i| a.topic(&format!("early {i}")).subscribe()).collect();
            until(&a, |stats| stats.topics == 1_000).await;
            let late: Vec<Subscription> =
                (0..1_000).map(|i| a.topic(&format!("late {i}")).subscribe()).collect();
            until(&a, |stats| stats.topics == 2_000).await;
            assert_eq!(subscribers(&engine, "app/one"), "0");
            let one = a.topic("one");
            let (mut first, second) = (one.subscribe(), one.subscribe());
            until(&a, |stats| stats.topics == 2_001).await;
            assert_eq!(subscribers(&engine, "app/one"), "1", "one for all of the process");
            drop(second);
            b.topic("one").publish(&Frame::text("x"));
            assert_eq!(text(&mut first).await, "x");
            drop((first, early, late));
            until(&a, |stats| stats.topics == 0).await;
            assert_eq!(subscribers(&engine, "app/one"), "0");
            // Gone and come again before anybody has looked.
            let again = one.subscribe();
            drop(again);
            let _again = one.subscribe();
            until(&a, |stats| stats.topics == 1).await;
            b.topic("nobody's").publish(&Frame::text("x"));
            until(&b, |stats| stats.sent == 2).await;
            assert_eq!(a.backplane().unwrap().received, 1);
        }
    });
}

#[test]
fn shards_share_one_connection() {
    let Some(server) = Server::start(&[]) else { return };
    let config = server.config("");
    // One is attached on the first shard, the other on the second.
    let (a, b) = (Hub::new(2, TopicConfig::default()), Hub::new(2, TopicConfig::default()));
    let (begun, done) = (Barrier::default(), Barrier::default());
    run(2, move |shard| {
        let (config, a, b) = (config.clone(), a.clone(), b.clone());
        let (begun, done) = (begun.clone(), done.clone());
        async move {
            let (a, b) = (a.enter().unwrap(), b.enter().unwrap());
            let (one, two) = (a.topic("news"), b.topic("news"));
            let mut far = two.subscribe();
            let home = if shard == ShardId(0) { &a } else { &b };
            attach(home, config.clone());
            assert!(home.attach(|inbound| Redis::start(config, inbound)).is_err(), "one only");
            let mut near = (shard == ShardId(1)).then(|| one.subscribe());
            until(home, |stats| stats.topics == 1).await;
            begun.wait(2).await;
            if near.is_some() {
                // From the shard that has no connection.
                one.publish(&Frame::text("first"));
            }
            assert_eq!(text(&mut far).await, "first");
            if near.is_some() {
                two.publish(&Frame::text("second"));
            }
            assert_eq!(text(&mut far).await, "second");
            if near.is_none() {
                one.publish(&Frame::text("third"));
            }
            assert_eq!(text(&mut far).await, "third");
            if let Some(near) = &mut near {
                assert_eq!(text(near).await, "first");
                let mut others = [text(near).await, text(near).await];
                others.sort();
                assert_eq!(others, ["second", "third"]);
            }
            assert_eq!(a.stats().uncarried + b.stats().uncarried, 0);
            done.wait(2).await;
            let expected = if shard == ShardId(0) { (2, 1) } else { (1, 2) };
            until(home, |stats| (stats.sent, stats.received) == expected).await;
        }
    });
}

/// Where shards wait for each other.
#[derive(Clone, Default)]
struct Barrier(Arc<AtomicUsize>);

impl Barrier {
    async fn wait(&self, all: usize) {
        self.0.fetch_add(1, Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) < all {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn another_program_publishes_text() {
    let Some(server) = Server::start(&[]) else { return };
    let (config, address) = (server.config(""), server.address());
    run(1, move |_| {
        let config = config.clone();
        async move {
            let a = node(config);
            let mut near = a.topic("news").subscribe();
            until(&a, |stats| stats.topics == 1).await;
            let mut engine = TcpStream::connect(address).unwrap();
            engine.write_all(b"PUBLISH throng:news \"\\xff\\xfe\"\r\n").unwrap();
            engine.write_all(b"PUBLISH throng:news hello\r\n").unwrap();
            assert_eq!(text(&mut near).await, "hello");
            let stats = a.backplane().unwrap();
            assert_eq!((stats.received, stats.unreadable), (1, 1));
        }
    });
}

#[test]
fn who_may_come_in_and_where() {
    let user = ["--user", "reader", "on", ">p@ss:w/rd", "&throng:public*", "+@all"];
    let login = ["--requirepass", "secret"];
    let Some(server) = Server::start(&[&login[..], &user].concat()) else { return };
    let [none, wrong, right, acl] =
        ["", "reader:nonsense@", ":secret@", "reader:p%40ss%3Aw%2Frd@"].map(|it| server.config(it));
    run(1, move |_| {
        let (none, wrong, right) = (none.clone(), wrong.clone(), right.clone());
        let acl = acl.clone();
        async move {
            for config in [none, wrong] {
                let refused = node(config);
                until(&refused, |stats| stats.refused >= 2).await;
                let stats = refused.backplane().unwrap();
                assert_eq!((stats.connected, stats.connects), (0, 0));
                assert_eq!(stats.failures, stats.refused);
            }
            let (a, b) = (node(right), node(acl));
            let mut near = a.topic("public").subscribe();
            // In one command with those that it may have.
            let _private = b.topic("private").subscribe();
            let mut also: Vec<_> =
                (0..10).map(|i| b.topic(&format!("public {i}")).subscribe()).collect();
            until(&a, |stats| stats.topics == 1).await;
            until(&b, |stats| stats.denied == 1 && stats.topics == 10).await;
            a.topic("public 7").publish(&Frame::text("to all who may"));
            assert_eq!(text(&mut also[7]).await, "to all who may");
            b.topic("private").publish(&Frame::text("not there"));
            b.topic("public").publish(&Frame::text("there"));
            assert_eq!(text(&mut near).await, "there");
            until(&b, |stats| stats.sent == 1).await;
            let stats = b.backplane().unwrap();
            assert_eq!((stats.rejected, stats.failures, stats.connected), (1, 0, 1));
        }
    });
}
