//! From a name as it is written to addresses, as they come in.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{Shared, join_all};
use throng_runtime::try_spawn_local;

use super::cache::Outcome;
use super::message::Kind;
use super::name::HostName;
use super::rank::{self, Families};
use super::{Answering, Asked, Destination, Error, Resolver, Start, Token, loopback};
use crate::local;

/// The addresses of a destination, best first (RFC 6724); of a name in both families.
///
/// # Errors
/// What [`Error`] says, with its kinds: `NotFound` for a name that does not exist,
/// `AddrNotAvailable` for one without an address, `TimedOut` without an answer,
/// `InvalidInput` for what is no destination. Never an empty list.
pub async fn lookup_host(destination: impl Destination) -> io::Result<Vec<SocketAddr>> {
    let network = local::network()?;
    let (name, port) = match destination.start(Token) {
        Start::At(addr) => return Ok(vec![addr]),
        Start::Any(mut addrs) => {
            rank::sort(&mut addrs, |ip| network.source_for(ip, false));
            return Ok(addrs);
        }
        Start::Name(name, port) => (name, port),
        Start::Bad(error) => return Err(error),
    };
    let mut lookup = Lookup::new(network.resolver().clone(), &name, Families::BOTH)?;
    let mut addrs = Vec::new();
    while let Some(found) = poll_fn(|cx| lookup.poll_next(cx)).await {
        addrs.extend(found.iter().map(|ip| SocketAddr::new(*ip, port)));
    }
    if addrs.is_empty() {
        return Err(lookup.failure().into());
    }
    rank::sort(&mut addrs, |ip| network.source_for(ip, false));
    Ok(addrs)
}

/// A lookup under way: batches of addresses, one family at a time.
pub(super) struct Lookup {
    resolver: Rc<Resolver>,
    text: String,
    families: Families,
    /// Names still to be tried.
    candidates: VecDeque<HostName>,
    /// Addresses that nobody had to be asked for.
    known: Vec<IpAddr>,
    waiting: [Option<Shared<Answering>>; 2],
    /// Something has been found for the present candidate.
    found: bool,
    /// What the present candidate's questions ended in.
    errors: Vec<Error>,
    failure: Option<Error>,
}

impl Lookup {
    /// Begins to look for `text` in these families.
    ///
    /// # Errors
    /// [`Error::BadName`].
    pub(super) fn new(
        resolver: Rc<Resolver>,
        text: &str,
        families: Families,
    ) -> Result<Lookup, Error> {
        let name = HostName::parse(text)?;
        let (conf, hosts) = resolver.files();
        let mut lookup = Lookup {
            resolver,
            text: text.to_owned(),
            families,
            candidates: VecDeque::new(),
            known: Vec::new(),
            waiting: [None, None],
            found: false,
            errors: Vec::new(),
            failure: None,
        };
        if name.is_in("localhost") {
            lookup.known = loopback().to_vec();
        } else if name.is_in("invalid") {
            lookup.failure = Some(Error::NoSuchName(text.to_owned()));
        } else if let Some(addresses) = hosts.get(&name) {
            lookup.known = addresses.to_vec();
        } else {
            // resolv.conf(5), ndots: a name that looks whole is tried as it is first.
            let absolute = text.ends_with('.');
            let domains = conf.search.iter().filter(|_| !absolute);
            lookup.candidates = domains.filter_map(|domain| name.within(domain)).collect();
            if name.dots() >= conf.ndots {
                lookup.candidates.push_front(name);
            } else {
                lookup.candidates.push_back(name);
            }
            lookup.begin_next();
        }
        Ok(lookup)
    }

    /// Asks for the next candidate. Returns whether there was one.
    fn begin_next(&mut self) -> bool {
        let Some(name) = self.candidates.pop_front() else { return false };
        // The address families' questions go out together (RFC 8305 3: AAAA first).
        for (slot, kind, wanted) in
            [(0, Kind::Aaaa, self.families.v6), (1, Kind::A, self.families.v4)]
        {
            if !wanted {
                continue;
            }
            match self.resolver.ask((name.clone(), kind)) {
                Asked::Known(outcome) => self.note(outcome),
                Asked::Waiting(answering) => self.waiting[slot] = Some(answering),
            }
        }
        true
    }

    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Ok(addresses) => {
                self.found = true;
                self.known.extend_from_slice(&addresses);
            }
            Err(error) => self.errors.push(error),
        }
    }

    /// The next addresses; `None` when there will be no more.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<IpAddr>>> {
        loop {
            for slot in 0..2 {
                let Some(answering) = &mut self.waiting[slot] else { continue };
                if let Poll::Ready(outcome) = Pin::new(answering).poll(cx) {
                    self.waiting[slot] = None;
                    self.note(outcome);
                }
            }
            if !self.known.is_empty() {
                return Poll::Ready(Some(std::mem::take(&mut self.known)));
            }
            if self.waiting.iter().any(Option::is_some) {
                return Poll::Pending;
            }
            if self.found {
                return Poll::Ready(None);
            }
            self.give_candidate_up();
            if !self.begin_next() {
                return Poll::Ready(None);
            }
        }
    }

    /// Lets the answers that are still out come in, for the next lookup: an answer that is
    /// always later than a connection would cost every connection the wait for it. It ends
    /// with the servers' time, and is not done at the limit of tasks, nor where somebody else
    /// waits for the same answer.
    pub(super) fn finish_alone(self) {
        let waiting = self.waiting.into_iter().flatten();
        let waiting: Vec<_> = waiting.filter(|it| it.strong_count() == Some(1)).collect();
        if !waiting.is_empty() {
            let _ = try_spawn_local(join_all(waiting).map(drop));
        }
    }

    /// Whether the answer about IPv6 is still out.
    pub(super) fn waits_for_v6(&self) -> bool {
        self.waiting[0].is_some()
    }

    /// What one candidate's errors mean for the whole.
    fn give_candidate_up(&mut self) {
        let worst = self.errors.drain(..).max_by_key(Error::weight);
        let Some(worst) = worst else { return };
        if matches!(worst, Error::TimedOut(_) | Error::Busy(_) | Error::NoServer(_)) {
            // The next candidate would fare no better.
            self.candidates.clear();
        }
        if self.failure.as_ref().is_none_or(|failure| failure.weight() < worst.weight()) {
            self.failure = Some(worst);
        }
    }

    /// Why nothing has been found.
    pub(super) fn failure(&self) -> Error {
        match &self.failure {
            // Not one of the search list's, which nobody has written.
            Some(Error::NoSuchName(_)) => Error::NoSuchName(self.text.clone()),
            Some(error) => error.clone(),
            None => Error::NoAddress(self.text.clone()),
        }
    }
}
