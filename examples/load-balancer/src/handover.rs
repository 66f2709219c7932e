//! Replacing the program without losing a connection: the running process starts the program
//! anew, as it is on disk by then, and hands its listening sockets over; when the new process
//! serves, the old one drains.
//!
//! Both have the same sockets for a while, so connections that nobody has accepted yet are never
//! closed: those in the backlogs are accepted by whoever looks first. The two talk over a socket
//! that is the new process's standard input, in packets: what the new one has to know, the
//! descriptors (SCM_RIGHTS), and, back, that it is ready. Where the new one ends, says nothing in
//! time, or does not understand, the old one goes on as if nothing had been.

use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
    socketpair,
};
use serde::{Deserialize, Serialize};

/// Tells a process that it has a predecessor.
const MARK: &str = "THRONG_LB_HANDOVER";
/// How long a new process may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is waited for between two looks whether this process is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Descriptors in a packet; the host takes 253.
const FDS: usize = 128;
/// Longest description, in bytes.
const LONGEST: usize = 128 << 10;
const READY: &[u8] = b"ready";

/// What the new process gets to know.
#[derive(Debug, Default, Deserialize, Serialize, PartialEq)]
pub(crate) struct Handed {
    /// How many sockets follow.
    pub(crate) sockets: usize,
    /// The addresses of names that are looked up.
    pub(crate) resolved: Vec<(String, Vec<SocketAddr>)>,
    pub(crate) marks: Vec<Mark>,
}

/// A server that is not taken to be fine.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub(crate) struct Mark {
    pub(crate) upstream: String,
    pub(crate) server: String,
    /// By the operator.
    pub(crate) drained: bool,
    /// What the active checks say.
    pub(crate) up: bool,
}

/// How this program was started, to be so again.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// To be called while its file is still the one that runs.
    ///
    /// # Errors
    /// The host does not know the file.
    pub(crate) fn this() -> io::Result<Program> {
        let running = env::current_exe()?;
        // As it was called: a link that leads to this file may lead to another one by then.
        let called = env::args_os().next().map(PathBuf::from);
        let called = called.filter(|path| path.components().count() > 1);
        let called = called.and_then(|path| std::path::absolute(path).ok());
        let called = called.filter(|path| path.canonicalize().is_ok_and(|there| there == running));
        Ok(Program { path: called.unwrap_or(running), args: env::args_os().skip(1).collect() })
    }
}

/// The new process's end.
#[derive(Debug)]
pub(crate) struct Predecessor(OwnedFd);

impl Predecessor {
    /// What a predecessor hands over to this process, if there is one.
    ///
    /// # Errors
    /// There should be one, and it is not what it should be.
    pub(crate) fn greet() -> io::Result<Option<(Predecessor, Handed, Vec<OwnedFd>)>> {
        if env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        let (handed, sockets) = receive(channel.as_fd()).map_err(|error| {
            io::Error::new(error.kind(), format!("{MARK} is set, but standard input: {error}"))
        })?;
        Ok(Some((Predecessor(channel), handed, sockets)))
    }

    /// Tells it to go.
    pub(crate) fn relieve(&self) {
        if let Err(error) = retry_on_intr(|| send(&self.0, READY, SendFlags::NOSIGNAL)) {
            tracing::warn!(%error, "the predecessor has gone");
        }
    }
}

/// Starts the program anew and waits until it serves, or until this process is to end. Returns its
/// process's number. It blocks.
///
/// # Errors
/// It cannot be started, or does not come to serve; it has ended then.
pub(crate) fn hand_over(
    program: &Program,
    sockets: &[TcpListener],
    handed: Handed,
    is_ending: impl Fn() -> bool,
) -> io::Result<u32> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    set_socket_timeout(&ours, Timeout::Recv, Some(LOOK))?;
    set_socket_timeout(&ours, Timeout::Send, Some(PATIENCE))?;
    let mut child = Command::new(&program.path)
        .args(&program.args)
        .env(MARK, "1")
        // These are about this process alone.
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", program.path.display()))
        })?;
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let handed = Handed { sockets: fds.len(), ..handed };
    match offer(ours.as_fd(), &handed, &fds, is_ending) {
        Ok(()) => Ok(child.id()),
        Err(error) => Err(end(&mut child, &error)),
    }
}

/// Ends a process that has not come to serve; says why.
fn end(child: &mut Child, error: &io::Error) -> io::Error {
    // Most likely it is ending by itself, and has said why; but one that is given up must not
    // come to serve after all.
    let is_given_up = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted);
    let looks = if is_given_up { 0 } else { 100 };
    let ended = (0..looks).find_map(|_| {
        let ended = child.try_wait().ok().flatten();
        if ended.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        ended
    });
    if let Some(status) = ended {
        return io::Error::other(format!("the new process has ended: {status}"));
    }
    let _ = child.kill();
    let _ = child.wait();
    io::Error::new(error.kind(), format!("the new process does not serve: {error}"))
}

