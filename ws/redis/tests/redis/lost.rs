//! The server is away, or there and silent.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use throng_runtime::sleep;
use throng_ws::Frame;

use crate::support::{Server, node, rest, run, text, until};

#[test]
fn a_server_killed_and_started_again() {
    let Some(server) = Server::start(&[]) else { return };
    let server = std::sync::Mutex::new(server);
    let server = std::sync::Arc::new(server);
    run(1, move |_| {
        let server = server.clone();
        async move {
            let config = server.lock().unwrap().config("");
            let (a, b) = (node(config.clone()), node(config));
            let (here, there) = (a.topic("news"), b.topic("news"));
            let (mut near, mut far) = (here.subscribe(), there.subscribe());
            let _others: Vec<_> =
                (0..300).map(|i| b.topic(&format!("other {i}")).subscribe()).collect();
            until(&a, |stats| stats.topics == 1).await;
            until(&b, |stats| stats.topics == 301).await;
            here.publish(&Frame::text("before"));
            assert_eq!([text(&mut near).await, text(&mut far).await], ["before", "before"]);

            server.lock().unwrap().kill();
            until(&a, |stats| stats.connected == 0 && stats.failures >= 1).await;
            until(&b, |stats| stats.connected == 0).await;
            // Tried again and again, each time later.
            for n in 1..=5 {
                until(&a, |stats| stats.failures >= n).await;
                let stats = a.backplane().unwrap();
                let longest = (10 << (stats.failures - 1).min(9)).min(100);
                assert!((longest / 2..=longest).contains(&stats.backoff), "{stats:?}");
            }
            // Within the process nothing has changed.
            for i in 0..50 {
                here.publish(&Frame::text(format!("meanwhile {i}")));
                assert_eq!(text(&mut near).await, format!("meanwhile {i}"));
            }
            until(&a, |stats| stats.waiting == 50).await;

            server.lock().unwrap().restart();
            until(&b, |stats| stats.topics == 301).await;
            until(&a, |stats| stats.topics == 1 && stats.sent == 51).await;
            here.publish(&Frame::text("after"));
            assert_eq!(text(&mut near).await, "after");
            // Of what waited it gets what came after its own subscription: the last ones.
            let got = [rest(&mut far).await, vec![]].concat();
            let tail = got.len() - 1;
            assert_eq!(got[tail], "after");
            let expected: Vec<_> = (50 - tail..50).map(|i| format!("meanwhile {i}")).collect();
            assert_eq!(got[..tail], expected);
            let stats = a.backplane().unwrap();
            assert_eq!((stats.connects, stats.dropped, stats.waiting), (2, 0, 0));
            assert_eq!(b.backplane().unwrap().repeated, 0);
        }
    });
}

#[test]
fn a_server_that_hangs_blocks_nothing_and_memory_is_bounded() {
    let Some(server) = Server::start(&[]) else { return };
    let server = std::sync::Arc::new(server);
    run(1, move |_| {
        let server = server.clone();
        async move {
            const MOST: usize = 256 << 10;
            let config = server.config("").max_waiting(MOST).timeout(Duration::from_millis(300));
            let (a, b) = (node(config.clone()), node(config));
            let (here, there) = (a.topic("news"), b.topic("news"));
            let (mut near, mut far) = (here.subscribe(), there.subscribe());
            until(&a, |stats| stats.topics == 1).await;
            until(&b, |stats| stats.topics == 1).await;

            server.signal(Signal::SIGSTOP);
            let long = "x".repeat(1_000);
            let mut late = 0;
            for i in 0..2_000 {
                let begin = Instant::now();
                here.publish(&Frame::text(format!("{i} {long}")));
                assert!(text(&mut near).await.starts_with(&format!("{i} ")));
                late += u32::from(begin.elapsed() > Duration::from_millis(250));
                assert!(a.backplane().unwrap().waiting_bytes <= MOST as u64);
            }
            // Whoever waits for the server does so for 300 ms.
            assert!(late < 3, "{late} of 2,000 have waited");
            let stats = a.backplane().unwrap();
            assert!(stats.dropped > 1_000 && stats.waiting > 100, "{stats:?}");
            // It accepts connections by its kernel, and answers nobody.
            until(&a, |stats| stats.timeouts >= 2).await;
            until(&b, |stats| stats.timeouts >= 2).await;

            server.signal(Signal::SIGCONT);
            until(&b, |stats| stats.topics == 1).await;
            until(&a, |stats| stats.topics == 1 && stats.waiting == 0).await;
            here.publish(&Frame::text("last"));
            assert_eq!(text(&mut near).await, "last");
            let got = rest(&mut far).await;
            assert_eq!(got.last().map(String::as_str), Some("last"));
            // Each once and in order, whatever the server had taken when it was stopped.
            let numbers: Vec<u32> = got[..got.len() - 1]
                .iter()
                .map(|text| text.split(' ').next().unwrap().parse().unwrap())
                .collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_message_too_large_is_not_sent() {
    let Some(server) = Server::start(&[]) else { return };
    let (config, small) = (server.config(""), server.config("").max_message(1_000));
    run(1, move |_| {
        let (config, small) = (config.clone(), small.clone());
        async move {
            let (a, b) = (node(config), node(small));
            let (mut near, mut far) = (a.topic("t").subscribe(), b.topic("t").subscribe());
            until(&a, |stats| stats.topics == 1).await;
            until(&b, |stats| stats.topics == 1).await;
            b.topic("t").publish(&Frame::text("y".repeat(1_001)));
            b.topic("t").publish(&Frame::text("y".repeat(1_000)));
            assert_eq!(text(&mut near).await.len(), 1_000);
            assert_eq!(b.backplane().unwrap().too_large, 1);
            assert_eq!([text(&mut far).await.len(), text(&mut far).await.len()], [1_001, 1_000]);
            // What others send and it does not take costs it its connection.
            a.topic("t").publish(&Frame::text("z".repeat(1_001)));
            until(&b, |stats| stats.malformed == 1 && stats.connects == 2 && stats.topics == 1)
                .await;
            a.topic("t").publish(&Frame::text("on we go"));
            assert_eq!(text(&mut far).await, "on we go");
        }
    });
}
