//! What one shard has: the configuration in force, its upstreams, its counts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::Serialize;
use throng::http::plain::Scratch;
use throng::net::proxy_protocol::ProxyProtocol;
use throng::runtime::{Instant, now};

use crate::group::Group;
use crate::life::Ends;
use crate::log::Log;
use crate::random::Random;
use crate::rate::Limiter;
use crate::route::Router;
use crate::world::World;

/// Totals of a shard.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Responses begun, the balancer's own among them.
    pub(crate) responses: u64,
    /// Requests answered by the balancer itself because they were malformed, too large or had
    /// no route (4xx and 501).
    pub(crate) refused: u64,
    /// And because no server answered properly (502, 503, 504).
    pub(crate) unanswered: u64,
    /// Requests that went without hyper.
    pub(crate) direct: u64,
    /// Requests sent to another server.
    pub(crate) retries: u64,
    /// Connections upgraded.
    pub(crate) tunnels: u64,
    /// Connections of trusted proxies closed because no proper PROXY protocol header came.
    pub(crate) unannounced: u64,
    /// Connections passed on as they are.
    pub(crate) passed: u64,
}

impl Counts {
    pub(crate) fn refused(&mut self, status: StatusCode) {
        match matches!(status.as_u16(), 502..=504) {
            true => self.unanswered += 1,
            false => self.refused += 1,
        }
    }
}

/// A configuration as this shard works by it. A request keeps the one it began with.
pub(crate) struct State {
    pub(crate) world: Arc<World>,
    pub(crate) router: Router,
    /// The upstream of each route; a redirect has none.
    pub(crate) routes: Vec<Option<Rc<Group>>>,
    pub(crate) groups: BTreeMap<String, Rc<Group>>,
    /// The rate limit of each route that has one.
    pub(crate) limiters: Vec<Option<Rc<RefCell<Limiter>>>>,
}

impl State {
    fn new(world: Arc<World>, old: Option<&State>) -> io::Result<State> {
        let mut groups = BTreeMap::new();
        for name in world.config.upstream.keys() {
            let old = old.and_then(|old| old.groups.get(name)).map(|group| &**group);
            let group = Group::new(name, &world, old)
                .ok_or_else(|| io::Error::other(format!("upstream {name} cannot be made")))?;
            groups.insert(name.clone(), Rc::new(group));
        }
        let routes = world.config.route.iter();
        let routes = routes.map(|route| {
            let upstream = route.as_ref().upstream.as_ref()?;
            groups.get(upstream.as_ref()).cloned()
        });
        let limiters = world.config.route.iter().enumerate().map(|(number, route)| {
            let limit = route.as_ref().rate_limit.as_ref()?;
            // Clients do not get a new burst by a reload that does not concern them.
            let same = old.filter(|old| old.world.config.route.get(number) == Some(route));
            same.and_then(|old| old.limiters.get(number).cloned().flatten()).or_else(|| {
                let limiter = Limiter::new(limit.requests.0, limit.per.0, limit.burst.0);
                Some(Rc::new(RefCell::new(limiter)))
            })
        });
        Ok(State {
            limiters: limiters.collect(),
            router: Router::new(world.config.route.iter().map(|route| route.as_ref())),
            routes: routes.collect(),
            groups,
            world,
        })
    }
}

pub(crate) struct Shard {
    state: RefCell<Rc<State>>,
    /// What it may have to work by next.
    next: RefCell<Option<Rc<State>>>,
    pub(crate) random: RefCell<Random>,
    pub(crate) log: Log,
    pub(crate) ends: Ends,
    counts: Cell<Counts>,
    proxies: Vec<ProxyProtocol>,
    /// For the heads of responses, one after the other.
    pub(crate) scratch: RefCell<Scratch>,
    /// Memory of messages that are out.
    pub(crate) spare: Spare,
    /// The `date` field of the present second, and when that ends.
    date: Cell<([u8; 29], Instant)>,
}

thread_local! {
    /// For tasks that other shards send here.
    static HERE: RefCell<Option<Rc<Shard>>> = const { RefCell::new(None) };
}

