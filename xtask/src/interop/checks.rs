//! What the kernel's side asks of our server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::counters::Counters;
use super::inside::Run;
use super::link::{KERNEL_V4, KERNEL_V6, Link, SERVER_V4, SERVER_V6};
use crate::process::{Background, Cmd};

/// What a check found: a word for the report, or what is wrong.
pub(crate) type Verdict = Result<String, String>;

/// Bytes of the large bodies.
const LARGE: usize = 100_000_000;
/// Seed of the large bodies' pattern, the server's own.
const SEED: u64 = 0x7468_726f_6e67;
/// Connections by which the shards' shares are judged, and the least share of one of two.
/// Flows fall on two shards like coins: 400 give a share of 0.5 with a standard deviation
/// of 0.025, so 0.35 is six of them away.
const FLOWS: usize = 400;
const LEAST_SHARE: f64 = 0.35;

/// Both families: name, host for a URL, address.
fn families() -> [(&'static str, String, &'static str); 2] {
    [("IPv4", SERVER_V4.to_owned(), SERVER_V4), ("IPv6", format!("[{SERVER_V6}]"), SERVER_V6)]
}

const VERSIONS: [(&str, &str); 2] =
    [("HTTP/1.1", "--http1.1"), ("HTTP/2", "--http2-prior-knowledge")];

/// Everything but large bodies and load. Every check is bounded in time.
pub(crate) fn functional(run: &mut Run) {
    basics(run);
    run.check("websockets", |run| {
        let urls = [
            format!("ws://{SERVER_V4}/ws"),
            format!("ws://[{SERVER_V6}]/ws"),
            format!("ws://{SERVER_V4}:9001/"),
        ];
        let script = crate::host::root().join("interop/ws_echo.py");
        let client = Cmd::new(&run.python).arg(script).args(urls);
        succeeds(client.log(run.logs.join("websockets.log")).limit(Duration::from_secs(120)), 8)
    });
    run.check("kosoku", kosoku);
}

/// Pings, pages, echoes, and which shard answers; a guest, in which everything is emulated
/// and slow, is asked for no more.
pub(crate) fn basics(run: &mut Run) {
    for (family, host, address) in families() {
        for size in ["56", "3000"] {
            run.check(&format!("ping {size} {family}"), |_| ping(address, size));
        }
        for (version, flag) in VERSIONS {
            run.check(&format!("curl {version} {family}"), |_| {
                let text =
                    get(&format!("http://{host}/"), &[flag, "-m5", "-w", "\n%{http_version}"])?;
                let wanted = if version == "HTTP/2" { "hello  2" } else { "hello  1.1" };
                if text == wanted { Ok(text) } else { Err(format!("{text:?}, not {wanted:?}")) }
            });
        }
        run.check(&format!("TCP echo {family}"), |_| tcp_echo(address));
        run.check(&format!("UDP echo {family}"), |_| udp_echo(address));
        run.check(&format!("shards' shares {family}"), |_| shares(address));
    }
}

/// Large bodies in both directions, whose capture is judged apart.
pub(crate) fn bodies(run: &mut Run) {
    // 100 MB by each family and each version, but not by each pair: eight such bodies over
    // three backends would take minutes and say the same.
    for (words, length) in [("5 MB", LARGE / 20), ("100 MB", LARGE)] {
        for (family, host, _) in families() {
            for (version, flag) in VERSIONS {
                let same = (version == "HTTP/1.1") == (family == "IPv4");
                if same != (length == LARGE) {
                    continue;
                }
                run.check(&format!("{words} down {version} {family}"), |run| {
                    download(run, &format!("http://{host}/bytes/{length}"), length, flag)
                });
                run.check(&format!("{words} up {version} {family}"), |run| {
                    upload(run, &format!("http://{host}/digest"), length, flag)
                });
            }
        }
    }
}

