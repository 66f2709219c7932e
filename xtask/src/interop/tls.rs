//! HTTPS and `wss://` over our stack, for curl, OpenSSL, Python and Chromium.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::checks::{self, Verdict};
use super::inside::Run;
use super::link::{self, KERNEL_V4, SERVER_V4};
use crate::host;
use crate::process::{Background, Cmd};

/// The interface of the link.
const TAP: &str = "ttls0";
/// A name of the server's certificate, beside its address.
const NAME: &str = "throng.test";

/// Runs the example `https-hello` of `dir` and what is asked of it: over DPDK's net_tap where
/// there is DPDK, else over plain TAP.
pub(crate) fn all(run: &mut Run, dir: &Path) {
    let mut server = None;
    run.check("https: start", |run| {
        let files = Files::make(&run.logs.join("tls"))?;
        let started = serve(run, dir, &files)?;
        server = Some((files, started));
        Ok("a certificate, and a server with it".into())
    });
    let Some((files, server)) = server else { return };
    run.check("https: curl", |_| curl(&files));
    run.check("https: openssl resumes", |_| resume(&files));
    run.check("https: wss echo", |run| {
        let script = host::root().join("interop/ws_echo.py");
        let python = Cmd::new(&run.python)
            .arg(script)
            .arg(format!("wss://{SERVER_V4}/echo"))
            .env("SSL_CERT_FILE", files.path("ca.pem"));
        checks::succeeds(python.limit(Duration::from_secs(90)), 8)
    });
    run.check("https: chromium", |run| chromium(run, &files));
    run.check("https: reload", |run| {
        let python = Cmd::new(&run.python)
            .arg(host::root().join("interop/tls_reload.py"))
            .args([SERVER_V4, &files.text("ca.pem"), &files.text("new.pem")])
            .arg(files.path("chain.pem"));
        checks::succeeds(python.limit(Duration::from_secs(60)), 8)
    });
    run.check("https: graceful end", |_| checks::ends_gracefully(server));
}

/// An authority's certificate, and two that it has issued for one key.
struct Files(PathBuf);

impl Files {
    fn make(directory: &Path) -> Result<Files, String> {
        std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
        let names = format!("subjectAltName=DNS:{NAME},IP:{SERVER_V4}\n");
        std::fs::write(directory.join("names"), names).map_err(|error| error.to_string())?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        let issue = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 2 -extfile names";
        for line in [
            format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"),
            format!("req {key} -subj /CN=server -keyout key.pem -out server.csr"),
            format!("{issue} -set_serial 1 -out chain.pem"),
            format!("{issue} -set_serial 2 -out new.pem"),
        ] {
            let openssl = Cmd::new("openssl").args(line.split(' ')).dir(directory);
            checks::succeeds(openssl.limit(Duration::from_secs(20)), 5)
                .map_err(|why| format!("openssl {line}: {why}"))?;
        }
        Ok(Files(directory.to_owned()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// Starts the server and waits until it takes connections.
fn serve(run: &Run, dir: &Path, files: &Files) -> Result<Background, String> {
    let device = match host::dpdk() {
        Ok(()) => format!("dpdk:net_tap0,iface={TAP}"),
        Err(_) => format!("tap:{TAP}"),
    };
    let log = run.logs.join("https-hello.log");
    let mut server = Cmd::new(dir.join("https-hello"))
        .args(["--device", &device])
        .arg("--chain")
        .arg(files.path("chain.pem"))
        .arg("--key")
        .arg(files.path("key.pem"))
        .env("THRONG_ADDRESS", format!("{SERVER_V4}/24"))
        .env("THRONG_SHARDS", "2")
        .env("THRONG_IDLE", "adaptive")
        .env("RUST_LOG", "info")
        .log(&log)
        .background()
        .map_err(|error| format!("https-hello: {error}"))?;
    let start = Instant::now();
    let up = link::bring_up(TAP, &[&format!("{KERNEL_V4}/24")]);
    while up.is_err() || checks::connect(SERVER_V4, 443).is_err() {
        if up.is_err() || !server.alive() || start.elapsed() > Duration::from_secs(20) {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("no connection on {device}, {up:?}; the server said:\n{said}"));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(server)
}

fn curl(files: &Files) -> Verdict {
    let roots = files.text("ca.pem");
    let common = ["-m8", "--cacert", &roots, "-w", "\nHTTP/%{http_version}"];
    let resolve = format!("{NAME}:443:{SERVER_V4}");
    for (version, expected) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
        for host in [NAME, SERVER_V4] {
            let args = [&common[..], &[version, "--resolve", &resolve]].concat();
            let page = checks::get(&format!("https://{host}/"), &args)?;
            if !page.contains("hello over HTTP/") || !page.ends_with(expected) {
                return Err(format!("{version} {host}: {page:?}"));
            }
        }
    }
    Ok("HTTP/1.1 and HTTP/2, by name and by address".into())
}

/// A session of OpenSSL's client, kept in a file and taken up by another run of it.
fn resume(files: &Files) -> Verdict {
    for version in ["-tls1_3", "-tls1_2"] {
        let session = files.text("session.pem");
        for (option, expected) in [("-sess_out", "New, TLSv1"), ("-sess_in", "Reused, TLSv1")] {
            // The request makes the server end the connection; until then tickets are read.
            let line = format!(
                "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -connect {SERVER_V4}:443 \
                 -servername {NAME} {version} -CAfile {} -verify_return_error -ign_eof {option} \
                 {session}",
                files.text("ca.pem"),
            );
            let client = Cmd::new("sh").args(["-c", &line]).limit(Duration::from_secs(20));
            let said = client.run().map_err(|error| error.to_string())?;
            let good = [expected, "hello over HTTP/1.0", "Verify return code: 0 (ok)"];
            if let Some(missing) = good.iter().find(|text| !said.output.contains(**text)) {
                return Err(format!("{version} {option}: no '{missing}':\n{}", said.output));
            }
        }
    }
    Ok("TLS 1.3 and 1.2".into())
}

/// Chromium loads the page, whose script says something over `wss://` and shows the echo.
fn chromium(run: &Run, files: &Files) -> Verdict {
    // The server's key is trusted by its digest: errors of all else stay errors.
    let digest = format!(
        "openssl pkey -in {} -pubout -outform der | openssl dgst -sha256 -binary | base64",
        files.text("key.pem"),
    );
    let digest = checks::succeeds(Cmd::new("sh").args(["-c", &digest]), 5)?;
    let profile = files.path("chromium");
    let mut shown = String::new();
    // The page is taken when a budget of virtual time is used up; a WebSocket does not stop
    // that time, so that on a slow machine it can be too early.
    for budget in [5_000, 60_000, 600_000] {
        let browser = Cmd::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--ignore-certificate-errors-spki-list={}", digest.trim()))
            .arg(format!("--host-resolver-rules=MAP {NAME} {SERVER_V4}"))
            .arg(format!("--virtual-time-budget={budget}"))
            .args(["--dump-dom", &format!("https://{NAME}/")])
            .log(run.logs.join("chromium.log"))
            .limit(Duration::from_secs(40))
            .run()
            .map_err(|error| format!("chromium: {error}"))?;
        shown = browser.output;
        if shown.contains("hello over HTTP/2.0")
            && shown.contains("<p id=\"echo\">echo of what was said over wss</p>")
        {
            return Ok("the page by HTTP/2, the echo by wss".into());
        }
    }
    Err(format!("not what the page should become:\n{shown}"))
}
