//! The direct way of plain requests beside hyper's: the same answers, the same requests to servers,
//! one for each of a client's; and what only the direct way has to get right.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{
    LB, World, admin, config, connect, exchange, get, read_head, server, wait_until,
};

/// What servers answer, by path. Where there is no length the connection ends.
const ANSWERS: &[(&str, &str)] = &[
    ("/length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Odd:  a \t b \r\n\r\nhello"),
    ("/empty", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    (
        "/dated",
        "HTTP/1.1 200 Fine\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 2\r\n\r\nok",
    ),
    ("/no-reason", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"),
    ("/unknown", "HTTP/1.1 299 Whatever\r\ncontent-length: 2\r\n\r\nok"),
    (
        "/fields",
        "HTTP/1.1 404 Not Found\r\nconnection: x-drop\r\nx-drop: 1\r\nkeep-alive: timeout=5\r\n\
        te: x\r\nupgrade: h2c\r\nvia: 1.0 other\r\nset-cookie: a=b\r\nset-cookie: c=d\r\n\
        x-request-id: theirs\r\nproxy-connection: close\r\ncontent-length: 2\r\n\r\nno",
    ),
    ("/close", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
    (
        "/chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
    ),
    (
        "/extension",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\ntrailer: x-sum\r\n\r\n\
        3;a=\"b\"\r\nabc\r\n00\r\nx-sum: 17\r\n\r\n",
    ),
    ("/no-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("/bad-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
    ("/cut-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab"),
    ("/cut", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"),
    ("/until-end", "HTTP/1.1 200 OK\r\n\r\nall there is"),
    ("/until-end-empty", "HTTP/1.1 200 OK\r\n\r\n"),
    ("/old", "HTTP/1.0 200 OK\r\n\r\nof old"),
    ("/old-length", "HTTP/1.0 200 OK\r\ncontent-length: 6\r\n\r\nof old"),
    ("/old-kept", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 6\r\n\r\nof old"),
    ("/old-chunks", "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("/none", "HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n"),
    ("/none-length", "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
    ("/unchanged", "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 5\r\n\r\n"),
    ("/equal", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"),
    ("/unequal", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
    ("/bad-length", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
    (
        "/both",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "/gzip-chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    ("/gzip", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc"),
    ("/continue", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "/hints",
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x\r\nx: y\r\ncontent-length: 9\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    ("/switch", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx"),
    ("/junk", "junk\r\n\r\n"),
    ("/half-head", "HTTP/1.1 200 OK\r\ncontent-le"),
    ("/folded", "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok"),
    ("/version", "HTTP/3.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ("/status", "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok"),
    ("/newlines", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
    ("/extra", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"),
    ("/failing", "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\ndown"),
    ("/silent", ""),
];

/// Those of which the connection's end is a part.
const ENDING: &[&str] =
    &["/cut-chunk", "/cut", "/until-end", "/until-end-empty", "/old", "/old-length", "/gzip"];

/// What clients ask for at each of these paths: method, more fields, body.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("GET", "", ""),
    ("HEAD", "", ""),
    (
        "POST",
        "Content-Length:  3 \r\nX-Forwarded-For: 6.6.6.6\r\nforwarded: for=x\r\nCookie: a=b\r\n\
         cookie: c=d\r\nvia: 1.1 a\r\nvia: 1.1 b\r\nConnection: keep-alive, X-Mine\r\nx-mine: 1\r\n\
         keep-alive: 5\r\nproxy-connection: close\r\nUser-Agent:\tme\r\n",
        "abc",
    ),
    ("DELETE", "connection: close\r\ncontent-length: 0\r\n", ""),
];

/// A head with what is by chance left out, and its lines in a fixed order.
fn ordered(head: &str) -> String {
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let mut fields: Vec<String> = lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let name = name.to_ascii_lowercase();
            let by_chance = match name.as_str() {
                "x-request-id" => value.trim().len() == 32,
                "date" => !value.contains("1994"),
                _ => false,
            };
            let value = if by_chance { "..." } else { value.trim() };
            format!("{name}: {value}")
        })
        .collect();
    // Lines of one field stay in their order.
    fields.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    format!("{first}\n{}\n\n", fields.join("\n"))
}

/// What a client has got, answer by answer: ordered heads, bodies without their chunks.
fn understood(mut bytes: &[u8], heads: &[bool]) -> String {
    let (mut text, mut heads) = (String::new(), heads.iter());
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let Some(end) = end else { return text + "(no head)" };
        let head = ordered(&String::from_utf8_lossy(&bytes[..end]));
        bytes = &bytes[end..];
        text += &head;
        let is = |status: &str| head.split(' ').nth(1).is_some_and(|said| said.starts_with(status));
        if is("1") {
            continue;
        }
        let bodiless = *heads.next().unwrap_or(&false) || is("204") || is("304");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if bodiless {
        } else if head.contains("transfer-encoding: chunked") {
            loop {
                let line = bytes.windows(2).position(|two| two == b"\r\n");
                let Some(line) = line else { return text + "(cut)" };
                let size = std::str::from_utf8(&bytes[..line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let all = bytes.len() >= line + 4 + size;
                let data = &bytes[line + 2..bytes.len().min(line + 2 + size)];
                text += &String::from_utf8_lossy(data);
                if !all {
                    return text + "(cut)";
                }
                bytes = &bytes[line + 4 + size..];
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = length.and_then(|length| length.parse::<usize>().ok()) {
            text += &String::from_utf8_lossy(&bytes[..length.min(bytes.len())]);
            if bytes.len() < length {
                return text + "(cut)";
            }
            bytes = &bytes[length..];
        } else {
            text += &String::from_utf8_lossy(bytes);
            bytes = &[];
        }
        text += "(end)\n";
    }
    text
}

/// By name, what a client got and what the server did.
type Table = BTreeMap<String, (String, Vec<String>)>;

fn table(direct: bool, keepalive: usize) -> Option<Table> {
    let mut world = World::new()?;
    let seen = Arc::new(Mutex::new(Vec::<String>::new()));
    let log = seen.clone();
    server(9001, move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            let mut body = Vec::new();
            if head.to_ascii_lowercase().contains("content-length: 3") {
                body.resize(3, 0);
                stream.read_exact(&mut body).unwrap();
            }
            let path = head.split(' ').nth(1).unwrap();
            let text = String::from_utf8_lossy(&body).into_owned();
            log.lock().unwrap().push(ordered(&head) + &text);
            let is = |(name, _): &&(&str, &str)| *name == path;
            let (_, answer) = ANSWERS.iter().find(is).unwrap_or(&ANSWERS[0]);
            let headless = head.starts_with("HEAD");
            let end = answer.find("\r\n\r\n").map_or(answer.len(), |end| end + 4);
            let bare = headless && !path.contains("hints") && !path.contains("continue");
            let _ = stream.write_all(if bare { &answer[..end] } else { answer }.as_bytes());
            // A connection of which the balancer may think that it goes on does.
            let ends = ["/silent", "/half-head", "/close"].contains(&path)
                || !headless && ENDING.contains(&path);
            if ends {
                return;
            }
        }
    });
    let more = format!(
        "eject = {{ failures = 0 }}\nkeepalive = {{ connections = {keepalive} }}\n\
         sticky = {{ cookie = \"lb\" }}\n[http]\ndirect = {direct}\n[network]\nshards = 1\n"
    );
    world.balancer(&config(&[9001], &more));
    let mut table = Table::new();
    for (path, _) in ANSWERS {
        for (method, fields, body) in REQUESTS {
            let first =
                format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}");
            // Behind it another one, answered if the connection goes on.
            let next = "GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let bytes = exchange(LB, (first + next).as_bytes());
            let text = understood(&bytes, &[*method == "HEAD"]);
            let requests = std::mem::take(&mut *seen.lock().unwrap());
            table.insert(format!("{method} {path}"), (text, requests));
        }
    }
    let passed = admin("/metrics");
    let passed = passed.lines().filter(|line| line.starts_with("throng_lb_direct_total"));
    let passed: f64 = passed.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    let requests: usize = table.values().map(|(_, requests)| requests.len()).sum();
    // All of them or none; what a reused connection ends without an answer to is sent again.
    let again = if keepalive > 0 { 3 } else { 0 };
    let wanted = if direct { requests - again } else { 0 };
    assert!(passed == wanted as f64, "{passed} of {requests}");
    Some(table)
}

#[test]
fn both_ways_are_one() {
    // Each in a network of its own.
    let tables = [(false, 0), (true, 0), (true, 32)];
    let tables = tables.map(|(direct, keepalive)| thread::spawn(move || table(direct, keepalive)));
    let [hyper, none, some] = tables.map(|table| table.join().unwrap());
    let (Some(hyper), Some(none), Some(some)) = (hyper, none, some) else { return };
    let mut wrong = Vec::new();
    let mut check = |name: &str, what: &str, here: &str, there: &str| {
        if here != there {
            wrong.push(format!("{name}: {what}:\n{here}\n  but by hyper:\n{there}"));
        }
    };
    for (keepalive, direct) in [(0, none), (32, some)] {
        for (name, (text, requests)) in &hyper {
            if keepalive > 0 && name.ends_with("/silent") {
                continue;
            }
            let (here, seen) = &direct[name];
            // hyper keeps hints to itself.
            let hints = "HTTP/1.1 103 Early Hints\nlink: </a>\n\n";
            let here = match name.ends_with("/hints") {
                true => here.strip_prefix(hints).unwrap_or_else(|| panic!("{here}")),
                false => here,
            };
            check(name, &format!("with {keepalive} kept a client gets"), here, text);
            check(name, "a server gets", &seen.join("\n"), &requests.join("\n"));
            let of_this = requests.iter().filter(|head| !head.contains(" /next ")).count();
            assert_eq!(of_this, 1, "{name}: asked once");
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Whatever arrives at a time, the client gets the same.
#[test]
fn answers_are_understood_in_every_cut() {
    let Some(mut world) = World::new() else { return };
    const CUT: [&str; 4] = ["/length", "/extension", "/hints", "/until-end"];
    server(9001, move |mut stream| {
        stream.set_nodelay(true).unwrap();
        loop {
            let head = read_head(&mut stream);
            let Some(path) = head.split(' ').nth(1) else { return };
            let (name, at) = path.rsplit_once('/').unwrap();
            let (_, answer) = ANSWERS.iter().find(|(of, _)| *of == name).unwrap();
            let (one, two) = answer.as_bytes().split_at(at.parse().unwrap());
            stream.write_all(one).unwrap();
            thread::sleep(Duration::from_millis(3));
            stream.write_all(two).unwrap();
            if name == "/until-end" {
                return;
            }
        }
    });
    world.balancer(&config(&[9001], ""));
    let clients = CUT.map(|name| {
        thread::spawn(move || {
            let (_, answer) = ANSWERS.iter().find(|(of, _)| *of == name).unwrap();
            let mut first = None;
            for at in 0..=answer.len() {
                let request =
                    format!("GET {name}/{at} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
                let text = understood(&exchange(LB, request.as_bytes()), &[]);
                assert!(text.ends_with("(end)\n"), "{name} {at}: {text}");
                let first = first.get_or_insert_with(|| text.clone());
                assert_eq!(text, *first, "{name} {at}");
            }
        })
    });
    clients.into_iter().for_each(|client| client.join().unwrap());
}

/// A client that does not read has its server wait, and the balancer holds a few buffers.
#[test]
fn a_slow_clients_chunks_wait_at_their_server() {
    let Some(mut world) = World::new() else { return };
    // More than the host's sockets hold.
    const CHUNKS: u64 = 500;
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    server(9001, move |mut stream| {
        read_head(&mut stream);
        let chunk = [b"10000\r\n", &[b'x'; 65_536][..], b"\r\n"].concat();
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..CHUNKS {
            stream.write_all(&chunk).unwrap();
            count.fetch_add(1, Relaxed);
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let balancer = world.balancer(&config(&[9001], ""));
    get("/warm");
    sent.store(0, Relaxed);
    let before = world.memory(balancer)[0];
    let mut client = connect(LB);
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut still = (0, Instant::now());
    wait_until("the server waits", || {
        let now = sent.load(Relaxed);
        if now != still.0 {
            still = (now, Instant::now());
        }
        still.0 > 0 && still.1.elapsed() > Duration::from_millis(300)
    });
    assert!(still.0 < CHUNKS, "all of it was taken from the server");
    let grown = world.memory(balancer)[0].saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more for a client that does not read");
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"xx\r\n0\r\n\r\n"), "{}", bytes.len());
    // Few bytes are about chunks.
    let more = bytes.len() as u64 - CHUNKS * 65_536;
    assert!((1..200_000).contains(&more), "{more}");
}

/// A connection that is closed when a request is on its way costs who may ask again nothing, and
/// nobody is asked twice who has not to be.
#[test]
fn a_stale_connection_is_noticed_or_replaced() {
    let Some(mut world) = World::new() else { return };
    let (asked, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, ended) = (asked.clone(), left.clone());
    server(9001, move |mut stream| {
        let head = read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        if head.starts_with("GET /leaves") {
            // Nobody asks, and the end is noticed all the same.
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
            ended.fetch_add(1, Relaxed);
        } else if !head.is_empty() {
            // The second request is read, and not answered.
            let head = read_head(&mut stream);
            count.fetch_add(usize::from(!head.is_empty()), Relaxed);
        }
    });
    // No other server could be asked instead, nor would one be.
    world.balancer(&format!(
        "{}[network]\nshards = 1\n",
        config(&[9001], "retry = { servers = 0 }")
    ));
    assert_eq!(get("/").text(), "ok");
    assert_eq!(get("/").text(), "ok", "on another connection");
    assert_eq!(asked.load(Relaxed), 1, "after the first one was of no use");
    let post = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let answer = exchange(LB, post.as_bytes());
    assert!(answer.starts_with(b"HTTP/1.1 502 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(asked.load(Relaxed), 2);
    let begin = Instant::now();
    assert_eq!(get("/leaves").text(), "ok");
    wait_until("the balancer notices an end", || left.load(Relaxed) == 1);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(get("/").text(), "ok");
}

/// A client that leaves takes its request with it.
#[test]
fn who_leaves_is_not_waited_for() {
    let Some(mut world) = World::new() else { return };
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    server(9001, move |mut stream| {
        read_head(&mut stream);
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        count.fetch_add(1, Relaxed);
    });
    world.balancer(&config(&[9001], ""));
    let mut client: TcpStream = connect(LB);
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    drop(client);
    wait_until("the server's connection ends", || ended.load(Relaxed) == 1);
}
