//! `rediss://`: as before, through TLS.

use throng_tls::Connector;
use throng_ws::Frame;
use throng_ws_redis::Config;

use crate::support::{Server, node, run, text, until};

#[test]
fn over_tls_for_who_trusts_the_server() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis-tls");
    std::fs::create_dir_all(&folder).unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name).display().to_string());
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &cert];
    let other = ["--tls-port", "--tls-auth-clients", "no"];
    let Some(server) = Server::start(&[&other[..], &files].concat()) else { return };
    let port = server.port;
    let trusted = made.cert.pem();
    run(1, move |_| {
        let trusted = trusted.clone();
        async move {
            let config = |roots: &str| {
                let url = format!("rediss://localhost:{port}");
                let connector = Connector::from_pem(roots).unwrap();
                Config::from_url_with(&url, connector).unwrap()
            };
            let (a, b) = (node(config(&trusted)), node(config(&trusted)));
            let mut far = b.topic("news").subscribe();
            until(&b, |stats| stats.topics == 1).await;
            a.topic("news").publish(&Frame::text("hidden"));
            assert_eq!(text(&mut far).await, "hidden");
            let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let wary = node(config(&stranger.cert.pem()));
            until(&wary, |stats| stats.failures >= 2).await;
            assert_eq!(wary.backplane().unwrap().connects, 0);
        }
    });
}
