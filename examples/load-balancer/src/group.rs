//! An upstream on one shard: picks a server for a request, counts what each has, and lets
//! requests wait while all have what they may have.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use http::StatusCode;
use http::uri::Authority;
use throng::http::client::{Builder, Client, Destination, Error, ErrorKind, HttpVersion, Target};
use throng::http::rt::Alarm;
use throng::runtime::now;
use throng::timeout;
use throng::tls::Connector;

use crate::balance::{Balancer, Candidate, Ewma};
use crate::config::{Policy, Protocol, Server as ServerConfig, ServerAddress, Upstream};
use crate::histogram::Histogram;
use crate::random::Random;
use crate::tls;
use crate::vitals::Vitals;
use crate::world::World;

/// How often the first request that waits looks whether a server has become healthy.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a request gets no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// None is healthy, or the request has been to all that are.
    NoServer,
    /// All have what they may have, and so has the queue.
    QueueFull,
    /// Waiting took too long.
    QueueTimeout,
}

/// What one shard has done with a server.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Counts {
    /// Requests sent to it, each attempt for itself.
    pub(crate) requests: u64,
    /// Those that got no response.
    pub(crate) failures: u64,
    /// Responses by the hundred of their status: 2 to 5.
    pub(crate) responses: [u64; 4],
}

/// A server as one shard knows it.
pub(crate) struct Server {
    pub(crate) address: ServerAddress,
    pub(crate) authority: Authority,
    /// The address as the log has it.
    pub(crate) label: Arc<str>,
    /// What the sticky cookie calls it.
    pub(crate) id: String,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) in_flight: Cell<u32>,
    pub(crate) counts: Cell<Counts>,
    latency: Cell<Ewma>,
    /// To the heads of responses.
    pub(crate) latencies: Histogram,
}

impl Server {
    fn new(config: &ServerConfig, vitals: Arc<Vitals>) -> Option<Server> {
        let address = config.address.clone();
        let text = address.to_string();
        let id = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
        Some(Server {
            authority: text.parse().ok()?,
            label: text.into(),
            address,
            id,
            vitals,
            in_flight: Cell::new(0),
            counts: Cell::default(),
            latency: Cell::default(),
            latencies: Histogram::default(),
        })
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// The head of a response has come after so many seconds; `well`: not of one that says that
    /// the server has failed.
    fn answered_after(&self, seconds: f64, well: bool) {
        let mut latency = self.latency.get();
        match well {
            true => latency.record(seconds, seconds_now()),
            false => latency.record_failure(seconds, seconds_now()),
        }
        self.latency.set(latency);
    }

    /// Its usual latency in seconds, 0 where none is known.
    pub(crate) fn latency(&self) -> f64 {
        self.latency.get().get(seconds_now())
    }
}

fn seconds_now() -> f64 {
    now().as_micros() as f64 / 1e6
}

struct Member {
    server: Rc<Server>,
    weight: f64,
    priority: u32,
    max_requests: u32,
    /// Where plain requests go; none where only hyper's go.
    destination: Option<Destination>,
}

pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) config: Upstream,
    pub(crate) client: Client,
    members: Vec<Member>,
    balancer: RefCell<Balancer>,
    /// Reused by every pick.
    candidates: RefCell<Vec<Candidate>>,
    /// Outlives a reload, so that who waits is woken by whoever leaves.
    queue: Rc<RefCell<VecDeque<Rc<Waiter>>>>,
}

#[derive(Default)]
struct Waiter(RefCell<Option<Waker>>);

/// What decides which server a request gets, beside the servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// For consistent hashing.
    pub(crate) hash: u64,
    /// The server that the sticky cookie names.
    pub(crate) sticky: Option<String>,
}

