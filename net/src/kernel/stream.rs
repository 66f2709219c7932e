//! A connection of the host's.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, SocketType, bind, connect, getpeername, getsockname,
    recv, send, sendmsg, shutdown, sockopt,
};
use throng_runtime::{Instant, coop};

use super::reactor::{Reactor, Readiness, SCRATCH, Side, Source};
use super::{open, plain_addr};
use crate::local;
use crate::tcp::segment::FourTuple;
use crate::tcp::{self, CongestionControl, Info, Keepalive, State};

/// How long a chunk that the host had no room for outlives its stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection as its stream owns it.
#[derive(Debug)]
pub(crate) struct KernelStream {
    reactor: Rc<Reactor>,
    socket: Rc<Socket>,
    key: usize,
}

/// A connection as the reactor sees it, too.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// The host forgets it when the connection is over.
    peer: SocketAddr,
    ready: Readiness,
    /// The part of a chunk that the host has not taken.
    backlog: RefCell<Bytes>,
    /// What the application has done with its write side.
    write_end: Cell<WriteEnd>,
    /// What ended the connection; the host says it only once.
    error: Cell<Option<tcp::Error>>,
    linger: Cell<Option<Duration>>,
    /// The stream is gone; the backlog has until then.
    orphan: Cell<Option<Instant>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WriteEnd {
    Open,
    /// A FIN is to follow the backlog.
    Asked,
    Sent,
}

impl KernelStream {
    /// A connection that the host has made.
    pub(super) fn new(
        reactor: Rc<Reactor>,
        fd: OwnedFd,
        peer: SocketAddr,
    ) -> io::Result<KernelStream> {
        KernelStream::register(reactor, fd, peer, Readiness::new())
    }

    fn register(
        reactor: Rc<Reactor>,
        fd: OwnedFd,
        peer: SocketAddr,
        ready: Readiness,
    ) -> io::Result<KernelStream> {
        let socket = Rc::new(Socket {
            fd,
            peer,
            ready,
            backlog: RefCell::default(),
            write_end: Cell::new(WriteEnd::Open),
            error: Cell::new(None),
            linger: Cell::new(None),
            orphan: Cell::new(None),
        });
        let key = reactor.add(socket.fd.as_fd(), Source::Stream(socket.clone()))?;
        Ok(KernelStream { reactor, socket, key })
    }

    /// Connects, from the address `from` where it is given.
    pub(crate) async fn connect(
        reactor: Rc<Reactor>,
        from: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> io::Result<KernelStream> {
        local::check_unicast(remote)?;
        // A mapped address is IPv4, as on a device.
        let (remote, from) = (canonical(remote), from.map(canonical));
        let fd = open(&remote, SocketType::STREAM)?;
        if let Some(control) = reactor.congestion() {
            super::set_congestion(&fd, control)?;
        }
        let from = from.filter(|addr| !addr.ip().is_unspecified() || addr.port() != 0);
        if let Some(mut from) = from {
            if from.ip().is_unspecified() && remote.is_ipv4() {
                from.set_ip(Ipv4Addr::UNSPECIFIED.into());
            } else if from.ip().is_unspecified() {
                from.set_ip(Ipv6Addr::UNSPECIFIED.into());
            }
            if from.is_ipv4() != remote.is_ipv4() {
                let text = format!("{remote} is of another family than the address to come from");
                return Err(local::invalid(text));
            }
            // Connections to other peers may come from the same port.
            sockopt::set_socket_reuseaddr(&fd, true)?;
            bind(&fd, &from)?;
        }
        let same_port = from.is_some_and(|addr| addr.port() != 0);
        let failed = |errno: Errno| match errno {
            // This very connection exists.
            Errno::ADDRNOTAVAIL if same_port => io::ErrorKind::AddrInUse.into(),
            errno => connection_error(errno),
        };
        match connect(&fd, &remote) {
            Ok(()) => return KernelStream::new(reactor, fd, remote),
            Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let ready = Readiness::new();
        ready.clear(Side::Write);
        let stream = KernelStream::register(reactor, fd, remote, ready)?;
        poll_fn(|cx| {
            let socket = &stream.socket;
            if socket.ready.is_ready(Side::Write) {
                if let Err(errno) = sockopt::socket_error(&socket.fd)? {
                    return Poll::Ready(Err(failed(errno)));
                }
                if getpeername(&socket.fd).is_ok() {
                    return Poll::Ready(Ok(()));
                }
                socket.ready.clear(Side::Write);
            }
            socket.ready.wait_alone(Side::Write, cx);
            Poll::Pending
        })
        .await?;
        Ok(stream)
    }

    /// Polls to read at most `max` bytes, which is not zero. `shut`: without data the stream
    /// is at its end.
    pub(crate) fn poll_read_chunk(
        &self,
        cx: &mut Context<'_>,
        max: usize,
        shut: bool,
    ) -> Poll<io::Result<Bytes>> {
        self.poll_read_with(cx, max, shut, Bytes::copy_from_slice)
    }

    /// Polls to read at most `max` bytes, which is not zero, and to `take` them from where
    /// they lie.
    pub(crate) fn poll_read_with<T>(
        &self,
        cx: &mut Context<'_>,
        max: usize,
        shut: bool,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        self.reactor.with_scratch(|scratch| {
            let buf = &mut scratch[..max.min(SCRATCH)];
            let len = ready!(self.poll_read(cx, buf, shut))?;
            Poll::Ready(Ok(take(&buf[..len])))
        })
    }

    /// Polls to read into `buf`, which is not empty.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        shut: bool,
    ) -> Poll<io::Result<usize>> {
        ready!(coop::poll_proceed(cx));
        let socket = &*self.socket;
        match socket.try_read(buf, RecvFlags::empty()) {
            Some(outcome) => Poll::Ready(outcome.map_err(io::Error::from)),
            None if shut => Poll::Ready(Ok(0)),
            None => {
                socket.ready.wait_alone(Side::Read, cx);
                Poll::Pending
            }
        }
    }

    /// Polls whether a read would be ready.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &*self.socket;
        if socket.error.get().is_some() || socket.try_read(&mut [0], RecvFlags::PEEK).is_some() {
            return Poll::Ready(Ok(()));
        }
        socket.ready.wait_alone(Side::Read, cx);
        Poll::Pending
    }

