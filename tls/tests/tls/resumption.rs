//! Sessions that go on where others ended.

use std::sync::Arc;

use throng_runtime::ShardId;
use throng_tls::Connector;
use throng_tls::rustls::pki_types::CertificateDer;
use throng_tls::rustls::pki_types::pem::PemObject;
use throng_tls::rustls::version::{TLS12, TLS13};
use throng_tls::rustls::{self, ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::support::{Pair, acceptor, authority, connector, issue};
use crate::{connect, echo, pair, say, shown};

/// A client that speaks one version only.
fn speaking(version: &'static SupportedProtocolVersion) -> Connector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority().pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Connector::from_rustls(config)
}

/// Connections one after the other: all but the first resume, on whichever shard they land.
fn resumes_on_both_shards(version: &'static SupportedProtocolVersion) {
    const COUNT: u64 = 8;
    let acceptor = acceptor();
    let mut pair = Pair::new(2);
    let listeners = pair.serve(2, || echo(&acceptor));
    let connector = speaking(version);
    for i in 0..COUNT {
        // The flow's hash is the same for both ends, so it lands on the shard it comes from.
        let client = connector.clone();
        pair.run_on(ShardId(i as u16 % 2), async move {
            let mut stream = connect(&client, "a.test").await.unwrap();
            assert_eq!(stream.resumed(), i > 0, "connection {i}");
            assert_eq!(stream.info().version, Some(version.version));
            say(&mut stream, "hello").await;
        });
    }
    let counters: Vec<_> = listeners.iter().map(|listener| listener.counters()).collect();
    let of = |i: usize| (counters[i].finished, counters[i].resumed);
    assert_eq!((of(0).0 + of(1).0, of(0).1 + of(1).1), (COUNT, COUNT - 1), "{counters:?}");
    assert!(of(0).1 > 0 && of(1).1 > 0, "one shard only: {counters:?}");
}

#[test]
fn tls_1_3_sessions_resume_on_both_shards() {
    resumes_on_both_shards(&TLS13);
}

#[test]
fn tls_1_2_sessions_resume_on_both_shards() {
    resumes_on_both_shards(&TLS12);
}

#[test]
fn sessions_outlive_a_reload_and_servers_do_not_share_them() {
    let first = acceptor();
    let mut pair = pair();
    let listener = pair.serve(1, || echo(&first)).remove(0);
    let connector = connector();
    let client = connector.clone();
    pair.run(async move {
        let mut stream = connect(&client, "a.test").await.unwrap();
        say(&mut stream, "hello").await;
        first.reload([issue(&["a.test"])]).unwrap();
        let old = shown(&stream);
        let mut stream = connect(&client, "a.test").await.unwrap();
        assert!(stream.resumed());
        assert_eq!(shown(&stream), old, "what the session began with");
        say(&mut stream, "hello").await;
    });
    assert_eq!(listener.counters().resumed, 1);
    // Another server cannot read the tickets: a full handshake.
    let mut pair = crate::pair();
    pair.serve(1, || echo(&acceptor()));
    pair.run(async move {
        let mut stream = connect(&connector, "a.test").await.unwrap();
        assert!(!stream.resumed());
        say(&mut stream, "hello").await;
    });
}
