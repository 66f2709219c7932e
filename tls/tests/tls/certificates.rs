//! Who is shown which certificate, and what is refused.

use std::io::ErrorKind;
use std::sync::Arc;

use throng_runtime::ShardId;
use throng_tls::rustls::pki_types::CertificateDer;
use throng_tls::rustls::pki_types::pem::PemObject;
use throng_tls::rustls::server::WebPkiClientVerifier;
use throng_tls::rustls::{self, RootCertStore};
use throng_tls::{ConfigError, Connector, Identity, ServerConfig, alpn};

use crate::support::{Pair, acceptor, authority, connector, issue, issue_pem};
use crate::{connect, echo, pair, say, shown};

#[test]
fn the_name_asked_for_chooses_the_certificate() {
    let identities = [
        issue(&["default.test", "10.0.0.1"]),
        issue(&["a.test", "B.test"]),
        issue(&["*.wild.test"]),
        issue(&["special.wild.test"]),
    ];
    let chains: Vec<Vec<u8>> = identities.iter().map(|of| of.chain()[0].to_vec()).collect();
    let acceptor = ServerConfig::new(identities).build().unwrap();
    let mut pair = pair();
    pair.serve(1, || echo(&acceptor));
    pair.run(async move {
        let connector = connector();
        for (name, index) in [
            ("default.test", 0),
            ("a.test", 1),
            ("b.TEST", 1),
            ("one.wild.test", 2),
            ("special.wild.test", 3),
            // An address is not told to the server, so it shows the default.
            ("10.0.0.1", 0),
        ] {
            let mut stream = connect(&connector, name).await.unwrap();
            assert_eq!(shown(&stream), chains[index], "{name}");
            say(&mut stream, name).await;
        }
        // Nobody's names get the default, which is not for them; nor is a wildcard for two labels.
        for name in ["c.test", "two.one.wild.test", "wild.test"] {
            let error = connect(&connector, name).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{name}: {error}");
            assert!(error.to_string().contains("not valid for name"), "{name}: {error}");
        }
        let error = connect(&connector, "no name").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn an_unknown_authority_is_refused_and_the_server_goes_on() {
    let mut pair = pair();
    let acceptor = acceptor();
    let listener = pair.serve(1, || echo(&acceptor)).remove(0);
    pair.run(async {
        let own = rcgen::generate_simple_self_signed(["other.test".to_owned()]).unwrap();
        let stranger = Connector::from_pem(own.cert.pem()).unwrap();
        let error = connect(&stranger, "a.test").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        say(&mut stream, "still there").await;
    });
    assert_eq!((listener.counters().failed, listener.counters().finished), (1, 1));
}

#[test]
fn a_reload_shows_on_the_next_handshake_and_open_connections_go_on() {
    let acceptor = acceptor();
    let mut pair = Pair::new(2);
    let listeners = pair.serve(2, || echo(&acceptor));
    let expected = pair.run(async move {
        let mut open = connect(&connector(), "a.test").await.unwrap();
        say(&mut open, "before").await;

        let (new_chain, new_key) = issue_pem(&["a.test"]);
        // What is no good is refused, and changes nothing.
        let (_, other_key) = issue_pem(&["a.test"]);
        let error = Identity::from_pem(&new_chain, other_key).unwrap_err();
        assert!(matches!(error, ConfigError::Rustls(_)), "{error}");
        let error = Identity::from_pem(&new_chain, "rubbish").unwrap_err();
        assert!(matches!(error, ConfigError::Pem(_)), "{error}");
        let error = Identity::from_pem("rubbish", &new_key).unwrap_err();
        assert!(matches!(error, ConfigError::NoCertificate), "{error}");
        let broken = CertificateDer::from(vec![0x30, 3, 2, 1, 1]);
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(new_key.as_bytes()).unwrap();
        let error = Identity::new(vec![broken], key).unwrap_err();
        assert!(matches!(error, ConfigError::Rustls(_)), "{error}");
        let error = acceptor.reload([]).unwrap_err();
        assert!(matches!(error, ConfigError::NoIdentity), "{error}");
        let same = connect(&connector(), "a.test").await.unwrap();
        assert_eq!(shown(&same), shown(&open));

        let new = Identity::from_pem(new_chain, new_key).unwrap();
        let expected = new.chain()[0].to_vec();
        acceptor.reload([new]).unwrap();
        let mut next = connect(&connector(), "a.test").await.unwrap();
        assert_eq!(shown(&next), expected);
        assert_ne!(shown(&open), expected);
        say(&mut next, "after").await;
        say(&mut open, "after as well").await;
        expected
    });
    // One reload was for all shards.
    pair.run_on(ShardId(1), async move {
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        assert_eq!(shown(&stream), expected);
        say(&mut stream, "on the other shard").await;
    });
    let finished: Vec<_> = listeners.iter().map(|of| of.counters().finished).collect();
    assert_eq!(finished, [3, 1]);
}

#[test]
fn files_are_named_in_errors() {
    let error = Identity::from_pem_files("/nonexistent/chain.pem", "key.pem").unwrap_err();
    assert!(error.to_string().contains("/nonexistent/chain.pem"), "{error}");
    let error = Connector::from_pem_file("/nonexistent/roots.pem").unwrap_err();
    assert!(error.to_string().contains("/nonexistent/roots.pem"), "{error}");
    let error = Connector::from_pem("").unwrap_err();
    assert!(matches!(error, ConfigError::NoRoots(_)), "{error}");
}

#[test]
fn application_protocols_are_agreed_on_or_refused() {
    let acceptor = ServerConfig::new([issue(&["a.test"])]).alpn(alpn::HTTP).build().unwrap();
    let mut pair = pair();
    pair.serve(1, || echo(&acceptor));
    pair.run(async {
        let offers: [(&[&[u8]], _); 4] = [
            (&[b"http/1.1"], Some(&b"http/1.1"[..])),
            (&[b"http/1.1", b"h2"], Some(b"h2")),
            (&[b"unheard-of", b"h2"], Some(b"h2")),
            (&[], None),
        ];
        for (offer, agreed) in offers {
            let connector = connector().alpn(offer.iter().copied());
            let mut stream = connect(&connector, "a.test").await.unwrap();
            assert_eq!(stream.alpn_protocol(), agreed);
            assert_eq!(stream.info().alpn.as_deref(), agreed);
            say(&mut stream, "hello").await;
        }
        let connector = connector().alpn(["unheard-of"]);
        let error = connect(&connector, "a.test").await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    });
}

#[test]
fn clients_can_be_asked_for_certificates() {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority().pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let acceptor = ServerConfig::new([issue(&["a.test"])])
        .client_certificates(verifier.build().unwrap())
        .build()
        .unwrap();
    let mut pair = pair();
    pair.serve(1, || echo(&acceptor));
    pair.run(async {
        let known = connector().identity(issue(&["client.test"]));
        let mut stream = connect(&known, "a.test").await.unwrap();
        say(&mut stream, "it is me").await;
        // In TLS 1.3 the client's handshake is over before the server has judged it.
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        let error = futures::AsyncReadExt::read(&mut stream, &mut [0; 1]).await.unwrap_err();
        assert!(error.to_string().contains("CertificateRequired"), "{error}");
    });
}
