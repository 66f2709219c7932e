//! OpenSSL's client against us, on the host's loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use throng_net::{Builder, TcpListener};
use throng_runtime::{ShardId, timeout};
use throng_tls::{Acceptor, TlsListener};

use crate::support::{acceptor, authority};

/// One run of `openssl s_client`: what it prints.
fn s_client(server: SocketAddr, args: &[&str]) -> String {
    let mut child = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-connect", &server.to_string()])
        .args(["-servername", "a.test", "-verify_return_error"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl was there a moment ago");
    // While its input stays open it goes on until the server ends the connection, and has by
    // then read the tickets.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs `clients` on a thread beside a server on a shard of the host.
fn against_a_server(clients: impl FnOnce(SocketAddr) + Send + 'static) {
    let acceptor = acceptor();
    let (tell, told) = mpsc::channel();
    let clients = thread::spawn(move || clients(told.recv().unwrap()));
    let serve = |_: ShardId| serve(acceptor.clone(), tell.clone());
    Builder::new().device("kernel").shards(1).run(serve).unwrap();
    clients.join().unwrap();
}

/// Greets every client and ends the connection, until nobody has come for a while.
async fn serve(acceptor: Acceptor, tell: mpsc::Sender<SocketAddr>) {
    use futures::AsyncWriteExt;
    let tcp = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    tell.send(tcp.local_addr().unwrap()).unwrap();
    let listener = TlsListener::new(tcp, acceptor);
    while let Ok(Ok((mut stream, _))) = timeout(Duration::from_secs(3), listener.accept()).await {
        let _ = stream.write_all(b"hello from throng\n").await;
        let _ = stream.close().await;
    }
}

fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn resumes(version: &'static str) {
    if !Command::new("openssl").arg("version").output().is_ok_and(|out| out.status.success()) {
        println!("skipped: openssl is not installed");
        return;
    }
    against_a_server(move |server| {
        let directory = directory(&format!("openssl{version}"));
        let roots = directory.join("roots.pem");
        std::fs::write(&roots, &authority().pem).unwrap();
        let session = directory.join("session.pem");
        let common = [version, "-CAfile", roots.to_str().unwrap()];
        let keep = [&common[..], &["-sess_out", session.to_str().unwrap()]].concat();
        let first = s_client(server, &keep);
        assert!(first.contains("hello from throng"), "{first}");
        assert!(first.contains("Verify return code: 0 (ok)"), "{first}");
        assert!(first.contains("New, TLSv1"), "{first}");
        let resume = [&common[..], &["-sess_in", session.to_str().unwrap()]].concat();
        let second = s_client(server, &resume);
        assert!(second.contains("Reused, TLSv1"), "{second}");
        assert!(second.contains("hello from throng"), "{second}");
    });
}

#[test]
fn openssl_resumes_a_tls_1_3_session() {
    resumes("-tls1_3");
}

#[test]
fn openssl_resumes_a_tls_1_2_session() {
    resumes("-tls1_2");
}
