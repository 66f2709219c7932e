//! Messages on their way: to the right server, with the right fields, whole.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::thread;

use tungstenite::Message;

use crate::world::Answer;
use crate::world::{LB, World, ask, config, connect, exchange, get, read_head, server};

const SITE: &str = "location / { return 200 \"$server_port $request_method $request_uri\"; }
    location /fields { return 200 \"$http_host|$http_x_forwarded_for|$http_x_forwarded_proto|$http_x_forwarded_host|$http_via|$http_x_request_id|$http_connection|$http_x_drop|$http_upgrade\"; }
    location /file { } location /put { dav_methods PUT; }";

#[test]
fn servers_take_turns_and_get_what_a_proxy_adds() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001, 9002, 9003], SITE) else { return };
    // One shard, so that the turns are one row.
    let config = format!("{}[network]\nshards = 1\n", config(&[9001, 9002, 9003], ""));
    world.balancer(&config);
    let answers: Vec<String> = (0..6).map(|n| get(&format!("/a?n={n}")).text()).collect();
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer[4..], format!(" GET /a?n={n}"));
        assert_eq!(answer[..4], answers[(n + 3) % 6][..4], "{answers:?}");
    }
    assert!(
        answers[0][..4] != answers[1][..4] && answers[1][..4] != answers[2][..4],
        "{answers:?}"
    );
    let answer = ask(
        "GET http://b.example:80/fields HTTP/1.1\r\nhost: B.example\r\nx-forwarded-for: 6.6.6.6\r\n\
         connection: close, x-drop\r\nx-drop: 1\r\nupgrade: h2c\r\nvia: 1.0 other\r\n\r\n",
    );
    let id = answer.field("x-request-id").unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(
        answer.text(),
        format!("b.example:80|127.0.0.1|http|b.example:80|1.0 other, 1.1 throng-lb|{id}|||")
    );
    assert_eq!(answer.field("via").as_deref(), Some("1.1 throng-lb"));
    let head = exchange(LB, b"HEAD /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let head = Answer::parse(&head).unwrap();
    assert_eq!((head.status, head.field("content-length").as_deref()), (200, Some("12")));
    assert!(head.body.is_empty());
    let here =
        ask("OPTIONS /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\nmax-forwards: 0\r\n\r\n");
    assert_eq!((here.status, here.text().as_str()), (200, ""), "it goes no further");
    let old = ask("GET /fields HTTP/1.0\r\n\r\n");
    assert!(old.text().starts_with("127.0.0.1:900"), "HTTP/1.0 has no host: {}", old.text());
}

#[test]
fn bodies_pass_whole_and_within_their_limit() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    world.write("file", &bytes);
    world.balancer(&format!("{}[http]\nmax_body = \"4m\"\n", config(&[9001], "")));
    assert!(get("/file").body == bytes, "down");
    let sized = |path: &str, size: usize, expect: &str| {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{expect}content-length: {size}\r\n\r\n"
        );
        [head.as_bytes(), &bytes[..size.min(bytes.len())]].concat()
    };
    let chunked = |path: &str, chunks: usize| {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let chunk = [b"f4240\r\n", &bytes[..1_000_000], b"\r\n"].concat();
        [head.as_bytes(), &chunk.repeat(chunks), b"0\r\n\r\n"].concat()
    };
    let put = |request: Vec<u8>| Answer::parse(&exchange(LB, &request)).unwrap();
    std::fs::create_dir(world.path("put")).unwrap();
    assert_eq!(put(sized("/put/sized", bytes.len(), "")).status, 201);
    assert!(std::fs::read(world.path("put/sized")).unwrap() == bytes, "up, with a length");
    assert_eq!(put(sized("/put/asked", bytes.len(), "expect: 100-continue\r\n")).status, 201);
    assert!(std::fs::read(world.path("put/asked")).unwrap() == bytes, "up, asked for");
    assert_eq!(put(chunked("/put/chunked", 3)).status, 201);
    let wanted = bytes[..1_000_000].repeat(3);
    assert!(std::fs::read(world.path("put/chunked")).unwrap() == wanted, "up, in chunks");
    assert_eq!(put(sized("/put/large", 5 << 20, "")).status, 413);
    assert_eq!(put(chunked("/put/large", 5)).status, 413);
    assert!(!world.path("put/large").exists());
}

/// What nginx does not do: trailers, and a response that comes in pieces.
#[test]
fn trailers_and_pieces_pass() {
    let Some(mut world) = World::new() else { return };
    server(9001, |mut stream| {
        let head = read_head(&mut stream);
        assert!(head.contains("te: trailers\r\n"), "{head}");
        let piece = |stream: &mut std::net::TcpStream, text: &str| {
            stream.write_all(text.as_bytes()).unwrap();
        };
        piece(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n",
        );
        piece(&mut stream, "3\r\nabc\r\n");
        // The second piece comes when the first has arrived.
        assert!(read_head(&mut stream).ends_with("x\r\n0\r\n\r\n"));
        piece(&mut stream, "3\r\ndef\r\n0\r\nx-sum: 17\r\n\r\n");
    });
    world.balancer(&config(&[9001], ""));
    let mut stream = connect(LB);
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close, te\r\n\
              transfer-encoding: chunked\r\n\r\n",
        )
        .unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"3\r\nabc\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    stream.write_all(b"1\r\nx\r\n0\r\n\r\n").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "3\r\ndef\r\n0\r\nx-sum: 17\r\n\r\n");
}

