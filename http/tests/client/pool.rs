//! Connections kept, given up, limited and waited for.

use std::rc::Rc;

use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt};
use http_body_util::BodyExt;
use throng_http::Server;
use throng_http::client::{Client, ErrorKind, Phase, Prelude};

use crate::world::{
    OK, SECOND, answer_all, assert_passed, counter, empty, get, pause, raw, read_head, serve, text,
    world, write,
};

#[test]
fn requests_share_a_connection() {
    let server = Rc::new(std::cell::OnceCell::<throng_http::Running>::new());
    let seen = server.clone();
    world(move || assert!(server.set(serve(Server::new())).is_ok()), async move {
        let client = Client::new();
        for i in 0..10 {
            assert_eq!(get(&client, "/hello").await.unwrap(), "hello");
            pause(SECOND * i).await;
        }
        let body = http_body_util::Full::new("some bytes".into());
        let request = hyper::Request::post("http://10.0.0.1:80/echo").body(body).unwrap();
        let reply = client.request::<http_body_util::Full<bytes::Bytes>>(request).await.unwrap();
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "some bytes");
        let stats = client.stats();
        assert_eq!((stats.opened, stats.reused, stats.retried), (1, 10, 0));
        assert_eq!((client.connections(), client.idle_connections()), (1, 1));
        let counters = seen.get().unwrap().counters();
        assert_eq!((counters.accepted, counters.requests), (1, 11));
    });
}

#[test]
fn requests_at_a_time_get_connections_of_their_own_and_leave_few() {
    world(|| drop(serve(Server::new())), async {
        let client = Client::builder().max_idle_per_host(3).build();
        let begin = throng_runtime::now();
        for reply in join_all((0..8).map(|_| get(&client, "/slow"))).await {
            assert_eq!(reply.unwrap(), "slow");
        }
        assert_passed(begin, SECOND);
        let stats = client.stats();
        assert_eq!((stats.opened, stats.reused, stats.evicted), (8, 0, 5));
        assert_eq!((client.connections(), client.idle_connections()), (3, 3));
    });
}

/// Connections that begin with something of their own are pools of their own: of all of them the one
/// that has been idle for longest goes.
#[test]
fn idle_connections_of_all_hosts_together_have_a_limit() {
    world(|| raw(|_, stream| answer_all(stream)), async {
        let client = Client::builder().max_idle_in_all(3).idle_timeout(900 * SECOND).build();
        let ask = async |name: &'static str| {
            let mut request = empty("GET", "/");
            request.extensions_mut().insert(Prelude(name.into()));
            assert_eq!(text(client.request(request).await.unwrap()).await.unwrap(), "ok");
            pause(SECOND).await;
            (client.stats().opened, client.stats().evicted, client.idle_connections())
        };
        assert_eq!(ask("A\r\n").await, (1, 0, 1));
        assert_eq!(ask("B\r\n").await, (2, 0, 2));
        assert_eq!(ask("C\r\n").await, (3, 0, 3));
        // Not the oldest, but the one that has rested for longest.
        assert_eq!(ask("A\r\n").await, (3, 0, 3));
        assert_eq!(ask("D\r\n").await, (4, 1, 3));
        assert_eq!(ask("A\r\n").await, (4, 1, 3));
        assert_eq!(ask("C\r\n").await, (4, 1, 3));
        assert_eq!(ask("B\r\n").await, (5, 2, 3));
        assert_eq!(client.connections(), 3);
        // Those that are used again and again leave nothing behind that is in the way.
        for _ in 0..100 {
            ask("A\r\n").await;
        }
        assert_eq!(ask("C\r\n").await, (5, 2, 3));
        assert_eq!(ask("E\r\n").await, (6, 3, 3));
        assert_eq!(ask("A\r\n").await, (6, 3, 3));
        assert_eq!(ask("C\r\n").await, (6, 3, 3));
    });
}

#[test]
fn a_connection_closed_while_idle_is_not_handed_out() {
    world(
        || {
            raw(|_, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                write(&mut stream, OK).await;
                pause(SECOND).await;
            });
        },
        async {
            let client = Client::new();
            for i in 1..5 {
                assert_eq!(get(&client, "/").await.unwrap(), "ok");
                assert_eq!(client.idle_connections(), 1);
                pause(2 * SECOND).await;
                // Noticed when it happens, not when the next request comes.
                assert_eq!((client.connections(), client.stats().evicted), (0, i));
            }
            assert_eq!((client.stats().opened, client.stats().retried), (4, 0));
        },
    );
}

