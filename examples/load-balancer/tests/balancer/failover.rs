//! Servers that are not there, hang, or have enough.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{
    LB, World, admin, ask, config, connect, exchange, get, read_head, server, wait_until,
};

const SITE: &str = "location / { return 200 $server_port; } location /broken { return 500; }";

/// Nobody listens at 9009.
#[test]
fn a_dead_server_costs_no_request_and_is_ejected() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    world.balancer(&config(
        &[9001, 9009],
        "eject = { failures = 3, time = \"1h\", max_time = \"1h\" }",
    ));
    for request in 0..40 {
        let method = ["GET", "POST"][request % 2];
        let text = format!(
            "{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"
        );
        let answer = ask(&text);
        assert_eq!((answer.status, answer.text().as_str()), (200, "9001"), "{method}");
    }
    let metrics = admin("/metrics");
    let sum = |prefix: &str, part: &str| -> f64 {
        let lines = metrics.lines().filter(|line| line.starts_with(prefix) && line.contains(part));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!(sum("throng_lb_server_failures_total{", ":9009"), 3.0, "{metrics}");
    assert_eq!(sum("throng_lb_retries_total{", ""), 3.0, "{metrics}");
    assert_eq!(sum("throng_lb_server_responses_total{", ":9001\",class=\"2xx"), 40.0, "{metrics}");
    assert!(sum("throng_lb_server_ejected{", ":9009") >= 1.0, "{metrics}");
    assert_eq!(sum("throng_lb_server_ejected{", ":9001"), 0.0, "{metrics}");
}

/// A server that takes requests and never answers, under load: who may be asked again is, and
/// nobody else waits for it for long.
#[test]
fn a_hung_server_costs_no_request_that_may_be_repeated() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    server(9002, |mut stream| {
        read_head(&mut stream);
        thread::sleep(Duration::from_secs(60));
    });
    let more = "timeout = { response = \"200ms\" }\nretry = { on = [\"connect\", \"closed\", \"timeout\"] }\n\
        eject = { failures = 4, time = \"1h\", max_time = \"1h\" }";
    world.balancer(&config(&[9001, 9002], more));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            thread::spawn(move || {
                let ask = |n: usize| {
                    let method = if (client + n).is_multiple_of(4) { "POST" } else { "GET" };
                    let request = format!(
                        "{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let answer = exchange(LB, request.as_bytes());
                    (method, answer.starts_with(b"HTTP/1.1 200"))
                };
                (0..25).map(ask).collect::<Vec<_>>()
            })
        })
        .collect();
    let answers: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(answers.iter().all(|(method, fine)| *method == "POST" || *fine), "{answers:?}");
    // Four failures eject, and one request of each client may have been on its way then.
    let failed = answers.iter().filter(|(_, fine)| !fine).count();
    assert!(failed <= 8, "{failed}");
    assert!(admin("/metrics").contains("server=\"127.0.0.1:9002\"} 1\n"), "ejected");
}

#[test]
fn without_a_server_the_answer_says_why() {
    let Some(mut world) = World::new() else { return };
    // Takes requests and says nothing; or half of what it announced.
    server(9001, |mut stream| {
        let head = read_head(&mut stream);
        if head.starts_with("GET /half") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").unwrap();
        } else if head.starts_with("GET /junk") {
            stream.write_all(b"junk\r\n\r\n").unwrap();
        } else if head.starts_with("GET /hang") {
            thread::sleep(Duration::from_secs(30));
        }
    });
    let more = "timeout = { response = \"300ms\" }\neject = { failures = 0 }\n\
        [upstream.dead]\nserver = [{ address = \"127.0.0.1:9009\" }]\neject = { failures = 0 }\n\
        [[route]]\npath = \"/dead\"\nupstream = \"dead\"\n";
    let route = "[[route]]\nhost = [\"a.example\"]\n";
    world.balancer(&config(&[9001], more).replacen("[[route]]\n", route, 1));
    assert_eq!(get("/hang").status, 504);
    assert_eq!(get("/closes").status, 502);
    assert_eq!(get("/junk").status, 502);
    let dead = ask("GET /dead HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n");
    assert_eq!(dead.status, 502);
    let none = ask("GET /none HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n");
    assert_eq!(none.status, 404);
    // What is cut on one side is cut on the other: never taken to be whole.
    let half = get("/half");
    assert_eq!((half.status, half.text().as_str()), (200, "half"));
    assert_eq!(half.field("content-length").as_deref(), Some("10"));
}