/// Load, whose capture is judged apart.
pub(crate) fn load(run: &mut Run) {
    for (family, host, _) in families() {
        let seconds = if family == "IPv4" { 10 } else { 3 };
        run.check(&format!("h2load {family}"), |run| h2load(run, &format!("http://{host}/")));
        // Without a number wrk looks the port up, in a file that a small system does not have.
        run.check(&format!("wrk {family}"), |run| wrk(run, &format!("http://{host}:80/"), seconds));
    }
}

/// A command that must end with exit code 0; the last line of what it printed.
pub(crate) fn succeeds(command: Cmd, tail: usize) -> Verdict {
    let done = command.run().map_err(|error| error.to_string())?;
    if done.ok() {
        Ok(done.tail(1))
    } else {
        Err(format!("{}: {}\n{}", command.line(), done.how(), done.tail(tail)))
    }
}

/// Asks a server to end, and sees that it does.
pub(crate) fn ends_gracefully(mut server: Background) -> Verdict {
    if !server.alive() {
        return Err("the server was gone before it was asked to end".into());
    }
    match server.stop(Signal::SIGTERM, Duration::from_secs(15)) {
        Ok((status, false)) if status.success() => Ok("exit code 0 after SIGTERM".into()),
        Ok((status, false)) => Err(format!("{status} after SIGTERM")),
        Ok((_, true)) => Err("still there 15 s after SIGTERM".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A page by curl.
pub(crate) fn get(url: &str, args: &[&str]) -> Verdict {
    let curl = Cmd::new("curl").args(["-sS", "--fail", "--noproxy", "*"]).args(args).arg(url);
    let done = curl.limit(Duration::from_secs(10)).run().map_err(|error| error.to_string())?;
    if !done.ok() {
        return Err(format!("curl {url}: {}: {}", done.how(), done.output.trim()));
    }
    let version = done.output.lines().last().unwrap_or_default().to_owned();
    if args.contains(&"--http2-prior-knowledge") && version != "2" {
        return Err(format!("curl {url}: answered with HTTP/{version}"));
    }
    Ok(done.output.replace('\n', " "))
}

fn ping(address: &str, size: &str) -> Verdict {
    let ping = Cmd::new("ping").args(["-c", "5", "-i", "0.2", "-W", "2", "-s", size, address]);
    let done = ping.limit(Duration::from_secs(15)).run().map_err(|error| error.to_string())?;
    let summary = done.output.lines().find(|line| line.contains("packet loss")).unwrap_or("");
    if done.ok() && summary.contains(" 0% packet loss") {
        Ok(summary.to_owned())
    } else {
        Err(format!("{}\n{}", done.how(), done.tail(8)))
    }
}

/// The body of `length` bytes, made here once and independently of the server.
fn large_body(run: &Run, length: usize) -> Result<(std::path::PathBuf, String), String> {
    // Beside the backends' own directories, so that the three share it.
    let file = run.logs.with_file_name(format!("body-{length}.bin"));
    let explain = |error: std::io::Error| format!("{}: {error}", file.display());
    if !std::fs::metadata(&file).is_ok_and(|meta| meta.len() == length as u64) {
        let mut body = Vec::with_capacity(length + 8);
        for word in 0.. {
            if body.len() >= length {
                break;
            }
            body.extend_from_slice(&pattern_word(SEED, word).to_le_bytes());
        }
        body.truncate(length);
        std::fs::write(&file, &body).map_err(explain)?;
    }
    let sum = sha256("sha256sum \"$0\"", &file.to_string_lossy())?;
    Ok((file, sum))
}

/// Word `index` of the pattern with this seed: SplitMix64.
fn pattern_word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The digest that a shell line prints; `$0` in it is `argument`.
fn sha256(line: &str, argument: &str) -> Verdict {
    let shell = Cmd::new("bash").args(["-o", "pipefail", "-c", line, argument]);
    let done = shell.limit(Duration::from_secs(60)).run().map_err(|error| error.to_string())?;
    match done.output.split_whitespace().next() {
        Some(sum) if done.ok() && sum.len() == 64 => Ok(sum.to_owned()),
        _ => Err(format!("{line}: {}: {}", done.how(), done.tail(5))),
    }
}

fn download(run: &Run, url: &str, length: usize, flag: &str) -> Verdict {
    let (_, expected) = large_body(run, length)?;
    let line = format!("curl -sS --fail --noproxy '*' -m 50 {flag} \"$0\" | sha256sum");
    let got = sha256(&line, url)?;
    if got == expected { Ok(got) } else { Err(format!("SHA-256 is {got}, not {expected}")) }
}

fn upload(run: &Run, url: &str, length: usize, flag: &str) -> Verdict {
    let (file, expected) = large_body(run, length)?;
    let curl = Cmd::new("curl")
        .args(["-sS", "--fail", "--noproxy", "*", "-m", "50", flag, "-H", "Expect:"])
        .args(["-X", "POST", "-T"])
        .arg(file)
        .arg(url);
    let done = curl.limit(Duration::from_secs(60)).run().map_err(|error| error.to_string())?;
    if !done.ok() {
        return Err(format!("curl: {}: {}", done.how(), done.tail(5)));
    }
    let answer: serde_json::Value =
        serde_json::from_str(done.output.trim()).map_err(|error| format!("answer: {error}"))?;
    if answer["length"] != length || answer["sha256"] != expected.as_str() {
        return Err(format!("answered {answer}, not {length} bytes with SHA-256 {expected}"));
    }
    Ok(expected)
}

fn socket_address(address: &str, port: u16) -> Result<SocketAddr, String> {
    let ip = address.parse().map_err(|error| format!("{address}: {error}"))?;
    Ok(SocketAddr::new(ip, port))
}

pub(crate) fn connect(address: &str, port: u16) -> Result<TcpStream, String> {
    let limit = Duration::from_secs(10);
    let stream = TcpStream::connect_timeout(&socket_address(address, port)?, limit)
        .and_then(|stream| {
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
            Ok(stream)
        })
        .map_err(|error| format!("connect {address}:{port}: {error}"))?;
    Ok(stream)
}

/// A megabyte through port 7, our half closed at the end: all of it comes back, then an end.
pub(crate) fn tcp_echo(address: &str) -> Verdict {
    let sent: Vec<u8> = (0..131_072).flat_map(|word| pattern_word(1, word).to_le_bytes()).collect();
    let mut reader = connect(address, 7)?;
    let mut writer = reader.try_clone().map_err(|error| error.to_string())?;
    let body = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&body).and_then(|()| writer.shutdown(Shutdown::Write))
    });
    let mut back = Vec::new();
    let read = reader.read_to_end(&mut back);
    let written = writing.join().map_err(|_| "the writer panicked")?;
    read.map_err(|error| format!("read after {} bytes: {error}", back.len()))?;
    written.map_err(|error| format!("write: {error}"))?;
    if back != sent {
        return Err(format!("{} bytes came back of {}, or not the same", back.len(), sent.len()));
    }
    Ok(format!("{} bytes and the end came back", back.len()))
}