#[test]
fn what_comes_unasked_ends_an_idle_connection() {
    for late in [false, true] {
        world(
            move || {
                raw(move |_, mut stream| async move {
                    read_head(&mut stream).await.unwrap();
                    let extra = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
                    if late {
                        write(&mut stream, OK).await;
                        pause(SECOND).await;
                        write(&mut stream, extra).await;
                    } else {
                        write(&mut stream, format!("{OK}{extra}")).await;
                    }
                    assert_eq!(read_head(&mut stream).await, None);
                });
            },
            async move {
                let client = Client::new();
                for _ in 0..3 {
                    assert_eq!(get(&client, "/").await.unwrap(), "ok");
                    pause(2 * SECOND).await;
                }
                let stats = client.stats();
                // What comes with the response never lets the connection become idle.
                let evicted = if late { 3 } else { 0 };
                assert_eq!((stats.opened, stats.reused, stats.evicted), (3, 0, evicted));
            },
        );
    }
}

#[test]
fn idle_and_old_connections_are_given_up() {
    world(|| raw(|_, stream| answer_all(stream)), async {
        let client = Client::builder().idle_timeout(10 * SECOND).build();
        get(&client, "/").await.unwrap();
        pause(9 * SECOND).await;
        get(&client, "/").await.unwrap();
        pause(9 * SECOND).await;
        assert_eq!(client.connections(), 1);
        pause(2 * SECOND).await;
        assert_eq!((client.connections(), client.stats().evicted), (0, 1));

        let client = Client::builder().max_lifetime(10 * SECOND).build();
        for _ in 0..5 {
            get(&client, "/").await.unwrap();
            pause(3 * SECOND).await;
        }
        let stats = client.stats();
        assert_eq!((stats.opened, stats.reused, stats.evicted), (2, 3, 1));
    });
}

#[test]
fn at_the_limit_requests_wait_in_line() {
    world(|| drop(serve(Server::new())), async {
        let client = Client::builder().max_connections_per_host(2).queue(3, 10 * SECOND).build();
        let begin = throng_runtime::now();
        let replies = join_all((0..6).map(|_| get(&client, "/slow"))).await;
        assert_passed(begin, 3 * SECOND);
        let refused: Vec<_> = replies.iter().filter_map(|reply| reply.as_ref().err()).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].kind(), ErrorKind::Exhausted);
        let stats = client.stats();
        assert_eq!((stats.opened, stats.reused, stats.refused), (2, 3, 1));
    });
}

#[test]
fn waiting_in_line_has_an_end() {
    world(|| drop(serve(Server::new())), async {
        let client = Client::builder().max_connections_per_host(1).queue(10, SECOND / 2).build();
        let begin = throng_runtime::now();
        let (first, second) = futures::join!(get(&client, "/slow"), async {
            let reply = get(&client, "/hello").await;
            assert_passed(begin, SECOND / 2);
            reply
        });
        assert_eq!(first.unwrap(), "slow");
        assert_eq!(second.unwrap_err().kind(), ErrorKind::Timeout(Phase::Queue));
        // Who left the line is not given anything.
        assert_eq!(get(&client, "/hello").await.unwrap(), "hello");
        assert_eq!(client.connections(), 1);
    });
}

#[test]
fn who_gives_up_leaves_its_place_to_the_next() {
    world(|| drop(serve(Server::new())), async {
        let client = Client::builder().max_connections_per_host(1).build();
        let begin = throng_runtime::now();
        let hurried = async {
            throng_runtime::timeout(SECOND / 10, get(&client, "/slow")).await.unwrap_err();
            // In line, given up before its turn.
            throng_runtime::timeout(SECOND / 10, get(&client, "/slow")).await.unwrap_err();
        };
        let patient = async {
            pause(SECOND / 20).await;
            assert_eq!(get(&client, "/slow").await.unwrap(), "slow");
            assert_passed(begin, SECOND / 10 + SECOND);
        };
        futures::join!(hurried, patient);
        // The request given up closed its connection; no place is lost.
        assert_eq!(client.stats().opened, 2);
        assert_eq!(get(&client, "/hello").await.unwrap(), "hello");
        assert_eq!(client.connections(), 1);
    });
}

