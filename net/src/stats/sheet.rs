//! All numbers of a shard under their names.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use throng_runtime::metrics::{Measured, Metric};
use throng_runtime::{ShardId, current_shard};

use super::{Counters, ask};
use crate::{device, local, resolver, tcp};

throng_runtime::metrics! {
    /// What a stack holds at the moment beside its connections.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Held {
        /// Frames that wait for the device's transmit ring.
        gauge tx_queue: usize,
        /// UDP sockets.
        gauge udp_sockets: usize,
        /// Bytes that the connections' wakers take.
        gauge waker_memory: usize,
    }
}

/// The numbers every shard has, by group. A shard without a device has the first two only;
/// layers above add their own with [`register`].
pub const GROUPS: &[(&str, &[&[Metric]])] = &[
    ("runtime", &[throng_runtime::Stats::METRICS]),
    ("resolver", &[resolver::Stats::METRICS]),
    ("stack", &[Counters::METRICS, Held::METRICS]),
    ("device", &[device::Counters::METRICS]),
    ("tcp", &[tcp::Counters::METRICS, tcp::Usage::METRICS]),
];

/// Numbers that belong together.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they are about, one word in lower case.
    pub name: &'static str,
    /// The numbers; no name twice.
    pub values: Vec<(&'static Metric, u64)>,
}

/// All numbers of a shard at one moment.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// Whose they are.
    pub shard: ShardId,
    /// The numbers.
    pub groups: Vec<Group>,
    /// What the port itself counts, under the driver's own names; on the shard with its first
    /// queue only, and empty where the device has nothing to say.
    pub port: Vec<(String, u64)>,
}

impl Sheet {
    /// Adds numbers to a group; what is there under the same name is added up.
    fn add(&mut self, name: &'static str, source: &dyn Measured) {
        let at = self.groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
            self.groups.push(Group { name, values: Vec::new() });
            self.groups.len() - 1
        });
        let values = &mut self.groups[at].values;
        for (metric, value) in source.measure() {
            match values.iter_mut().find(|(known, _)| known.name == metric.name) {
                Some((_, sum)) => *sum = sum.wrapping_add(value),
                None => values.push((metric, value)),
            }
        }
    }
}

/// The current shard's numbers.
///
/// # Errors
/// Outside a shard, or on a shard without a network.
pub fn sheet() -> io::Result<Sheet> {
    let network = local::network()?;
    let mut sheet = Sheet { shard: current_shard(), groups: Vec::new(), port: Vec::new() };
    sheet.add("runtime", &throng_runtime::stats());
    sheet.add("resolver", &network.resolver().stats());
    if let Some(stack) = network.stack() {
        let stack = stack.borrow();
        sheet.add("stack", &stack.counters());
        sheet.add("stack", &stack.held());
        sheet.add("device", &stack.device_counters());
        sheet.add("tcp", stack.engine.counters());
        sheet.add("tcp", &stack.engine.usage());
        sheet.port = stack.port_counters();
    }
    network.sources(|group, source| sheet.add(group, source));
    Ok(sheet)
}

/// The numbers of any shard of this runtime.
///
/// # Errors
/// `TimedOut` where the shard does not answer within `patience`; `NotConnected` where it has
/// ended; as for [`sheet`].
pub async fn sheet_of(shard: ShardId, patience: Duration) -> io::Result<Sheet> {
    ask(shard, patience, || async { sheet() }).await
}

/// Adds the numbers of `source` to this shard's sheets, for as long as it lives. Several
/// sources of one group are added up.
///
/// # Errors
/// Outside a shard, or on a shard without a network.
pub fn register(group: &'static str, source: Rc<dyn Measured>) -> io::Result<()> {
    local::network()?.register(group, Rc::downgrade(&source));
    Ok(())
}
