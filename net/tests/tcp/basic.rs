//! Opening, a few bytes, closing.

use throng_net::tcp::*;

use crate::world::*;

#[test]
fn hello_and_goodbye() {
    let mut w = World::new(1);
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    assert_eq!(w.engines[1].state(server), State::Established);
    w.send(0, client, b"hello");
    w.run(ms(100));
    assert_eq!(w.read(1, server), b"hello");
    w.send(1, server, b"and hello to you");
    w.run(ms(100));
    assert_eq!(w.read(0, client), b"and hello to you");

    let now = w.now;
    w.engines[0].close(client, now);
    w.run(ms(100));
    assert_eq!(w.engines[1].recv(server, 100, w.now).unwrap().len(), 0, "end of data");
    assert_eq!(w.engines[1].state(server), State::CloseWait);
    let now = w.now;
    w.engines[1].close(server, now);
    w.run(secs(1));
    assert_eq!(w.engines[0].usage().time_wait, 1);
    assert_eq!(w.engines[0].usage().connections, 0);
    assert_eq!(w.engines[1].usage().connections, 0);
    w.run(secs(60));
    w.assert_empty();
}

#[test]
fn idle_owns_nothing() {
    let mut w = World::new(2);
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    w.send(0, client, &[7; 5000]);
    w.run(ms(100));
    w.read(1, server);
    w.send(1, server, &[8; 3000]);
    w.run(ms(100));
    w.read(0, client);
    w.run(secs(2));
    for (engine, conn) in [(0, client), (1, server)] {
        let info = w.engines[engine].info(conn, w.now).unwrap();
        assert!(!info.owns_buffers && !info.timer_armed, "{info:?}");
        assert_eq!(w.engines[engine].usage().timers, 0);
        assert_eq!(w.engines[engine].usage().with_buffers, 0);
        assert_eq!(w.engines[engine].poll_timeout(), None);
    }
}
