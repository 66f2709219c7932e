//! Builds for later steps while the tests run: most tests wait, for timers or for a peer, and leave
//! a core free.
//!
//! The builds have the scheduler's idle class: a test that wants to run takes the core from
//! them at once, so its timing is that of a machine at rest.

use std::thread::{self, JoinHandle};

use crate::process::Cmd;

/// Builds that are under way. Dropped, it waits for them: the steps that need them come next.
pub(crate) struct Ahead(Option<JoinHandle<()>>);

impl Ahead {
    /// Starts them, one after the other. What fails is left to its step, which builds it again and
    /// reports it.
    pub(crate) fn start(builds: Vec<Cmd>) -> Ahead {
        Ahead(Some(thread::spawn(move || {
            for build in builds {
                let _ = build.wrapped(IDLE).run();
            }
        })))
    }
}

/// `chrt` of util-linux, which every Debian has; where it is not, nothing is built ahead.
const IDLE: &[&str] = &["chrt", "--idle", "0"];

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(builds) = self.0.take() {
            let _ = builds.join();
        }
    }
}