    /// Polls to give `chunk` to the host; what it has no room for is kept.
    pub(crate) fn poll_write_chunk(
        &self,
        cx: &mut Context<'_>,
        chunk: &mut Option<Bytes>,
    ) -> Poll<io::Result<()>> {
        if chunk.as_ref().is_none_or(Bytes::is_empty) {
            *chunk = None;
            return Poll::Ready(Ok(()));
        }
        ready!(coop::poll_proceed(cx));
        let outcome = ready!(self.poll_writable(cx));
        let bytes = chunk.take().unwrap_or_default();
        outcome?;
        self.socket.backlog.replace(bytes);
        self.socket.flush();
        Poll::Ready(self.socket.check())
    }

    /// Polls to write a part of the `pieces`.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Empty ones in front could be all that one call takes.
        let Some(first) = pieces.iter().position(|piece| !piece.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        // IOV_MAX of Linux.
        let pieces = &pieces[first..pieces.len().min(first + 1_024)];
        ready!(coop::poll_proceed(cx));
        let socket = &*self.socket;
        loop {
            ready!(self.poll_writable(cx))?;
            let outcome = sendmsg(
                &socket.fd,
                pieces,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            );
            match outcome {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(errno) => socket.write_failed(errno),
            }
        }
    }

    /// Polls whether the backlog is gone and the host may have room.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &*self.socket;
        socket.flush();
        socket.check()?;
        if socket.write_end.get() != WriteEnd::Open {
            return Poll::Ready(Err(tcp::Error::BrokenPipe.into()));
        }
        if socket.ready.is_ready(Side::Write) {
            return Poll::Ready(Ok(()));
        }
        socket.ready.wait_alone(Side::Write, cx);
        Poll::Pending
    }

    /// Sends a FIN behind what is queued, or wakes the reader to see the end.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let socket = &*self.socket;
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            socket.ready.wake(Side::Read);
        }
        if matches!(how, Shutdown::Write | Shutdown::Both)
            && socket.write_end.get() == WriteEnd::Open
        {
            socket.write_end.set(WriteEnd::Asked);
            socket.flush();
        }
    }

    /// Has the drop that follows reset the connection.
    pub(crate) fn abort(&self) {
        self.socket.reset();
    }

    pub(crate) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        Ok(sockopt::set_tcp_nodelay(&self.socket.fd, nodelay)?)
    }

    pub(crate) fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        let fd = &self.socket.fd;
        if let Some(keepalive) = keepalive {
            let seconds = |time: Duration| {
                let up = u64::from(time.subsec_nanos() > 0);
                // The host takes 1 to 32,767 s, and 1 to 127 probes.
                Duration::from_secs((time.as_secs() + up).clamp(1, 32_767))
            };
            sockopt::set_tcp_keepidle(fd, seconds(keepalive.idle))?;
            sockopt::set_tcp_keepintvl(fd, seconds(keepalive.interval))?;
            sockopt::set_tcp_keepcnt(fd, u32::from(keepalive.count.clamp(1, 127)))?;
        }
        Ok(sockopt::set_socket_keepalive(fd, keepalive.is_some())?)
    }

    pub(crate) fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Ok(self.socket.user_timeout(timeout)?)
    }

    pub(crate) fn set_notsent_lowat(&self, bytes: Option<u32>) -> io::Result<()> {
        // Without a value of its own a socket has its namespace's, by default no limit.
        let bytes = bytes.map_or(0, |bytes| bytes.clamp(1, i32::MAX as u32));
        socket2::SockRef::from(&self.socket.fd).set_tcp_notsent_lowat(bytes)
    }

    pub(crate) fn set_congestion(&self, control: CongestionControl) -> io::Result<()> {
        super::set_congestion(&self.socket.fd, control)
    }

    pub(crate) fn set_linger(&self, linger: Option<Duration>) {
        self.socket.linger.set(linger);
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.socket.peer
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        plain_addr(getsockname(&self.socket.fd)?)
    }

    pub(crate) fn info(&self) -> io::Result<Info> {
        let socket = &*self.socket;
        let (local, remote) = (self.local_addr()?, self.peer_addr());
        let send_queue = socket.backlog.borrow().len();
        Ok(Info {
            tuple: FourTuple {
                local: local.ip().into(),
                remote: remote.ip().into(),
                local_port: local.port(),
                remote_port: remote.port(),
            },
            state: match socket.write_end.get() {
                _ if socket.error.get().is_some() => State::Closed,
                WriteEnd::Open => State::Established,
                WriteEnd::Asked | WriteEnd::Sent => State::FinWait1,
            },
            age: Duration::ZERO,
            error: socket.error.get(),
            mss: 0,
            srtt: Duration::ZERO,
            rttvar: Duration::ZERO,
            min_rtt: Duration::ZERO,
            rto: Duration::ZERO,
            cwnd: 0,
            ssthresh: 0,
            congestion: super::congestion(&socket.fd),
            pacing_rate: None,
            snd_wnd: 0,
            rcv_wnd: 0,
            rcv_buffer: 0,
            snd_buffer: 0,
            snd_scale: None,
            rcv_scale: None,
            timestamps: false,
            ecn: false,
            sack: false,
            recovering: false,
            timed_out: false,
            in_flight: 0,
            sacked: 0,
            lost: 0,
            reordering: false,
            send_queue,
            recv_queue: ioctl_fionread(&socket.fd).map_or(0, |len| len as usize),
            out_of_order: 0,
            bytes_acked: 0,
            bytes_received: 0,
            retransmits: 0,
            retries: 0,
            timer_armed: false,
            owns_buffers: send_queue > 0,
        })
    }
}