/// Datagrams through port 7, the last of them in fragments.
fn udp_echo(address: &str) -> Verdict {
    let local = if address.contains(':') { KERNEL_V6 } else { KERNEL_V4 };
    let socket = UdpSocket::bind(socket_address(local, 0)?).map_err(|error| error.to_string())?;
    socket.connect(socket_address(address, 7)?).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(3))).map_err(|error| error.to_string())?;
    let mut buffer = [0; 4096];
    for size in [1, 8, 512, 1400, 1452, 3000] {
        let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        socket.send(&sent).map_err(|error| format!("{size} bytes: {error}"))?;
        let got = socket.recv(&mut buffer).map_err(|error| format!("{size} bytes: {error}"))?;
        if buffer[..got] != sent {
            return Err(format!("{size} bytes came back as {got}, or not the same"));
        }
    }
    Ok("1 to 3000 bytes".into())
}

/// Which shard serves each of many new connections.
fn shares(address: &str) -> Verdict {
    let mut by_shard: BTreeMap<u64, usize> = BTreeMap::new();
    for _ in 0..FLOWS {
        let mut stream = connect(address, 80)?;
        let request = "GET /shard HTTP/1.1\r\nHost: throng\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| format!("/shard: {error}"))?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let value: serde_json::Value =
            serde_json::from_str(body).map_err(|error| format!("/shard: {error}: {answer}"))?;
        let shard = value["shard"].as_u64().ok_or(format!("/shard: no shard in {body}"))?;
        *by_shard.entry(shard).or_default() += 1;
    }
    let least = by_shard.values().min().copied().unwrap_or(0) as f64 / FLOWS as f64;
    if by_shard.len() == 2 && least >= LEAST_SHARE {
        Ok(format!("of {FLOWS} connections, by shard: {by_shard:?}"))
    } else {
        Err(format!("of {FLOWS} connections, by shard: {by_shard:?}; least share {LEAST_SHARE}"))
    }
}