impl Group {
    /// The upstream `name` of `world`. Of `old` it keeps the servers that stay, with what they
    /// have, and the connections where they are made the same way.
    pub(crate) fn new(name: &str, world: &World, old: Option<&Group>) -> Option<Group> {
        let config = world.config.upstream.get(name)?.as_ref().clone();
        let known = |at: &ServerConfig| {
            let members = old.map_or(&[][..], |old| &old.members);
            members.iter().map(|member| &member.server).find(|server| server.address == at.address)
        };
        let weights = world.members(name).iter().map(|member| &member.config);
        let weights = weights.map(|server| (server.address.to_string(), server.weight.0));
        let balancer = Balancer::new(config.policy, &weights.collect::<Vec<_>>());
        let same = |old: &&Group| {
            let (old, new) = (&old.config, &config);
            // Roots may have changed in their file.
            let plain = old.tls.is_none() && new.tls.is_none();
            plain
                && old.protocol == new.protocol
                && old.proxy_protocol == new.proxy_protocol
                && old.timeout == new.timeout
                && old.keepalive == new.keepalive
                && most_idle(old) == most_idle(new)
        };
        let client = match old.filter(same) {
            Some(old) => old.client.clone(),
            None => client_builder(&config, world.connector(name)).build(),
        };
        let secure = config.tls.is_some();
        // With a PROXY protocol header connections are a client's own.
        let is_plain = config.protocol == Protocol::Http1 && config.proxy_protocol.is_none();
        let destination = |address: &ServerAddress| {
            let scheme = if secure { "https" } else { "http" };
            let uri = format!("{scheme}://{address}/").parse().ok()?;
            let target = Target::of(&uri).ok().filter(|_| is_plain)?;
            Some(client.destination(&target))
        };
        let members = world.members(name).iter().map(|member| {
            let server = &member.config;
            Some(Member {
                server: match known(server) {
                    Some(server) => server.clone(),
                    None => Rc::new(Server::new(server, member.vitals.clone())?),
                },
                weight: f64::from(server.weight.0),
                priority: server.priority.0,
                max_requests: server.max_requests.0,
                destination: destination(&server.address),
            })
        });
        let members: Vec<Member> = members.collect::<Option<_>>()?;
        Some(Group {
            name: name.to_owned(),
            config,
            client,
            members,
            balancer: RefCell::new(balancer),
            candidates: RefCell::default(),
            queue: old.map(|old| old.queue.clone()).unwrap_or_default(),
        })
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Rc<Server>> {
        self.members.iter().map(|member| &member.server)
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Whether a plain request can go to any of the servers.
    pub(crate) fn is_plain(&self) -> bool {
        self.members.iter().all(|member| member.destination.is_some())
    }

    /// A server for a request, or why there is none; `None`: it has to wait.
    pub(crate) fn try_acquire(
        self: &Rc<Self>,
        wish: &Wish,
        random: &RefCell<Random>,
    ) -> Option<Result<Slot, Unavailable>> {
        if !self.queue.borrow().is_empty() {
            return None;
        }
        match self.pick(wish, &[], random) {
            Err(Unavailable::QueueFull) => None,
            decided => Some(decided),
        }
    }

    /// A server for a request, at once or when one comes free.
    ///
    /// # Errors
    /// See [`Unavailable`].
    pub(crate) async fn acquire(
        self: &Rc<Self>,
        wish: &Wish,
        random: &RefCell<Random>,
    ) -> Result<Slot, Unavailable> {
        if let Some(decided) = self.try_acquire(wish, random) {
            return decided;
        }
        if self.queue.borrow().len() >= self.config.queue.length {
            return Err(Unavailable::QueueFull);
        }
        let waiter = Rc::new(Waiter::default());
        self.queue.borrow_mut().push_back(waiter.clone());
        let place = Place { group: self, waiter };
        // Who leaves wakes the next. That a server is well again, on whichever shard that was found
        // out, is looked for by the first in the line.
        let (mut alarm, mut again) = (Alarm::default(), now() + LOOK_AGAIN);
        let turn = poll_fn(|cx| {
            loop {
                *place.waiter.0.borrow_mut() = Some(cx.waker().clone());
                if !place.is_first() {
                    return Poll::Pending;
                }
                match self.pick(wish, &[], random) {
                    Err(Unavailable::QueueFull) => ready!(alarm.poll_at(again, cx)),
                    decided => return Poll::Ready(decided),
                }
                again = now() + LOOK_AGAIN;
            }
        });
        match timeout(self.config.queue.timeout.0, turn).await {
            Ok(decided) => decided,
            Err(_) => Err(Unavailable::QueueTimeout),
        }
    }

    /// A server now, but none of `tried`; [`Unavailable::QueueFull`] where those there are have
    /// what they may have.
    ///
    /// # Errors
    /// See [`Unavailable`].
    pub(crate) fn pick(
        self: &Rc<Self>,
        wish: &Wish,
        tried: &[Rc<Server>],
        random: &RefCell<Random>,
    ) -> Result<Slot, Unavailable> {
        let millis = now().as_millis();
        let is_tried = |member: &Member| tried.iter().any(|old| Rc::ptr_eq(old, &member.server));
        let well = |member: &&Member| member.server.vitals.is_well(millis);
        let serves = |member: &&Member| !member.server.vitals.is_drained();
        let all = self.members.iter().filter(serves).count();
        let healthy = self.members.iter().filter(well).count();
        // So few are healthy that health is more likely to be misjudged than true; or that they
        // would not survive all of the load.
        let panic = healthy * 100 < self.config.panic_percent.0 as usize * all;
        let usable =
            |member: &&Member| (panic && serves(member) || well(member)) && !is_tried(member);
        let priority = self.members.iter().filter(usable).map(|member| member.priority).min();
        let priority = priority.ok_or(Unavailable::NoServer)?;
        let by_latency = self.config.policy == Policy::Latency;
        let mut candidates = self.candidates.borrow_mut();
        candidates.clear();
        candidates.extend(self.members.iter().map(|member| {
            let server = &*member.server;
            let in_flight = server.in_flight.get();
            let may =
                usable(&member) && member.priority == priority && in_flight < member.max_requests;
            let weight = match may {
                true => member.weight * server.vitals.share(millis, self.config.slow_start.0),
                false => 0.0,
            };
            // It takes an exponential.
            let latency = if by_latency { server.latency() } else { 0.0 };
            Candidate { weight, in_flight, latency }
        }));
        let sticky = wish.sticky.as_ref().and_then(|id| {
            let at = self.members.iter().position(|member| member.server.id == *id)?;
            (candidates[at].weight > 0.0).then_some(at)
        });
        let picked = sticky.or_else(|| {
            let mut balancer = self.balancer.borrow_mut();
            balancer.pick(&candidates, wish.hash, &mut random.borrow_mut())
        });
        let member = picked.ok_or(Unavailable::QueueFull)?;
        let server = self.members[member].server.clone();
        server.in_flight.set(server.in_flight.get() + 1);
        server.count(|counts| counts.requests += 1);
        Ok(Slot { group: self.clone(), server, member })
    }

    fn wake_first(&self) {
        let first = self.queue.borrow().front().cloned();
        if let Some(waker) = first.and_then(|waiter| waiter.0.borrow_mut().take()) {
            waker.wake();
        }
    }
}

/// The pool for an upstream's servers. The limits are ours, so it has none; and no queue.
pub(crate) fn client_builder(config: &Upstream, connector: Option<Connector>) -> Builder {
    let version = match config.protocol {
        Protocol::Http1 => HttpVersion::Http1,
        Protocol::Http2 => HttpVersion::Http2,
    };
    let mut builder = Client::builder()
        .version(version)
        .max_connections_per_host(usize::MAX)
        .max_idle_per_host(config.keepalive.connections)
        .idle_timeout(config.keepalive.idle_timeout.0)
        .connect_timeout(config.timeout.connect.0)
        .head_timeout(config.timeout.response.0)
        .body_timeout(config.timeout.body.0);
    if let (Some(connector), Some(tls)) = (connector, &config.tls) {
        let name = tls.name.as_ref().map(|name| name.0.clone());
        builder = builder.connector(tls::connecting(connector, name));
    }
    if let Some(lifetime) = config.keepalive.lifetime {
        builder = builder.max_lifetime(lifetime.0);
    }
    if let Some(most) = most_idle(config) {
        builder = builder.max_idle_in_all(most);
    }
    builder
}

/// Where servers are told of clients, each client's connections are its own: together they are as
/// many as they would be otherwise.
fn most_idle(config: &Upstream) -> Option<usize> {
    config.proxy_protocol?;
    Some(config.keepalive.connections.saturating_mul(config.server.len()))
}

/// One request at a server, until dropped.
pub(crate) struct Slot {
    pub(crate) group: Rc<Group>,
    pub(crate) server: Rc<Server>,
    /// The server's number in the group.
    member: usize,
}

impl Slot {
    /// Where a plain request goes.
    pub(crate) fn destination(&self) -> Option<&Destination> {
        self.group.members.get(self.member)?.destination.as_ref()
    }

    /// The head of a response has come, after so long.
    pub(crate) fn answered(&self, status: StatusCode, after: Duration) {
        let server = &self.server;
        server.answered_after(after.as_secs_f64(), !status.is_server_error());
        server.latencies.record(after.as_micros() as u64);
        server.count(|counts| {
            let class = usize::from(status.as_u16() / 100).saturating_sub(2);
            counts.responses[class.min(3)] += 1;
        });
        server.vitals.succeeded(now().as_millis(), &self.group.config.eject);
    }

    /// The request, or the body of its response, has failed.
    pub(crate) fn failed(&self, error: &Error) {
        // That is the client's doing, or our own.
        if matches!(error.kind(), ErrorKind::RequestBody | ErrorKind::Exhausted) {
            return;
        }
        self.fault(error);
    }

    /// A connection was made after so long, or was not.
    pub(crate) fn connected(&self, outcome: Result<Duration, &io::Error>) {
        match outcome {
            Ok(after) => {
                self.server.answered_after(after.as_secs_f64(), true);
                self.server.vitals.succeeded(now().as_millis(), &self.group.config.eject);
            }
            Err(error) => self.fault(error),
        }
    }

    fn fault(&self, error: &dyn std::fmt::Display) {
        let server = &self.server;
        server.count(|counts| counts.failures += 1);
        let name = &self.group.name;
        tracing::debug!(upstream = %name, server = %server.address, %error, "a request failed");
        if let Some(time) = server.vitals.failed(now().as_millis(), &self.group.config.eject) {
            tracing::warn!(upstream = %name, server = %server.address, ?time, %error, "ejected");
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.server.in_flight.set(self.server.in_flight.get() - 1);
        self.group.wake_first();
    }
}

/// A place in the queue, until dropped.
struct Place<'g> {
    group: &'g Group,
    waiter: Rc<Waiter>,
}

impl Place<'_> {
    fn is_first(&self) -> bool {
        self.group.queue.borrow().front().is_some_and(|first| Rc::ptr_eq(first, &self.waiter))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.group.queue.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.waiter));
        // There may be room for the next one, too.
        self.group.wake_first();
    }
}