/// Sends everything and waits for the answer.
fn offer(
    channel: BorrowedFd<'_>,
    handed: &Handed,
    fds: &[BorrowedFd<'_>],
    is_ending: impl Fn() -> bool,
) -> io::Result<()> {
    let said = serde_json::to_vec(handed)?;
    if said.len() > LONGEST {
        return Err(io::Error::other("there is more to say than a packet takes"));
    }
    // With a timeout the host does not go on by itself after a signal: socket(7).
    retry_on_intr(|| send(channel, &said, SendFlags::NOSIGNAL))?;
    for some in fds.chunks(FDS) {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(io::Error::other("the descriptors do not fit"));
        }
        let mark = [IoSlice::new(b"s")];
        retry_on_intr(|| sendmsg(channel, &mark, &mut control, SendFlags::NOSIGNAL))?;
    }
    let begun = Instant::now();
    let mut answer = [0; 16];
    let taken = loop {
        match recv(channel, &mut answer, RecvFlags::empty()) {
            Ok((taken, _)) => break taken,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if is_ending() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "this process is to end"));
        }
        if begun.elapsed() >= PATIENCE {
            let text = format!("it has not said in {PATIENCE:?} that it is ready");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    };
    match &answer[..taken] {
        READY => Ok(()),
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::other("it gives another answer than a throng-lb")),
    }
}

/// The other side of [`offer`], up to the answer.
fn receive(channel: BorrowedFd<'_>) -> io::Result<(Handed, Vec<OwnedFd>)> {
    set_socket_timeout(channel, Timeout::Recv, Some(PATIENCE))?;
    let mut said = vec![0; LONGEST];
    let (taken, _) = retry_on_intr(|| recv(channel, &mut said[..], RecvFlags::empty()))?;
    let handed: Handed = serde_json::from_slice(&said[..taken])?;
    let mut sockets = Vec::new();
    while sockets.len() < handed.sockets {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut mark = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let mut mark = [IoSliceMut::new(&mut mark)];
        let received = retry_on_intr(|| recvmsg(channel, &mut mark, &mut control, flags))?;
        let before = sockets.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds);
            }
        }
        if received.bytes == 0 || sockets.len() == before {
            return Err(io::Error::other("the predecessor's sockets do not come"));
        }
    }
    Ok((handed, sockets))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    /// More than a packet takes.
    #[test]
    fn sockets_and_what_is_known_come_over() {
        let (old, new) = pair();
        let sockets: Vec<_> =
            (0..2 * FDS + 3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mark = Mark {
            upstream: "app".into(),
            server: "127.0.0.1:9001".into(),
            drained: true,
            up: false,
        };
        let resolved = vec![("app:80".to_owned(), vec!["127.0.0.1:80".parse().unwrap()])];
        let handed = Handed { sockets: sockets.len(), resolved, marks: vec![mark] };
        let taking = thread::spawn(move || {
            let (handed, sockets) = receive(new.as_fd()).unwrap();
            Predecessor(new).relieve();
            (handed, sockets)
        });
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        offer(old.as_fd(), &handed, &fds, || false).unwrap();
        let (told, taken) = taking.join().unwrap();
        assert_eq!(told, handed);
        let addresses: Vec<_> =
            taken.into_iter().map(|fd| TcpListener::from(fd).local_addr().unwrap()).collect();
        let wanted: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, wanted);
    }

    #[test]
    fn a_new_process_that_ends_or_says_something_else_is_an_error() {
        let (old, new) = pair();
        drop(new);
        assert!(offer(old.as_fd(), &Handed::default(), &[], || false).is_err());
        let (old, new) = pair();
        send(&new, b"hello", SendFlags::empty()).unwrap();
        let said = offer(old.as_fd(), &Handed::default(), &[], || false).unwrap_err();
        assert!(said.to_string().contains("another answer"), "{said}");
        // Nobody waits for one when this process is to end.
        let (old, _new) = pair();
        set_socket_timeout(&old, Timeout::Recv, Some(LOOK)).unwrap();
        let said = offer(old.as_fd(), &Handed::default(), &[], || true).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::Interrupted, "{said}");
        // And a predecessor that promises more than it gives.
        let (old, new) = pair();
        let promise = Handed { sockets: 1, ..Handed::default() };
        send(&old, &serde_json::to_vec(&promise).unwrap(), SendFlags::empty()).unwrap();
        send(&old, b"s", SendFlags::empty()).unwrap();
        assert!(receive(new.as_fd()).is_err());
    }
}
