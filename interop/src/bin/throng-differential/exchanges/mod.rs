//! The exchanges, by subject.

mod closing;
mod data;
mod opening;

use crate::exchange::Exchange;

/// A name, whether it is over IPv6, and what is done.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) ipv6: bool,
    pub(crate) play: fn(&mut Exchange),
}

const fn v4(name: &'static str, play: fn(&mut Exchange)) -> Script {
    Script { name, ipv6: false, play }
}

const fn v6(name: &'static str, play: fn(&mut Exchange)) -> Script {
    Script { name, ipv6: true, play }
}

/// All of them.
pub(crate) fn all() -> Vec<&'static Script> {
    [opening::ALL, data::ALL, closing::ALL].into_iter().flatten().collect()
}
