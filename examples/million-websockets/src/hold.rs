//! Waiting for the user to have seen enough.

use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often whoever waits looks around.
const LOOK: Duration = Duration::from_millis(50);
/// Signals that come so soon after the first are the same request: a terminal's Ctrl-C reaches
/// us, and also whoever started us, who passes it on.
const SAME: Duration = Duration::from_secs(1);

/// Waits for Enter, or a signal that would end the process, and calls `look` meanwhile. A second
/// signal ends the process at once. Where standard input is at its end, only signals count.
///
/// # Errors
/// What `look` says, at once.
pub(crate) fn until_ended(mut look: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    println!("holding: Enter or Ctrl-C closes all connections and ends");
    let enough = Arc::new(AtomicBool::new(false));
    let (by_signal, first) = (enough.clone(), Mutex::new(None));
    ctrlc::set_handler(move || {
        by_signal.store(true, Ordering::Release);
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.get_or_insert_with(Instant::now).elapsed() > SAME {
            process::exit(130);
        }
    })
    .map_err(io::Error::other)?;
    let by_line = enough.clone();
    std::thread::spawn(move || {
        if io::stdin().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0) {
            by_line.store(true, Ordering::Release);
        }
    });
    while !enough.load(Ordering::Acquire) {
        std::thread::sleep(LOOK);
        look()?;
    }
    Ok(())
}
