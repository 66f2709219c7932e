//! Certificates of listeners, and connections to servers over TLS.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use throng::http::client::{Connect, Target, Transport};
use throng::tls::{Acceptor, Connector, Identity, ServerConfig, alpn};

use crate::config::{Config, Listener, Protocol, Upstream};

/// The certificates of one listener.
fn identities(listener: &Listener) -> io::Result<Vec<Identity>> {
    let of = |certificate: &crate::config::Certificate| {
        Identity::from_pem_files(&certificate.chain, &certificate.key).map_err(|error| {
            let chain = certificate.chain.display();
            io::Error::other(format!("the certificate {chain} cannot be used: {error}"))
        })
    };
    listener.certificate.iter().map(of).collect()
}

/// By address, for the listeners that have certificates. One for all shards, so that a client
/// resumes wherever it lands.
pub(crate) type Acceptors = BTreeMap<SocketAddr, Acceptor>;

/// Reads all certificates.
///
/// # Errors
/// A file that cannot be read, is no PEM, or does not fit its key.
pub(crate) fn acceptors(config: &Config) -> io::Result<Acceptors> {
    let secure = config.listener.iter().map(|listener| listener.as_ref());
    let secure = secure.filter(|listener| !listener.certificate.is_empty());
    let protocols = if config.http.http2 { &alpn::HTTP[..] } else { &[alpn::HTTP1] };
    secure
        .map(|listener| {
            let config = ServerConfig::new(identities(listener)?);
            let acceptor =
                config.alpn(protocols.iter().copied()).build().map_err(io::Error::other)?;
            Ok((listener.address, acceptor))
        })
        .collect()
}

/// The certificates of a new configuration, read and not shown to anybody yet.
#[derive(Default)]
pub(crate) struct Renewal(Vec<(Acceptor, Vec<Identity>)>);

impl Renewal {
    /// Reads them for the listeners that there are.
    ///
    /// # Errors
    /// As for [`acceptors`].
    pub(crate) fn read(acceptors: &Acceptors, config: &Config) -> io::Result<Renewal> {
        let mut renewed = Vec::new();
        for listener in &config.listener {
            if let Some(acceptor) = acceptors.get(&listener.as_ref().address) {
                renewed.push((acceptor.clone(), identities(listener.as_ref())?));
            }
        }
        Ok(Renewal(renewed))
    }

    /// Has handshakes from now on show them.
    pub(crate) fn apply(self) {
        for (acceptor, identities) in self.0 {
            // Not of a listener that has certificates; one that had none keeps what it shows.
            if let Err(error) = acceptor.reload(identities) {
                tracing::error!(%error, "a listener keeps its certificates");
            }
        }
    }
}

/// What connects to an upstream's servers over TLS.
///
/// # Errors
/// The roots cannot be had.
pub(crate) fn connector(upstream: &Upstream) -> io::Result<Option<Connector>> {
    let Some(tls) = &upstream.tls else { return Ok(None) };
    let connector = match &tls.roots {
        None => Connector::platform(),
        Some(roots) => Connector::from_pem_file(roots),
    };
    let protocol = match upstream.protocol {
        Protocol::Http1 => alpn::HTTP1,
        Protocol::Http2 => alpn::HTTP2,
    };
    connector.map(|connector| Some(connector.alpn([protocol]))).map_err(|error| {
        let roots =
            tls.roots.as_ref().map_or("the platform's".into(), |file| file.display().to_string());
        io::Error::other(format!("the roots ({roots}) cannot be used: {error}"))
    })
}

/// Connects to a server, and asks it for the certificate of `name`, else of its own host.
pub(crate) fn connecting(connector: Connector, name: Option<String>) -> impl Connect {
    move |target: &Target| {
        let connector = connector.clone();
        let name = name.clone().unwrap_or_else(|| target.host().to_owned());
        let opening = target.open();
        async move {
            let stream = connector.connect(&name, opening.await?).await?;
            let http2 = stream.alpn_protocol() == Some(alpn::HTTP2);
            Ok(Transport::new(stream).negotiated_http2(http2))
        }
    }
}
