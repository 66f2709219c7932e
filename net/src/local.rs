//! The network of the shard this code runs on.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

use throng_runtime::local;
use throng_runtime::metrics::Measured;

use crate::kernel::{self, Reactor};
use crate::resolver::{Families, Resolver};
use crate::stack::SharedStack;

/// What sockets of a shard are made on.
pub(crate) struct Network {
    stack: Option<SharedStack>,
    /// The host's sockets, made when the first is asked for.
    host: OnceCell<Rc<Reactor>>,
    /// In a simulated world the host has nothing to say.
    simulated: bool,
    resolver: Rc<Resolver>,
    /// What layers above count, by group.
    sources: RefCell<Vec<(&'static str, Weak<dyn Measured>)>>,
}

impl Network {
    /// A shard with a device.
    pub(crate) fn bypass(stack: SharedStack, simulated: bool, resolver: Resolver) -> Network {
        Network {
            stack: Some(stack),
            host: OnceCell::new(),
            simulated,
            resolver: Rc::new(resolver),
            sources: RefCell::default(),
        }
    }

    /// A shard on the host's sockets alone.
    pub(crate) fn host(reactor: Rc<Reactor>, resolver: Resolver) -> Network {
        Network {
            stack: None,
            host: OnceCell::from(reactor),
            simulated: false,
            resolver: Rc::new(resolver),
            sources: RefCell::default(),
        }
    }

    /// The shard's stack; without one, sockets are the host's.
    pub(crate) fn stack(&self) -> Option<&SharedStack> {
        self.stack.as_ref()
    }

    /// Remembers a source of numbers for as long as it lives.
    pub(crate) fn register(&self, group: &'static str, source: Weak<dyn Measured>) {
        let mut sources = self.sources.borrow_mut();
        sources.retain(|(_, source)| source.strong_count() > 0);
        sources.push((group, source));
    }

    /// Calls `f` with every source that lives.
    pub(crate) fn sources(&self, mut f: impl FnMut(&'static str, &dyn Measured)) {
        for (group, source) in self.sources.borrow().iter() {
            if let Some(source) = source.upgrade() {
                f(group, &*source);
            }
        }
    }

    /// Who knows addresses of names.
    pub(crate) fn resolver(&self) -> &Rc<Resolver> {
        &self.resolver
    }

    /// The stack, unless the host's sockets are wanted.
    fn stack_unless(&self, on_host: bool) -> Option<&SharedStack> {
        self.stack().filter(|_| !on_host)
    }

    /// The address a connection to `ip` comes from, of the stack's or the host's; `None`
    /// where no way leads there.
    pub(crate) fn source_for(&self, ip: IpAddr, on_host: bool) -> Option<IpAddr> {
        match self.stack_unless(on_host) {
            Some(stack) => stack.borrow().source_for(ip),
            None => kernel::source_for(ip),
        }
    }

    /// The families worth asking for. What the host has is not known before an address is.
    pub(crate) fn families(&self, on_host: bool) -> Families {
        self.stack_unless(on_host).map_or(Families::BOTH, |stack| stack.borrow().families())
    }

    /// The host's sockets, if there have been any.
    pub(crate) fn reactor(&self) -> Option<&Rc<Reactor>> {
        self.host.get()
    }

    /// The host's sockets.
    ///
    /// # Errors
    /// `Unsupported` in a simulated world; without a free descriptor.
    pub(crate) fn open_reactor(&self) -> io::Result<Rc<Reactor>> {
        if self.simulated {
            let text = "a simulated world has no host sockets";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        if let Some(reactor) = self.host.get() {
            return Ok(reactor.clone());
        }
        let reactor = Rc::new(Reactor::new()?);
        Ok(self.host.get_or_init(|| reactor).clone())
    }
}

/// Whether the network of this shard is the host's own: its device is `kernel`.
///
/// # Errors
/// Outside a shard, or on a shard without a network.
pub fn is_kernel() -> io::Result<bool> {
    Ok(network()?.stack().is_none())
}

/// Says that `to` is an address and port of one host, in principle.
///
/// # Errors
/// `InvalidInput` for an unspecified address, a group's, the broadcast address, and port 0.
pub(crate) fn check_unicast(to: SocketAddr) -> io::Result<()> {
    let ip = to.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if broadcast || ip.is_multicast() || ip.is_unspecified() || to.port() == 0 {
        return Err(invalid(format!("{to} is no address of one host")));
    }
    Ok(())
}

/// An `InvalidInput` error.
pub(crate) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The current shard's network.
///
/// # Errors
/// Outside a shard, or on a shard without a network.
pub(crate) fn network() -> io::Result<Rc<Network>> {
    local::get::<Network>().ok_or_else(|| {
        io::Error::other("no network here: sockets live on the shards of a throng_net::Builder")
    })
}

/// The current shard's stack.
///
/// # Errors
/// As for [`network`]; `Unsupported` on a shard whose network is the host's.
pub(crate) fn stack() -> io::Result<SharedStack> {
    network()?.stack().cloned().ok_or_else(|| {
        let text = "the device is `kernel`: this shard has no stack of its own";
        io::Error::new(io::ErrorKind::Unsupported, text)
    })
}
