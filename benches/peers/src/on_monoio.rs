//! monoio by epoll, its own buffers moved in and out of each call.

use std::io;
use std::net::TcpListener as StdListener;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

pub(crate) fn echo(listener: StdListener) -> io::Result<()> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            monoio::spawn(one(stream));
        }
    })
}

async fn one(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4_096);
    loop {
        let (read, mut filled) = stream.read(buffer).await;
        if read? == 0 {
            return Ok(());
        }
        let written;
        (written, filled) = stream.write_all(filled).await;
        written?;
        filled.clear();
        buffer = filled;
    }
}
