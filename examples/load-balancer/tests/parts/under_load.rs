//! Servers that die and hang, new configurations and the end, while clients ask on and on.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::place::{Client, Place, scaled, wait_until};

const SITE: &str = "location / { return 200 $server_port; }";

/// What clients have seen, each with a connection that it keeps.
#[derive(Debug, Default)]
struct Seen {
    fine: AtomicUsize,
    /// Statuses other than 200 of what may be asked again, and connections that ended.
    failed: AtomicUsize,
    /// The same of what may not.
    unrepeated: AtomicUsize,
    stop: AtomicBool,
}

/// Clients that ask until they are told to stop. With `posts`, every fourth request is one that
/// must not be sent twice.
fn clients(address: &'static str, posts: bool) -> (Arc<Seen>, Vec<JoinHandle<()>>) {
    let seen = Arc::new(Seen::default());
    let one = move |client: usize, seen: &Seen| {
        let mut kept = None;
        let mut number = client;
        while !seen.stop.load(Ordering::Relaxed) {
            number += 1;
            let post = posts && number.is_multiple_of(4);
            let method = if post { "POST" } else { "GET" };
            let connection = match &mut kept {
                Some(connection) => connection,
                none => none.insert(Client::to(address).unwrap()),
            };
            let fine = match connection.ask(method, "/", "") {
                Ok(answer) => answer.status == 200,
                Err(_) => {
                    kept = None;
                    false
                }
            };
            let count = match (fine, post) {
                (true, _) => &seen.fine,
                (false, true) => &seen.unrepeated,
                (false, false) => &seen.failed,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let clients = (0..8).map(|client| {
        let seen = seen.clone();
        thread::spawn(move || one(client, &seen))
    });
    let clients = clients.collect();
    (seen, clients)
}

impl Seen {
    fn fine(&self) -> usize {
        self.fine.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    fn more(&self, count: usize) {
        let wanted = self.fine() + count;
        wait_until("answers", || self.fine() >= wanted);
    }

    fn end(&self, clients: Vec<JoinHandle<()>>) -> [usize; 3] {
        self.stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        [&self.fine, &self.failed, &self.unrepeated].map(|count| count.load(Ordering::Relaxed))
    }
}

/// One server is killed and one stops answering, one after the other. Nobody who may be asked again
/// notices; of the others it is counted.
#[test]
fn a_killed_and_a_hung_server_cost_no_request_that_may_be_repeated() {
    let Some(mut place) = Place::new() else { return };
    let Some(killed) = place.nginx(9001, "", SITE) else { return };
    let Some(hung) = place.nginx(9002, "", SITE) else { return };
    let Some(_) = place.nginx(9003, "", SITE) else { return };
    place.python(9004);
    let more = "timeout = { connect = \"1s\", response = \"400ms\" }\n\
        retry = { servers = 3, on = [\"connect\", \"closed\", \"timeout\"] }\n\
        eject = { failures = 4, time = \"1h\", max_time = \"1h\" }";
    let servers = [(9001, ""), (9002, ""), (9003, ""), (9004, "")];
    place.balancer(&place.config(&servers, more));
    let (seen, clients) = clients(place.balancer_at(), true);
    let some = scaled(200, 10_000);
    seen.more(some);
    place.kill(killed);
    seen.more(some);
    place.signal(hung, Signal::SIGSTOP);
    seen.more(some);
    wait_until("both are ejected", || place.number("throng_lb_server_ejected{", ":900") >= 2.0);
    seen.more(some);
    let [fine, failed, unrepeated] = seen.end(clients);
    println!("{fine} answered, {failed} failed, {unrepeated} that must not be repeated failed");
    assert_eq!(failed, 0);
    // Those that were at the server when it went, and those before it was ejected: four failures
    // of it, and of each client one on its way.
    assert!(unrepeated <= 2 * (4 + 8), "{unrepeated}");
    let answered = place.number("throng_lb_responses_total", "");
    assert_eq!(answered, (fine + failed + unrepeated) as f64);
    assert_eq!(place.number("throng_lb_unanswered_total", ""), unrepeated as f64);
}

/// 50,000 requests, where there is time for them, while the configuration changes again and again.
#[test]
fn reloads_lose_nothing() {
    let Some(mut place) = Place::new() else { return };
    let (Some(_), Some(_)) = (place.nginx(9001, "", SITE), place.nginx(9002, "", SITE)) else {
        return;
    };
    let configs = [
        place.config(&[(9001, "")], ""),
        place.config(&[(9001, ""), (9002, "")], "policy = \"least-connections\""),
        place.config(&[(9002, "")], "keepalive = { connections = 4, idle_timeout = \"1s\" }"),
    ];
    let balancer = place.balancer(&configs[0]);
    let (seen, clients) = clients(place.balancer_at(), true);
    let (count, mut reloads) = (scaled(1_500, 50_000), 0);
    // However fast this machine is.
    while seen.fine() < count || reloads < 5 {
        reloads += 1;
        fs::write(place.path("lb.toml"), &configs[reloads % 3]).unwrap();
        place.signal(balancer, Signal::SIGHUP);
        let done = format!("\"reloads\":{reloads},");
        wait_until("the reload", || place.state().contains(&done));
        thread::sleep(Duration::from_millis(20));
    }
    let [fine, failed, unrepeated] = seen.end(clients);
    println!("{fine} answered during {reloads} reloads, {failed} and {unrepeated} failed");
    assert_eq!((failed, unrepeated), (0, 0));
}

/// At the end every request that came is answered; a connection that rests may be closed.
#[test]
fn the_end_answers_what_has_come() {
    let Some(mut place) = Place::new() else { return };
    let Some(_) = place.nginx(9001, "", "location / { limit_rate 20k; }") else { return };
    fs::write(place.path("page"), vec![b'x'; 30_000]).unwrap();
    let balancer = place.balancer(&place.config(&[(9001, "")], ""));
    let count = scaled(20, 400);
    let mut clients: Vec<Client> =
        (0..count).map(|_| Client::to(place.balancer_at()).unwrap()).collect();
    for client in &mut clients {
        client.send("GET", "/page", "").unwrap();
    }
    // All heads have come: all are in the middle of it, for another half a second.
    let lengths: Vec<u64> = clients.iter_mut().map(|client| client.head().unwrap().2).collect();
    assert!(lengths.iter().all(|length| *length == 30_000));
    place.signal(balancer, Signal::SIGTERM);
    for client in &mut clients {
        let mut body = vec![0; 30_000];
        std::io::Read::read_exact(client.reader(), &mut body).unwrap();
        assert!(body.iter().all(|byte| *byte == b'x'));
    }
    drop(clients);
    assert!(place.ended(balancer));
}
