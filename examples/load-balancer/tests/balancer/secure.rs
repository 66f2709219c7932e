//! TLS and HTTP/2 on both sides: curl in front, nginx behind.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::world::{LB, World, admin, config, connect, read_head, server, wait_until};

pub(crate) const SECURE: &str = "127.0.0.1:8443";

const SITE: &str = "ssl_certificate app.pem; ssl_certificate_key app.key;
    location / { return 200 \"$server_port $server_protocol $http_host $http_x_forwarded_proto $http_cookie $http_via\"; }
    location /file { } location /h2/put { dav_methods PUT; }";

/// Writes a certificate that is its own root.
pub(crate) fn certificate(world: &World, name: &str, host: &str) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    world.write(&format!("{name}.pem"), made.cert.pem());
    world.write(&format!("{name}.key"), made.signing_key.serialize_pem());
}

/// What curl gets for these arguments; `None`, said, without a curl.
pub(crate) fn curl(world: &World, arguments: &[&str]) -> Option<String> {
    let there = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        println!("skipped: curl is not installed");
        return None;
    }
    let root = world.path("front.pem");
    let output = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "60", "-w", " %{http_version} %{http_code}"])
        .args(["--resolve", "front.example:8443:127.0.0.1", "--cacert"])
        .arg(root)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(text(output.stdout) + &text(output.stderr))
}

/// The table of a listener with TLS.
pub(crate) fn secure(world: &World) -> String {
    let file = |name: &str| world.path(name).display().to_string();
    let (chain, key) = (file("front.pem"), file("front.key"));
    format!(
        "[[listener]]\naddress = \"{SECURE}\"\n\
         certificate = [{{ chain = \"{chain}\", key = \"{key}\" }}]\n"
    )
}

/// What holds in HTTP/1.1 holds for clients of HTTP/2 and TLS: a response has one length, and a
/// client that stops in the middle of its body has no server ejected.
#[test]
fn http2_and_tls_are_no_way_around() {
    let Some(mut world) = World::new() else { return };
    certificate(&world, "front", "front.example");
    server(9001, |mut stream| {
        let head = read_head(&mut stream);
        let codings = match head.split(' ').nth(1) {
            Some("/both") => "content-length: 3\r\ntransfer-encoding: chunked",
            Some("/gzip") => "transfer-encoding: gzip, chunked",
            _ => {
                let _ = stream.read_to_end(&mut Vec::new());
                return;
            }
        };
        let answer = format!("HTTP/1.1 200 OK\r\n{codings}\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    });
    let more = "timeout = { response = \"200ms\" }\n\
        eject = { failures = 1, time = \"1h\", max_time = \"1h\" }";
    world.balancer(&(secure(&world) + &config(&[9001], more)));
    for (version, number) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let ask = |more: &[&str], path: &str| {
            let page = format!("https://front.example:8443{path}");
            curl(&world, &[&[version, &page][..], more].concat())
        };
        let Some(both) = ask(&[], "/both") else { return };
        assert_eq!(both, format!("abcdef {number} 200"));
        let gzip = ask(&["-o", "/dev/null"], "/gzip").unwrap();
        assert_eq!(gzip, format!(" {number} 502"));
        // curl does not stop in the middle of a body by HTTP/2.
        if version == "--http1.1" {
            let more = ["-o", "/dev/null", "-H", "content-length: 10", "-d", "half"];
            let slow = ask(&more, "/slow").unwrap();
            assert!(slow.starts_with(" 1.1 408"), "{slow}");
        } else {
            let slow = slow_over_http2();
            assert!(slow.contains("408 Request Timeout: "), "{slow:?}");
        }
        let both = ask(&[], "/both").unwrap();
        assert_eq!(both, format!("abcdef {number} 200"), "nobody is ejected");
    }
}

/// What comes for a request by HTTP/2 whose body does not go on, up to why.
fn slow_over_http2() -> String {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let head = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        [&head[..], payload].concat()
    };
    // RFC 7541 6.2.2
    let field = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let fields = [(":method", "PUT"), (":scheme", "http"), (":path", "/slow"), (":authority", "a")];
    let fields = fields.map(|(name, value)| field(name, value)).concat();
    let mut stream = connect(LB);
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, b""),
        frame(1, 4, 1, &fields),
        frame(0, 0, 1, b"half"),
    ];
    stream.write_all(&begin.concat()).unwrap();
    let (mut seen, mut buf) = (Vec::new(), [0; 1024]);
    loop {
        let n = stream.read(&mut buf).unwrap();
        seen.extend_from_slice(&buf[..n]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if n == 0 || text.contains("408 Request Timeout: ") {
            return text;
        }
    }
}