fn kosoku(run: &Run) -> Verdict {
    let kosoku = run.python.with_file_name("kosoku");
    let out = run.logs.join("kosoku");
    // 12 and 13 are compression, which the server does not offer.
    let client = Cmd::new(kosoku)
        .args(["-x", "12.*", "-x", "13.*", "-p", "4", "-o"])
        .arg(&out)
        .arg(format!("{SERVER_V4}:9001"));
    succeeds(client.log(run.logs.join("kosoku.log")).limit(Duration::from_secs(120)), 30)?;
    let index = std::fs::read_to_string(out.join("index.json"))
        .map_err(|error| format!("kosoku's index: {error}"))?;
    let index: serde_json::Value =
        serde_json::from_str(&index).map_err(|error| format!("kosoku's index: {error}"))?;
    let mut by_behavior: BTreeMap<String, usize> = BTreeMap::new();
    for cases in index.as_object().into_iter().flat_map(|agents| agents.values()) {
        for case in cases.as_object().into_iter().flat_map(|cases| cases.values()) {
            let behavior = case["behavior"].as_str().unwrap_or("?");
            *by_behavior.entry(behavior.to_owned()).or_default() += 1;
        }
    }
    let total: usize = by_behavior.values().sum();
    if total == 0 || by_behavior.contains_key("FAILED") {
        return Err(format!("{total} cases: {by_behavior:?}"));
    }
    Ok(format!("{total} cases: {by_behavior:?}"))
}

fn wrk(run: &Run, url: &str, seconds: u64) -> Verdict {
    let duration = format!("-d{seconds}");
    let wrk = Cmd::new("wrk").args(["-t2", "-c256", &duration, "--latency", url]);
    let done = wrk
        .log(run.logs.join("wrk.log"))
        .limit(Duration::from_secs(seconds + 20))
        .run()
        .map_err(|error| error.to_string())?;
    let line = |word: &str| done.output.lines().find(|line| line.contains(word));
    let rate = line("Requests/sec").unwrap_or_default().trim();
    if !done.ok() || line("Socket errors").is_some() || line("Non-2xx").is_some() || rate.is_empty()
    {
        return Err(format!("{}\n{}", done.how(), done.tail(20)));
    }
    if rate.ends_with(" 0.00") {
        return Err(format!("no request was answered\n{}", done.tail(20)));
    }
    Ok(rate.to_owned())
}

