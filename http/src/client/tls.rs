//! The connector for `https://` (feature `tls`).

use std::io;

use futures::future::LocalBoxFuture;
use throng_tls::{Connector, alpn};

use super::connect::{Connect, Target, TcpConnector, Transport};

/// Connects with TLS for `https://`, and as [`TcpConnector`] does for `http://`.
///
/// The certificate has to be for the URI's host. A failed handshake is an
/// [`ErrorKind::Connect`](super::ErrorKind::Connect) with an `io::Error` of kind `InvalidData`.
#[derive(Clone, Debug)]
pub struct TlsConnector(Connector);

impl TlsConnector {
    /// Offers HTTP/2 and HTTP/1.1 by ALPN: for clients whose version is negotiated.
    pub fn new(connector: Connector) -> Self {
        TlsConnector(connector.alpn(alpn::HTTP))
    }

    /// Offers HTTP/1.1 only: for clients that speak nothing else.
    pub fn http1(connector: Connector) -> Self {
        TlsConnector(connector.alpn([alpn::HTTP1]))
    }

    /// Offers HTTP/2 only: for clients that speak nothing else.
    pub fn http2(connector: Connector) -> Self {
        TlsConnector(connector.alpn([alpn::HTTP2]))
    }
}

impl Connect for TlsConnector {
    fn connect(&self, target: &Target) -> LocalBoxFuture<'static, io::Result<Transport>> {
        if !target.is_https() {
            return TcpConnector.connect(target);
        }
        let connector = self.0.clone();
        let host = target.host().to_owned();
        let opening = target.open();
        Box::pin(async move {
            let stream = connector.connect(&host, opening.await?).await?;
            let http2 = stream.alpn_protocol() == Some(alpn::HTTP2);
            Ok(Transport::new(stream).negotiated_http2(http2))
        })
    }
}