#[test]
fn connections_are_passed_on_by_name_or_as_they_are() {
    const PASSING: &str = "127.0.0.1:8444";
    let Some(mut world) = World::new() else { return };
    certificate(&world, "front", "front.example");
    certificate(&world, "app", "app.internal");
    let (port, site) = ([(9001, "ssl http2")], SITE);
    let Some(()) = world.nginx_with(&port, site) else { return };
    let front = site.replace("app.", "front.");
    let Some(()) = world.nginx_with(&[(9002, "ssl http2")], &front) else { return };
    let Some(()) = world.nginx_with(&[(9003, "")], &front) else { return };
    // The first of the plain ones is not there.
    let passing = format!(
        "[[tcp]]\naddress = \"{PASSING}\"\nupstream = \"plain\"\n\
         sni = [{{ host = [\"*.example\"], upstream = \"dead\" }}, {{ host = [\"front.example\"], upstream = \"front\" }}]\n\
         [upstream.front]\nserver = [{{ address = \"127.0.0.1:9002\" }}]\n\
         [upstream.dead]\nserver = [{{ address = \"127.0.0.1:9009\" }}]\n\
         [upstream.plain]\nserver = [{{ address = \"127.0.0.1:9009\" }}, {{ address = \"127.0.0.1:9003\" }}]\n"
    );
    world.balancer(&(passing + &config(&[9003], "")));
    let bytes = vec![b'x'; 2_000_000];
    world.write("file", &bytes);
    let resolve =
        ["--resolve", "front.example:8444:127.0.0.1", "--resolve", "a.example:8444:127.0.0.1"];
    let ask = |more: &[&str], url: &str| curl(&world, &[&resolve[..], more, &[url]].concat());
    let Some(answer) = ask(&[], "https://front.example:8444/") else { return };
    assert_eq!(answer, "9002 HTTP/2.0 front.example:8444    2 200");
    let down = world.path("down").display().to_string();
    let file = ask(&["-o", &down], "https://front.example:8444/file").unwrap();
    assert_eq!(file, " 2 200");
    assert!(std::fs::read(&down).unwrap() == bytes);
    let dead = ask(&["-o", "/dev/null"], "https://a.example:8444/").unwrap();
    assert!(dead.starts_with(" 0 000"), "{dead}");
    for _ in 0..4 {
        let plain = ask(&[], &format!("http://{PASSING}/")).unwrap();
        assert_eq!(plain, format!("9003 HTTP/1.1 {PASSING}    1.1 200"));
    }
    let passed: f64 = admin("/metrics")
        .lines()
        .filter(|line| line.starts_with("throng_lb_passed_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(passed, 6.0);
}

#[test]
fn tls_and_http2_on_both_sides() {
    let Some(mut world) = World::new() else { return };
    certificate(&world, "front", "front.example");
    certificate(&world, "app", "app.internal");
    let ports = [(9001, "ssl http2"), (9002, "http2"), (9003, "ssl")];
    let Some(()) = world.nginx_with(&ports, SITE) else { return };
    let folder = world.path("");
    let file = |name: &str| folder.join(name).display().to_string();
    let tls =
        |name: &str| format!("tls = {{ roots = \"{}\", name = \"{name}\" }}\n", file("app.pem"));
    let upstream = |name: &str, port: u16, more: &str| {
        let health =
            "health = { check = \"http\", path = \"/health\", interval = \"100ms\", fall = 2 }\n";
        let more = format!("{more}{}", if name == "wrong" { "" } else { health });
        format!(
            "[[route]]\npath = \"/{name}\"\nupstream = \"{name}\"\n[upstream.{name}]\n\
             server = [{{ address = \"127.0.0.1:{port}\" }}]\n{more}"
        )
    };
    let config = [
        secure(&world),
        config(&[9009], ""),
        upstream("h2", 9001, &(tls("app.internal") + "protocol = \"http2\"\n")),
        upstream("h1", 9003, &tls("app.internal")),
        upstream("wrong", 9003, &tls("other.internal")),
        upstream("clear", 9002, "protocol = \"http2\"\n"),
    ]
    .concat();
    let balancer = world.balancer(&config);
    let page = "https://front.example:8443";
    let cookies = ["-H", "cookie: a=1", "-H", "cookie: b=2"];
    for (path, version, wanted) in [
        ("/h2", "--http2", "9001 HTTP/2.0 front.example:8443 https a=1; b=2 2.0 throng-lb 2 200"),
        ("/h1", "--http2", "9003 HTTP/1.1 front.example:8443 https a=1; b=2 2.0 throng-lb 2 200"),
        (
            "/h2",
            "--http1.1",
            "9001 HTTP/2.0 front.example:8443 https a=1; b=2 1.1 throng-lb 1.1 200",
        ),
        (
            "/clear",
            "--http2",
            "9002 HTTP/2.0 front.example:8443 https a=1; b=2 2.0 throng-lb 2 200",
        ),
    ] {
        let address = format!("{page}{path}");
        let Some(answer) = curl(&world, &[&[version, &address][..], &cookies].concat()) else {
            return;
        };
        assert_eq!(answer, wanted, "{path} {version}");
    }
    let clear = format!("http://{LB}/h1");
    let answer = curl(&world, &["--http2-prior-knowledge", &clear]).unwrap();
    assert_eq!(answer, format!("9003 HTTP/1.1 {LB} http  2.0 throng-lb 2 200"));
    let wrong = curl(&world, &["-o", "/dev/null", &format!("{page}/wrong")]).unwrap();
    assert_eq!(wrong, " 2 502", "a certificate for another name");
    let refused = curl(&world, &["-o", "/dev/null", "-X", "TRACE", &format!("{page}/h1")]).unwrap();
    assert_eq!(refused, " 2 405");
    // A body both ways, HTTP/2 all along.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    world.write("up", &bytes);
    std::fs::create_dir_all(world.path("h2/put")).unwrap();
    let up = curl(&world, &["-T", &file("up"), &format!("{page}/h2/put/x")]).unwrap();
    assert_eq!(up, " 2 201");
    assert!(std::fs::read(world.path("h2/put/x")).unwrap() == bytes);
    let down = curl(&world, &["-o", &file("down"), &format!("{page}/h2/put/x")]).unwrap();
    assert_eq!(down, " 2 200");
    assert!(std::fs::read(world.path("down")).unwrap() == bytes);
    // The checks speak what requests do.
    let metrics = admin("/metrics");
    let up = |upstream: &str, port: u16| {
        let labels = format!("upstream=\"{upstream}\",server=\"127.0.0.1:{port}\"}} 1");
        metrics
            .lines()
            .any(|line| line.starts_with("throng_lb_server_up{") && line.ends_with(&labels))
    };
    assert!(up("h2", 9001) && up("h1", 9003) && up("clear", 9002), "{metrics}");
    // Another certificate; and one that does not fit its key, which changes nothing.
    certificate(&world, "front", "front.example");
    let untrusted = curl(&world, &["-o", "/dev/null", &format!("{page}/h1")]).unwrap();
    assert!(untrusted.contains("certificate"), "{untrusted}");
    world.signal(balancer, Signal::SIGHUP);
    let reloads = |wanted: &str| admin("/state.json").contains(wanted);
    wait_until("the reload", || reloads("\"reloads\":1,\"reloads_refused\":0"));
    let renewed = || curl(&world, &["-o", "/dev/null", &format!("{page}/h1")]).unwrap();
    assert_eq!(renewed(), " 2 200");
    let key = world.read("app.key");
    let right = world.read("front.key");
    world.write("front.key", key);
    world.signal(balancer, Signal::SIGHUP);
    wait_until("the refusal", || reloads("\"reloads\":1,\"reloads_refused\":1"));
    assert_eq!(renewed(), " 2 200");
    world.write("front.key", right);
}