#[test]
fn web_sockets_pass() {
    let Some(mut world) = World::new() else { return };
    server(9001, |stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_close() || socket.send(message).is_err() {
                break;
            }
        }
    });
    world.balancer(&config(&[9001], ""));
    let sockets: Vec<_> = (0..4)
        .map(|n| {
            let (mut socket, response) =
                tungstenite::client(format!("ws://{LB}/{n}"), connect(LB)).unwrap();
            assert_eq!(response.status(), 101);
            thread::spawn(move || {
                for size in [1, 125, 70_000, 1_000_000] {
                    let message = Message::binary(vec![n; size]);
                    socket.send(message.clone()).unwrap();
                    assert!(socket.read().unwrap() == message, "{size}");
                }
                socket.close(None).unwrap();
                while socket.read().is_ok() {}
            })
        })
        .collect();
    sockets.into_iter().for_each(|socket| socket.join().unwrap());
}

#[test]
fn routes_and_sticky_cookies_and_hashes_lead_to_servers() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001, 9002, 9003], SITE) else { return };
    let more = "sticky = { cookie = \"lb\" }\n\
        [upstream.hashed]\nserver = [{ address = \"127.0.0.1:9001\" }, { address = \"127.0.0.1:9002\" }]\n\
        policy = \"maglev\"\nhash_by = \"header:x-user\"\n\
        [[route]]\nhost = [\"*.hash.example\"]\nupstream = \"hashed\"\n\
        [upstream.api]\nserver = [{ address = \"127.0.0.1:9003\" }]\n\
        [[route]]\npath = \"/old\"\nredirect = { to = \"https://{host}/new{uri}\", status = 301 }\n\
        [[route]]\npath = \"/few\"\nupstream = \"api\"\nrate_limit = { requests = 1, per = \"1h\", burst = 2 }\n\
        [[route]]\npath = \"/fields\"\nupstream = \"api\"\n\
        request_header = { remove = [\"x-forwarded-host\"], set = [{ name = \"x-drop\", value = \"edge\" }] }\n\
        response_header = { remove = [\"server\"], set = [{ name = \"x-edge\", value = \"1\" }] }\n\
        [[route]]\npath = \"/api\"\nheader = [{ name = \"x-v\", value = \"2\" }]\nupstream = \"api\"\n";
    world.balancer(&config(&[9001, 9002], more));
    let with = |path: &str, fields: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{fields}connection: close\r\n\r\n");
        let answer = ask(&request);
        (answer.text()[..4].to_owned(), answer.field("set-cookie"))
    };
    for path in ["/api", "/api/x", "/%61pi/x", "/x/../api"] {
        assert_eq!(with(path, "host: a\r\nx-v: 2\r\n"), ("9003".into(), None), "{path}");
    }
    // Two at once on each of two shards, and the next in an hour.
    let few: Vec<Answer> = (0..40).map(|_| get("/few")).collect();
    let passed = few.iter().filter(|answer| answer.status == 200).count();
    assert!((2..=4).contains(&passed), "{passed}");
    let refused = few.last().unwrap();
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((3_500..=3_600).contains(&wait), "{wait}");
    let moved = ask("GET /old/x?y=1 HTTP/1.1\r\nhost: a:8080\r\nconnection: close\r\n\r\n");
    assert_eq!((moved.status, moved.text().as_str()), (301, ""));
    assert_eq!(moved.field("location").as_deref(), Some("https://a/new/old/x?y=1"));
    let edited = ask("GET /fields HTTP/1.1\r\nhost: a\r\nx-drop: 1\r\nconnection: close\r\n\r\n");
    assert!(edited.text().starts_with("a|127.0.0.1|http||1.1 throng-lb|"), "{}", edited.text());
    assert!(edited.text().ends_with("||edge|"), "{}", edited.text());
    assert_eq!((edited.field("server"), edited.field("x-edge").as_deref()), (None, Some("1")));
    assert_ne!(with("/apis", "host: a\r\nx-v: 2\r\n").0, "9003");
    let (first, cookie) = with("/", "host: a\r\n");
    let cookie = cookie.unwrap();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    for _ in 0..6 {
        let fields = format!("host: a\r\ncookie: x=1; {pair}\r\n");
        assert_eq!(with("/", &fields), (first.clone(), None));
    }
    let mut of_user = BTreeMap::new();
    for request in 0..60 {
        let user = request % 20;
        let fields = format!("host: x.hash.example\r\nx-user: {user}\r\n");
        let server = with("/", &fields).0;
        let usual = of_user.entry(user).or_insert_with(|| server.clone());
        assert_eq!(*usual, server, "user {user}");
    }
    let on_first = of_user.values().filter(|server| *server == "9001").count();
    assert!((4..=16).contains(&on_first), "{of_user:?}");
}
