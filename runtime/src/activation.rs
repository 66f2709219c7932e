//! Sockets that are open before the program starts: those of systemd's socket activation, and
//! of whoever else starts programs by its protocol (sd_listen_fds(3)).

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor passed; the others follow it.
const FIRST: RawFd = 3;

/// A descriptor that was passed to this process.
#[derive(Debug)]
pub struct Passed {
    /// The descriptor, which a child of this process does not inherit.
    pub fd: OwnedFd,
    /// Its name: systemd's `FileDescriptorName=`, by default that of the socket unit. Empty where
    /// none was said.
    pub name: String,
}

/// Takes the descriptors passed to this process: `LISTEN_FDS` of them where `LISTEN_PID` is this
/// process, with the names of `LISTEN_FDNAMES`; none where it was passed none. They can be taken
/// once: later calls find none.
///
/// A listening socket among them becomes a listener by `std::net::TcpListener::from` and
/// `throng_net::TcpListener::from_std`.
///
/// # Errors
/// `InvalidInput` where the variables are malformed or promise a descriptor that is not open.
pub fn take() -> io::Result<Vec<Passed>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let names = promised(|key| env::var(key).ok(), std::process::id())?;
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let passed = (FIRST..).zip(names).map(|(fd, name)| {
        // SAFETY: changes a flag of a descriptor, which fails for one that is not open.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(invalid(format!("LISTEN_FDS promises descriptor {fd}, which is not open")));
        }
        // SAFETY: it is open, and whoever started this process says that it is for this code to
        // have; `TAKEN` sees to it that nobody gets it twice.
        Ok(Passed { fd: unsafe { OwnedFd::from_raw_fd(fd) }, name })
    });
    passed.collect()
}

/// The name of each descriptor that the environment promises to the process `own`.
fn promised(var: impl Fn(&str) -> Option<String>, own: u32) -> io::Result<Vec<String>> {
    let (Some(pid), Some(count)) = (var("LISTEN_PID"), var("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    let wrong = |key: &str, text: &str| invalid(format!("{key} = {text:?} is no number of use"));
    if pid.parse::<u32>().map_err(|_| wrong("LISTEN_PID", &pid))? != own {
        return Ok(Vec::new());
    }
    // No process has more descriptors than that unless its limits are raised a lot.
    let count: usize = count
        .parse()
        .ok()
        .filter(|count| *count <= 1 << 16)
        .ok_or_else(|| wrong("LISTEN_FDS", &count))?;
    let mut names: Vec<String> =
        var("LISTEN_FDNAMES").unwrap_or_default().split(':').map(str::to_owned).collect();
    names.resize(count, String::new());
    Ok(names)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_promises() {
        let of = |pid: &str, fds: &str, names: &str| {
            let var = |key: &str| {
                let text = match key {
                    "LISTEN_PID" => pid,
                    "LISTEN_FDS" => fds,
                    _ => names,
                };
                (!text.is_empty()).then(|| text.to_owned())
            };
            promised(var, 7).map_err(|error| error.to_string())
        };
        assert_eq!(of("7", "2", "web:admin").unwrap(), ["web", "admin"]);
        assert_eq!(of("7", "2", "").unwrap(), ["", ""]);
        assert_eq!(of("7", "1", "web:admin").unwrap(), ["web"]);
        for nothing in [of("8", "2", ""), of("", "2", ""), of("7", "", ""), of("7", "0", "")] {
            assert!(nothing.unwrap().is_empty());
        }
        assert!(of("7", "-1", "").unwrap_err().contains("LISTEN_FDS = \"-1\""));
        assert!(of("7", "100000000", "").is_err() && of("me", "1", "").is_err());
    }
}
