//! Listeners, their accept queues and what happens when those are full.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::config::CongestionControl;
use super::engine::{ConnId, ListenerId};
use super::error::Error;
use super::segment::{Addr, FourTuple};

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) addr: SocketAddr,
    pub(super) backlog: usize,
    /// Established and not accepted.
    pub(super) ready: VecDeque<ConnId>,
    /// Half open on behalf of this listener.
    pub(super) half_open: usize,
    /// An `Acceptable` event waits to be popped.
    pub(super) event: bool,
    /// What its connections have where it is not the engine's.
    pub(super) congestion: Option<CongestionControl>,
}

#[derive(Debug, Default)]
pub(super) struct Listeners {
    entries: Vec<(u32, Option<Listener>)>,
    by_addr: HashMap<(Addr, u16), u32>,
}

impl Listeners {
    pub(super) fn insert(&mut self, addr: SocketAddr, backlog: usize) -> Result<ListenerId, Error> {
        let key = (Addr::from(addr.ip()), addr.port());
        if self.by_addr.contains_key(&key) {
            return Err(Error::AddrInUse);
        }
        let index = match self.entries.iter().position(|(_, l)| l.is_none()) {
            Some(index) => index,
            None => {
                self.entries.push((0, None));
                self.entries.len() - 1
            }
        };
        let (generation, entry) = &mut self.entries[index];
        let backlog = backlog.max(1);
        *entry = Some(Listener {
            addr,
            backlog,
            ready: VecDeque::new(),
            half_open: 0,
            event: false,
            congestion: None,
        });
        self.by_addr.insert(key, index as u32);
        Ok(ListenerId { index: index as u32, generation: *generation })
    }

    pub(super) fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        let (generation, entry) = self.entries.get_mut(id.index as usize)?;
        if *generation != id.generation {
            return None;
        }
        let listener = entry.take()?;
        *generation = generation.wrapping_add(1);
        self.by_addr.remove(&(Addr::from(listener.addr.ip()), listener.addr.port()));
        Some(listener)
    }

    pub(super) fn get(&self, id: ListenerId) -> Option<&Listener> {
        let (generation, entry) = self.entries.get(id.index as usize)?;
        entry.as_ref().filter(|_| *generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        let (generation, entry) = self.entries.get_mut(id.index as usize)?;
        entry.as_mut().filter(|_| *generation == id.generation)
    }

    /// Who listens at the local end of `tuple`: the exact address first, then the family's
    /// wildcard, then the IPv6 wildcard, which stands for both.
    pub(super) fn find(&self, tuple: &FourTuple) -> Option<ListenerId> {
        let v6_any = Addr([0; 16]);
        let v4_any = Addr::from(IpAddr::from([0, 0, 0, 0]));
        let family_any = if tuple.local.is_ipv4() { v4_any } else { v6_any };
        let index = [tuple.local, family_any, v6_any]
            .iter()
            .find_map(|addr| self.by_addr.get(&(*addr, tuple.local_port)))?;
        Some(ListenerId { index: *index, generation: self.entries[*index as usize].0 })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.entries.iter().filter_map(|(_, listener)| listener.as_ref())
    }
}