impl Drop for KernelStream {
    fn drop(&mut self) {
        let socket = &*self.socket;
        let linger = socket.linger.get();
        if linger == Some(Duration::ZERO) {
            socket.reset();
        } else if linger.is_some() {
            // SO_LINGER would block the shard in close().
            let _ = socket.user_timeout(linger);
        }
        // Closing with unread data resets at once: the backlog would be in vain.
        let unread = ioctl_fionread(&socket.fd).is_ok_and(|len| len > 0);
        if socket.flush() || unread {
            self.reactor.remove(self.key);
            return;
        }
        let until = self.reactor.now() + linger.unwrap_or(PATIENCE);
        socket.orphan.set(Some(until));
        self.reactor.adopt(self.key, until);
    }
}

impl Socket {
    /// News from epoll. Returns whether the socket, an orphan, is done.
    pub(super) fn news(&self, flags: EventFlags) -> bool {
        self.ready.set(flags);
        let empty = self.backlog.borrow().is_empty() || self.flush();
        empty && self.orphan.get().is_some()
    }

    /// At `now` an orphan may have had its time: it is reset. Returns whether it was.
    pub(super) fn give_up(&self, now: Instant) -> bool {
        let over = self.orphan.get().is_some_and(|until| until <= now);
        if over {
            self.reset();
        }
        over
    }

    /// Nobody will send the backlog, if there is one: a reset says so.
    pub(super) fn cut_off(&self) {
        if !self.backlog.borrow().is_empty() {
            self.reset();
        }
    }

