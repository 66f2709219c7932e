//! Who is at work in a run, and what went wrong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::Rc;

use throng_runtime::Instant;

use crate::plan::Side;

/// How a client or a server's session failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    Io(io::Error),
    /// hyper or tungstenite says so.
    Web(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Io(error) => write!(f, "{:?}: {error}", error.kind()),
            Trouble::Web(text) => f.write_str(text),
        }
    }
}

/// What all tasks of a run share.
#[derive(Default)]
pub(crate) struct Ledger {
    open: RefCell<BTreeMap<u64, (Side, String)>>,
    next: Cell<u64>,
    failures: RefCell<Vec<String>>,
    /// Errors of connections are none of the stack's.
    pub(crate) lenient: Cell<bool>,
    /// From when on a connection has to come about at the first attempt.
    pub(crate) healthy: Cell<Instant>,
    pub(crate) finished: Cell<u64>,
    pub(crate) excused: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
}

/// A task that is not done.
pub(crate) struct Ticket {
    ledger: Rc<Ledger>,
    number: u64,
    /// Whether an error is expected of it in any case.
    pub(crate) doomed: bool,
}

impl Ledger {
    /// Notes something that must not be.
    pub(crate) fn fail(&self, text: impl Into<String>) {
        let mut failures = self.failures.borrow_mut();
        if failures.len() < 20 {
            failures.push(text.into());
        }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.borrow().clone()
    }

    /// Begins a task of a host.
    pub(crate) fn begin(self: &Rc<Ledger>, side: Side, what: String) -> Ticket {
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.borrow_mut().insert(number, (side, what));
        Ticket { ledger: self.clone(), number, doomed: false }
    }

    /// Those at work.
    pub(crate) fn open(&self) -> Vec<String> {
        let open = self.open.borrow();
        open.values().map(|(side, what)| format!("host {side}: {what}")).collect()
    }

    pub(crate) fn all_done(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// A host has gone, and its tasks with it.
    pub(crate) fn forget(&self, side: Side) {
        self.open.borrow_mut().retain(|_, (of, _)| *of != side);
    }

    pub(crate) fn moved(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// Whether a connection may end like this while faults strike.
    pub(crate) fn excuses(&self, trouble: &Trouble) -> bool {
        use io::ErrorKind::*;
        let usual = match trouble {
            Trouble::Io(error) => matches!(
                error.kind(),
                ConnectionReset
                    | ConnectionRefused
                    | TimedOut
                    | HostUnreachable
                    | NetworkUnreachable
                    | QuotaExceeded
            ),
            Trouble::Web(_) => true,
        };
        self.lenient.get() && usual
    }
}

impl Ticket {
    /// Ends the task.
    pub(crate) fn end(self, outcome: Result<(), Trouble>) {
        let Some((side, what)) = self.ledger.open.borrow_mut().remove(&self.number) else { return };
        match outcome {
            Ok(()) => self.ledger.finished.set(self.ledger.finished.get() + 1),
            Err(Trouble::Io(error))
                if self.doomed
                    && matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut
                    ) =>
            {
                self.ledger.finished.set(self.ledger.finished.get() + 1);
            }
            Err(trouble) if self.ledger.excuses(&trouble) => {
                self.ledger.excused.set(self.ledger.excused.get() + 1);
            }
            Err(trouble) => self.ledger.fail(format!("host {side}: {what}: {trouble}")),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // After `end`, and after `forget`, there is nothing to remove.
        if let Some((side, what)) = self.ledger.open.borrow_mut().remove(&self.number) {
            self.ledger.fail(format!("host {side}: {what}: the task was dropped"));
        }
    }
}