/// A client that stops in the middle of its body has the server wait for it: it is told so, and
/// the server is not ejected for it.
#[test]
fn a_slow_client_is_not_the_servers_fault() {
    let Some(mut world) = World::new() else { return };
    server(9001, |mut stream| {
        if read_head(&mut stream).starts_with("POST") {
            let _ = stream.read_to_end(&mut Vec::new());
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        }
    });
    let more = "timeout = { response = \"200ms\" }\n\
        eject = { failures = 1, time = \"1h\", max_time = \"1h\" }";
    world.balancer(&config(&[9001], more));
    let half = ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf");
    assert_eq!(half.status, 408);
    assert_eq!(get("/").status, 200);
    let whole =
        ask("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(whole.status, 504);
    assert_eq!(get("/").status, 503, "that was the server's fault");
}

#[test]
fn active_checks_see_a_server_go_and_come_back() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    let Some(()) = world.nginx(&[9002], SITE) else { return };
    let second = world.last_child();
    let health = "health = { check = \"http\", body = \"900\", interval = \"50ms\", timeout = \"5s\", rise = 2, fall = 2 }\n\
        eject = { failures = 0 }";
    world.balancer(&config(&[9001, 9002], health));
    let up = |port: &str, up: u8| {
        let wanted = format!("server=\"127.0.0.1:{port}\"}} {up}");
        let metrics = admin("/metrics");
        let mut lines = metrics.lines().filter(|line| line.starts_with("throng_lb_server_up{"));
        lines.any(|line| line.ends_with(&wanted))
    };
    assert!(up("9001", 1) && up("9002", 1));
    world.kill(second);
    wait_until("it is seen to be down", || up("9002", 0));
    for _ in 0..10 {
        assert_eq!(get("/").text(), "9001");
    }
    let Some(()) = world.nginx(&[9002], SITE) else { return };
    wait_until("it is seen to be back", || up("9002", 1));
    let mut seen: Vec<String> = (0..8).map(|_| get("/").text()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["9001", "9002"]);
}

/// One request at a time for each of two shards; the rest waits, in bounds.
#[test]
fn requests_wait_for_a_busy_server() {
    let Some(mut world) = World::new() else { return };
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counted = (now.clone(), most.clone());
    server(9001, move |mut stream| {
        while read_head(&mut stream).ends_with("\r\n\r\n") {
            most_of(&counted.1, counted.0.fetch_add(1, Ordering::SeqCst) + 1);
            thread::sleep(Duration::from_millis(20));
            counted.0.fetch_sub(1, Ordering::SeqCst);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    let config = format!(
        "{}[network]\nshards = 1\n",
        config(&[9001], "queue = { length = 6, timeout = \"20s\" }")
    )
    .replace("9001\" }", "9001\", max_requests = 2 }");
    world.balancer(&config);
    let begin = Instant::now();
    let asked: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(|| {
                exchange(LB, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                    .starts_with(b"HTTP/1.1 200")
            })
        })
        .collect();
    assert!(asked.into_iter().all(|asked| asked.join().unwrap()));
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert!(begin.elapsed() >= Duration::from_millis(80), "four rounds of 20 ms");
    assert_eq!(now.load(Ordering::SeqCst), 0);
}

fn most_of(most: &AtomicU32, now: u32) {
    most.fetch_max(now, Ordering::SeqCst);
}

/// Who waits for a place is served as soon as another server is well, not when somebody leaves.
#[test]
fn who_waits_is_served_by_a_server_that_comes_back() {
    let Some(mut world) = World::new() else { return };
    server(9001, |mut stream| {
        let head = read_head(&mut stream);
        if !head.is_empty() {
            // Never answered.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let servers = "[{ address = \"127.0.0.1:9001\", max_requests = 1 }, \
        { address = \"127.0.0.1:9002\", max_requests = 1 }]";
    let more = "health = { check = \"tcp\", interval = \"100ms\", fall = 1 }\n\
        queue = { timeout = \"50s\" }\n[network]\nshards = 1\n";
    let config = config(&[], more).replace("server = []", &format!("server = {servers}"));
    world.balancer(&config);
    wait_until("the check", || admin("/state.json").contains("\"up\":false"));
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut first = connect(LB);
    first.write_all(request).unwrap();
    wait_until("the first", || admin("/state.json").contains("\"in_flight\":1"));
    let mut second = connect(LB);
    second.write_all(request).unwrap();
    wait_until("the second", || admin("/state.json").contains("\"waiting\":1"));
    server(9002, |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback");
    });
    let mut answer = String::new();
    second.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("back"), "{answer}");
}