    /// Gives the backlog to the host, and the FIN that is to follow. Returns whether nothing
    /// is left, be it that it failed.
    fn flush(&self) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        while !backlog.is_empty() {
            if !self.ready.is_ready(Side::Write) {
                return false;
            }
            match send(&self.fd, &backlog, SendFlags::NOSIGNAL) {
                Ok(len) => backlog.advance(len),
                Err(errno) => {
                    self.write_failed(errno);
                    if self.error.get().is_some() {
                        *backlog = Bytes::new();
                    }
                }
            }
        }
        // The memory of the chunk, not only its bytes.
        *backlog = Bytes::new();
        if self.write_end.get() == WriteEnd::Asked {
            self.write_end.set(WriteEnd::Sent);
            // A connection that is over has no use for it.
            let _ = shutdown(&self.fd, rustix::net::Shutdown::Write);
        }
        true
    }

    /// Reads, unless there is nothing to read yet.
    fn try_read(&self, buf: &mut [u8], flags: RecvFlags) -> Option<Result<usize, tcp::Error>> {
        while self.ready.is_ready(Side::Read) {
            match recv(&self.fd, &mut *buf, flags) {
                Ok((0, _)) => break,
                Ok((len, _)) => {
                    if len < buf.len() && !flags.contains(RecvFlags::PEEK) {
                        self.ready.drained();
                    }
                    return Some(Ok(len));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.ready.clear(Side::Read);
                    return self.error.get().map(Err);
                }
                Err(errno) => {
                    self.fail(errno);
                    break;
                }
            }
        }
        match self.error.get() {
            Some(error) => Some(Err(error)),
            None => self.ready.is_ready(Side::Read).then_some(Ok(0)),
        }
    }

    fn write_failed(&self, errno: Errno) {
        match errno {
            Errno::INTR => {}
            Errno::AGAIN => self.ready.clear(Side::Write),
            errno => self.fail(errno),
        }
    }

    /// Keeps what ended the connection.
    fn fail(&self, errno: Errno) {
        if self.error.get().is_none() {
            self.error.set(Some(blame(errno)));
        }
    }

    fn check(&self) -> io::Result<()> {
        self.error.get().map_or(Ok(()), |error| Err(error.into()))
    }

    fn user_timeout(&self, timeout: Option<Duration>) -> Result<(), Errno> {
        let millis = timeout.map_or(0, |timeout| timeout.as_millis().clamp(1, i32::MAX as u128));
        sockopt::set_tcp_user_timeout(&self.fd, millis as u32)
    }

    /// Has closing send a reset, and nothing else.
    fn reset(&self) {
        self.backlog.take();
        let _ = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
    }
}

/// The host's word in the engine's terms.
fn blame(errno: Errno) -> tcp::Error {
    match errno {
        Errno::CONNREFUSED => tcp::Error::Refused,
        Errno::TIMEDOUT => tcp::Error::TimedOut,
        Errno::HOSTUNREACH => tcp::Error::HostUnreachable,
        Errno::NETUNREACH | Errno::NETDOWN => tcp::Error::NetworkUnreachable,
        Errno::NOMEM | Errno::NOBUFS => tcp::Error::NoMemory,
        Errno::NOTCONN => tcp::Error::NotConnected,
        // EPIPE without a shutdown of ours is a reset that came after the peer's FIN.
        _ => tcp::Error::Reset,
    }
}

fn connection_error(errno: Errno) -> io::Error {
    match errno {
        Errno::CONNREFUSED | Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH => {
            blame(errno).into()
        }
        errno => errno.into(),
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, addr.port()),
        _ => addr,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_read_that_would_find_nothing_is_saved() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, from) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let reactor = Rc::new(Reactor::new().unwrap());
        let stream = KernelStream::new(reactor, ours.into(), from).unwrap();
        let (socket, mut buf) = (&*stream.socket, [0; 4]);
        peer.write_all(b"abcdef").unwrap();
        // One that looks takes nothing, and one that is full says nothing.
        assert_eq!(socket.try_read(&mut [0; 9], RecvFlags::PEEK), Some(Ok(6)));
        assert_eq!(socket.try_read(&mut buf, RecvFlags::empty()), Some(Ok(4)));
        assert!(socket.ready.is_ready(Side::Read));
        assert_eq!(socket.try_read(&mut buf, RecvFlags::empty()), Some(Ok(2)));
        assert!(!socket.ready.is_ready(Side::Read));
    }
}