impl Shard {
    /// Makes this thread's shard work by `world`.
    ///
    /// # Errors
    /// There is no randomness.
    pub(crate) fn start(
        world: Arc<World>,
        log: Log,
        ends: Ends,
        proxies: Vec<ProxyProtocol>,
    ) -> io::Result<Rc<Shard>> {
        let shard = Rc::new(Shard {
            state: RefCell::new(Rc::new(State::new(world, None)?)),
            next: RefCell::default(),
            random: RefCell::new(Random::from_system()?),
            log,
            ends,
            counts: Cell::default(),
            proxies,
            scratch: RefCell::default(),
            spare: Spare::default(),
            date: Cell::new(([0; 29], Instant::ZERO)),
        });
        HERE.set(Some(shard.clone()));
        Ok(shard)
    }

    /// This thread's shard, until it has ended.
    pub(crate) fn here() -> Option<Rc<Shard>> {
        HERE.with_borrow(Clone::clone)
    }

    /// Lets go of what the runtime must not outlive.
    pub(crate) fn end() {
        drop(HERE.take());
    }

    pub(crate) fn state(&self) -> Rc<State> {
        self.state.borrow().clone()
    }

    /// Makes ready to work by another configuration.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn prepare(&self, world: Arc<World>) -> io::Result<()> {
        let state = State::new(world, Some(&self.state()))?;
        self.set_next(Some(Rc::new(state)));
        Ok(())
    }

    /// Forgets what was made ready.
    pub(crate) fn stay(&self) {
        self.set_next(None);
    }

    /// Works by what was made ready, if anything was, for requests from now on.
    pub(crate) fn change(&self) {
        if let Some(state) = self.next.take() {
            // Not while the cell is borrowed: what is dropped may ask for the state.
            let replaced = self.state.replace(state);
            drop(replaced);
        }
    }

    fn set_next(&self, next: Option<Rc<State>>) {
        let replaced = self.next.replace(next);
        drop(replaced);
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    pub(crate) fn counts(&self) -> Counts {
        let proxies = self.proxies.iter().map(ProxyProtocol::counters);
        let unannounced = proxies.map(|counters| counters.malformed + counters.timed_out).sum();
        Counts { unannounced, ..self.counts.get() }
    }

    /// What the `date` field says now (RFC 9110 5.6.7), to a second.
    pub(crate) fn date(&self) -> [u8; 29] {
        let (mut date, until) = self.date.get();
        if until <= now() {
            let text = httpdate::fmt_http_date(SystemTime::now());
            if let Some(text) = text.as_bytes().first_chunk() {
                date = *text;
            }
            self.date.set((date, now() + Duration::from_secs(1)));
        }
        date
    }

    /// A name that no other request has.
    pub(crate) fn request_id(&self) -> RequestId {
        let mut random = self.random.borrow_mut();
        let number = u128::from(random.next()) << 64 | u128::from(random.next());
        let digit = |at| b"0123456789abcdef"[(number >> (124 - 4 * at)) as usize & 15];
        RequestId::Ours(std::array::from_fn(digit))
    }
}

/// Memory that messages were written to, for the next ones.
#[derive(Default)]
pub(crate) struct Spare(RefCell<Vec<Vec<u8>>>);

impl Spare {
    /// How many are kept, and up to which size.
    const MOST: usize = 256;
    const LARGEST: usize = 32 << 10;
    /// Most messages of a small site.
    const USUAL: usize = 1 << 10;

    /// An empty one.
    pub(crate) fn take(&self) -> Vec<u8> {
        let spare = self.0.borrow_mut().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(Spare::USUAL))
    }

    pub(crate) fn put(&self, mut memory: Vec<u8>) {
        let mut all = self.0.borrow_mut();
        if (1..=Spare::LARGEST).contains(&memory.capacity()) && all.len() < Spare::MOST {
            memory.clear();
            all.push(memory);
        }
    }
}

/// What a request is called, in fields of both sides and in the log.
pub(crate) enum RequestId {
    /// 32 digits.
    Ours([u8; 32]),
    /// As a trusted peer calls it.
    Theirs(Box<[u8]>),
}

impl RequestId {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            RequestId::Ours(id) => id,
            RequestId::Theirs(id) => id,
        }
    }
}