fn h2load(run: &Run, url: &str) -> Verdict {
    let requests = 20_000;
    // h2load leaves the brackets of an IPv6 address out, and is refused for it.
    let authority = format!(":authority: {}", url.trim_start_matches("http://").trim_matches('/'));
    let h2load = Cmd::new("h2load").args([
        "-n",
        &requests.to_string(),
        "-c32",
        "-m16",
        "-t1",
        "-H",
        &authority,
        url,
    ]);
    let done = h2load
        .log(run.logs.join("h2load.log"))
        .limit(Duration::from_secs(60))
        .run()
        .map_err(|error| error.to_string())?;
    let wanted = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
    if done.ok() && done.output.contains(&wanted) {
        let rate = done.output.lines().find(|line| line.starts_with("finished in"));
        Ok(rate.unwrap_or(&wanted).to_owned())
    } else {
        Err(format!("{}\n{}", done.how(), done.tail(20)))
    }
}

/// Counters of this namespace's kernel, by protocol and name.
pub(crate) fn kernel_counters() -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        let protocol = names.split(':').next().unwrap_or_default();
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()).skip(1) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{protocol}.{name}"), value);
            }
        }
    }
    counters
}

/// The kernel found nothing wrong with what we sent.
pub(crate) fn compare_counters(before: &BTreeMap<String, u64>) -> Verdict {
    let after = kernel_counters();
    let wrong: Vec<String> =
        ["Tcp.InErrs", "Tcp.InCsumErrors", "Udp.InCsumErrors", "Ip.InHdrErrors", "Icmp.InErrors"]
            .iter()
            .map(|name| (name, grown(before, &after, name)))
            .filter(|(_, by)| *by > 0)
            .map(|(name, by)| format!("{name} grew by {by}"))
            .collect();
    if wrong.is_empty() { Ok("no bad segment".into()) } else { Err(wrong.join("\n")) }
}

fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str) -> u64 {
    let was = before.get(name).copied().unwrap_or(0);
    after.get(name).copied().unwrap_or(0).saturating_sub(was)
}

/// Of so many segments one may be sent again, beside two for each frame that the link is known
/// to have lost. Runs on two cores at a load of 27 have shown one in 2,200.
const SENT_FOR_EACH_AGAIN: u64 = 200;

/// Neither side had reason to send much again.
pub(crate) fn retransmissions(before: &BTreeMap<String, u64>, link: &Link) -> Verdict {
    let after = kernel_counters();
    let server = Counters::read()?;
    let sides = [
        (
            "the kernel",
            grown(before, &after, "Tcp.OutSegs"),
            grown(before, &after, "Tcp.RetransSegs"),
            link.overrun()?,
        ),
        (
            "the server",
            server.total("throng_tcp_segments_out_total")?,
            server.sent_again()?,
            link.lost(&server)?,
        ),
    ];
    let said = sides.map(|(who, sent, again, lost)| {
        format!("{who} sent {sent} segments, {again} of them again, {lost} known as lost")
    });
    let said = said.join("; ");
    let much =
        |(_, sent, again, lost): (_, u64, u64, u64)| again > sent / SENT_FOR_EACH_AGAIN + 2 * lost;
    if sides.into_iter().any(much) { Err(said) } else { Ok(said) }
}

/// The server has neither panicked nor logged an error, and said how flows are steered:
/// by `wanted`, if given.
pub(crate) fn server_log(run: &Run, wanted: Option<&str>) -> Verdict {
    let log = std::fs::read_to_string(run.logs.join("server.log"))
        .map_err(|error| format!("server.log: {error}"))?;
    let bad: Vec<&str> =
        log.lines().filter(|line| line.contains("panicked at") || line.contains("ERROR")).collect();
    if !bad.is_empty() {
        return Err(bad.join("\n"));
    }
    let said: Vec<&str> = log.lines().filter(|line| line.contains("steering:")).collect();
    match said.iter().find(|line| wanted.is_none_or(|wanted| line.contains(wanted))) {
        Some(line) => Ok((*line).to_owned()),
        None => Err(format!(
            "the log does not say that flows are steered{}; it says: {said:?}",
            wanted.map_or_else(String::new, |by| format!(" by {by}"))
        )),
    }
}
