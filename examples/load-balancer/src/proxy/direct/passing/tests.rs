use std::fs;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use throng::{Builder, sleep, timeout};

use super::*;
use crate::life::Ends;
use crate::log::Writer;
use crate::world::World;

/// A client over TLS that takes nothing: what is written finds room before it, and stays there.
struct Stuck;

impl Read for Stuck {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl Write for Stuck {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// Whoever asks again at the deadline is told the end then: the connection would poll for ever.
#[test]
fn an_answer_that_is_not_flushed_has_its_time() {
    let file = std::env::temp_dir().join(format!("throng-lb-stuck-{}", std::process::id()));
    let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[http]\nbody_timeout = \"20ms\"\n\
        [[route]]\nupstream = \"app\"\n\
        [upstream.app]\nserver = [{ address = \"127.0.0.1:2\" }]\n";
    fs::write(&file, text).unwrap();
    let world = Arc::new(World::load(&file).unwrap());
    fs::remove_file(&file).unwrap();
    // Nobody can be asked, so the answer is there at once.
    world.members("app")[0].vitals.set_drained(true, 0);
    let writer = Writer::start(None).unwrap();
    let log = writer.log();
    let results = Builder::new().device("kernel").shards(1).run(move |_| {
        let (world, log) = (world.clone(), log.clone());
        async move {
            let shard = Shard::start(world, log, Ends::default(), Vec::new()).unwrap();
            let state = shard.state();
            let group = state.groups["app"].clone();
            let (method, wish) = (Method::GET, Wish::default());
            let asked = Asked { method, route: 0, id: None, wish, close: false };
            let mut passing = Passing::begin(&shard, state, group, asked, None, Vec::new());
            let first = poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut passing).poll(&mut Stuck, Terms::default(), cx))
            })
            .await;
            assert_eq!(first, Poll::Pending);
            let deadline = passing.deadline().unwrap();
            assert!(deadline > now());
            while now() < deadline {
                sleep(Duration::from_millis(5)).await;
            }
            let end = poll_fn(|cx| Pin::new(&mut passing).poll(&mut Stuck, Terms::default(), cx));
            let end = timeout(Duration::from_secs(5), end).await.ok();
            Shard::end();
            end
        }
    });
    writer.end();
    assert_eq!(results.unwrap(), [Some(End::Stalled)]);
}