#[test]
fn a_failed_connection_gives_its_place_back() {
    world(|| {}, async {
        let client = Client::builder().max_connections_per_host(1).build();
        let replies = join_all((0..5).map(|_| get(&client, "/"))).await;
        for reply in replies {
            let error = reply.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connect);
            let io = std::io::Error::from(error);
            assert_eq!(io.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        assert_eq!((client.connections(), client.stats().opened), (0, 0));
    });
}

#[test]
fn a_body_dropped_midway_closes_its_connection() {
    let (closed, count) = counter();
    world(
        move || {
            raw(move |_, mut stream| {
                let count = count.clone();
                async move {
                    read_head(&mut stream).await.unwrap();
                    write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    count.set(count.get() + 1);
                }
            });
        },
        async move {
            let client = Client::new();
            for i in 1..4 {
                let mut response = client.request(empty("GET", "/")).await.unwrap();
                let frame = response.body_mut().frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), "some");
                assert_eq!(client.connections(), 1);
                drop(response);
                pause(SECOND).await;
                assert_eq!((closed.get(), client.connections()), (i, 0));
            }
            assert_eq!(client.stats().reused, 0);
        },
    );
}

#[test]
fn the_last_client_takes_its_idle_connections_along() {
    let (closed, count) = counter();
    world(
        move || {
            raw(move |_, mut stream| {
                let count = count.clone();
                async move {
                    while read_head(&mut stream).await.is_some() {
                        write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await;
                        pause(SECOND).await;
                        // Whoever reads no more has reset the connection.
                        let _ = stream.write_all(b"cd").await;
                    }
                    count.set(count.get() + 1);
                }
            });
        },
        async move {
            let client = Client::new();
            get(&client, "/").await.unwrap();
            let running = client.clone().request(empty("GET", "/")).await.unwrap();
            let other = client.request(empty("GET", "/")).await.unwrap();
            drop(other);
            drop(client);
            pause(SECOND / 2).await;
            // A response under way is read to its end; then nothing is left.
            let bytes = running.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(bytes, "abcd");
            pause(2 * SECOND).await;
            assert_eq!(closed.get(), 2);
        },
    );
}

#[test]
fn hosts_are_told_apart() {
    world(
        || {
            raw(|_, stream| answer_all(stream));
            let any: std::net::SocketAddr = "0.0.0.0:81".parse().unwrap();
            let listener = throng_net::TcpListener::bind(any).unwrap();
            crate::world::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                answer_all(stream).await;
            });
        },
        async {
            let client = Client::new();
            for uri in ["http://10.0.0.1/", "http://10.0.0.1:80/a", "http://10.0.0.1:81/"] {
                let request = hyper::Request::get(uri);
                let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
                client.request(request).await.unwrap().into_body().collect().await.unwrap();
            }
            let stats = client.stats();
            assert_eq!((stats.opened, stats.reused), (2, 1));
        },
    );
}

#[test]
fn a_connection_given_to_who_did_not_want_it_may_have_ended() {
    let held = Rc::new(());
    let token = held.clone();
    world(
        || {
            raw(|_, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                pause(SECOND).await;
                write(&mut stream, OK).await;
                pause(SECOND).await;
            });
        },
        async move {
            let connector = move |target: &throng_http::client::Target| {
                let _token = &token;
                throng_http::client::Connect::connect(&throng_http::client::TcpConnector, target)
            };
            let client = Client::builder().connector(connector).max_connections_per_host(1).build();
            let mut waiting = Box::pin(get(&client, "/"));
            let first = get(&client, "/");
            let mut first = Box::pin(first);
            assert!(futures::poll!(&mut first).is_pending());
            assert!(futures::poll!(&mut waiting).is_pending());
            assert_eq!(first.await.unwrap(), "ok");
            // It has been given the connection, and is not polled until that is closed.
            pause(3 * SECOND).await;
            drop(waiting);
            assert_eq!((client.connections(), client.idle_connections()), (0, 0));
        },
    );
    assert_eq!(Rc::strong_count(&held), 1, "the pool is gone with its client");
}
