//! TLS over our own stack, in a simulated world, and against OpenSSL on the host's sockets.

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod hostile;
mod listening;
mod openssl;
mod resumption;
mod stream;

use std::rc::Rc;

use futures::{AsyncReadExt, AsyncWriteExt};
use support::{Pair, server_address};
use throng_net::{TcpListener, TcpStream};
use throng_runtime::spawn_local;
use throng_tls::{Acceptor, Connector, TlsListener, TlsStream};

/// Echoes on every connection of this shard until it is closed, then closes too.
fn echo(acceptor: &Acceptor) -> Rc<TlsListener> {
    echo_on(TlsListener::new(TcpListener::bind(server_address()).unwrap(), acceptor.clone()))
}

fn echo_on(listener: TlsListener) -> Rc<TlsListener> {
    let listener = Rc::new(listener);
    let accepting = listener.clone();
    let task = async move {
        while let Ok((mut stream, _)) = accepting.accept().await {
            let echoing = async move {
                let mut bytes = vec![0; 30_000];
                while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                    stream.write_all(&bytes[..n]).await.unwrap();
                    stream.flush().await.unwrap();
                }
                let _ = stream.close().await;
            };
            spawn_local(echoing).detach();
        }
    };
    spawn_local(task).detach();
    listener
}

async fn connect(connector: &Connector, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(server_address()).await?;
    connector.connect(name, tcp).await
}

/// Sends `text` and expects it back.
async fn say(stream: &mut TlsStream<TcpStream>, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, text.as_bytes());
}

/// The first of the peer's certificates.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.peer_certificates().unwrap()[0].to_vec()
}

fn pair() -> Pair {
    Pair::new(1)
}
