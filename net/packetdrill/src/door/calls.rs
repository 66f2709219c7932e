//! The functions of the table. Each is called by packetdrill with `userdata` as we gave it and with
//! what the system call of its name is given: that is the contract of all of them, and what every
//! SAFETY comment here goes back to.

use std::ffi::{c_int, c_long, c_longlong, c_uint, c_ulong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{ptr, slice};

use bytes::Bytes;
use libc::{
    epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t, ssize_t,
    timeval, useconds_t,
};
use throng_net::engine::wire;

use super::abi::PacketdrillInterface;
use super::memory::{bytes, gather, pieces, read_address, scatter, write_address};
use super::{Door, PATIENCE};
use crate::errno::{Errno, Sys};
use crate::socket::Poll;

/// The table with our functions in it.
pub(super) fn table(userdata: *mut c_void) -> PacketdrillInterface {
    PacketdrillInterface {
        userdata,
        free,
        socket,
        bind,
        listen,
        accept,
        connect,
        read,
        readv,
        recv,
        recvfrom,
        recvmsg,
        write,
        writev,
        send,
        sendto,
        sendmsg,
        fcntl,
        ioctl,
        close,
        shutdown,
        getsockopt,
        setsockopt,
        poll,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create,
        epoll_ctl,
        epoll_wait,
        pipe,
        splice,
    }
}

/// Runs a call; an error goes to `errno`. A panic of the engine must not unwind into C: it is an
/// error that no script expects.
fn answer(userdata: *mut c_void, call: impl FnOnce(&Door) -> Sys<i64>) -> i64 {
    // SAFETY: `userdata` is the pointer that `packetdrill_interface_init` made of a box, and is not
    // used after `free`.
    let door = unsafe { &*userdata.cast::<Door>() };
    let result = catch_unwind(AssertUnwindSafe(|| call(door)));
    match result.unwrap_or(Err(Errno(libc::EIO))) {
        Ok(value) => value,
        Err(Errno(errno)) => {
            // SAFETY: points to this thread's own errno.
            unsafe { *libc::__errno_location() = errno };
            -1
        }
    }
}

fn zero(result: Sys<()>) -> Sys<i64> {
    result.map(|()| 0)
}

unsafe extern "C" fn free(userdata: *mut c_void) {
    // SAFETY: made of a box by `packetdrill_interface_init`, and freed once.
    drop(unsafe { Box::from_raw(userdata.cast::<Door>()) });
}

unsafe extern "C" fn socket(data: *mut c_void, domain: c_int, kind: c_int, _: c_int) -> c_int {
    answer(data, |door| {
        if kind & 15 != libc::SOCK_STREAM {
            return Err(Errno(libc::EPROTONOSUPPORT));
        }
        let v6 = match domain {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            _ => return Err(Errno(libc::EAFNOSUPPORT)),
        };
        let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        door.call(|host| Ok(host.socket_call(v6, nonblocking).into()))
    }) as c_int
}

unsafe extern "C" fn bind(
    data: *mut c_void,
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    answer(data, |door| {
        // SAFETY: the caller's address and its length.
        let addr = unsafe { read_address(addr, len) }?;
        zero(door.call(|host| host.bind(fd, addr)))
    }) as c_int
}

unsafe extern "C" fn listen(data: *mut c_void, fd: c_int, backlog: c_int) -> c_int {
    answer(data, |door| zero(door.call(|host| host.listen(fd, backlog)))) as c_int
}

unsafe extern "C" fn accept(
    data: *mut c_void,
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    answer(data, |door| {
        let (new, peer) = door.wait(fd, &[libc::EAGAIN], |host| host.accept(fd, false))?;
        // SAFETY: the caller's buffer and its length.
        unsafe { write_address(peer, addr, len) };
        Ok(new.into())
    }) as c_int
}

unsafe extern "C" fn connect(
    data: *mut c_void,
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    answer(data, |door| {
        // SAFETY: the caller's address and its length.
        let addr = unsafe { read_address(addr, len) }?;
        let waits = [libc::EINPROGRESS, libc::EALREADY];
        zero(door.wait(fd, &waits, |host| host.connect(fd, addr)))
    }) as c_int
}

/// Reads into `pieces`.
///
/// # Safety
/// As [`scatter`].
unsafe fn receive(door: &Door, fd: c_int, pieces: &[iovec], flags: c_int) -> Sys<i64> {
    let room = pieces.iter().map(|piece| piece.iov_len).sum();
    if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let waits: &[c_int] = if flags & libc::MSG_DONTWAIT != 0 { &[] } else { &[libc::EAGAIN] };
    let data = door.wait(fd, waits, |host| host.read(fd, room))?;
    // SAFETY: by this function's contract.
    unsafe { scatter(&data, pieces) };
    Ok(data.len() as i64)
}

fn transmit(door: &Door, fd: c_int, data: &[u8], flags: c_int) -> Sys<i64> {
    if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let data = Bytes::copy_from_slice(data);
    let waits: &[c_int] = if flags & libc::MSG_DONTWAIT != 0 { &[] } else { &[libc::EAGAIN] };
    door.wait(fd, waits, |host| host.write(fd, data.clone())).map(|len| len as i64)
}

unsafe extern "C" fn read(data: *mut c_void, fd: c_int, to: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: the same arguments.
    unsafe { recv(data, fd, to, len, 0) }
}

unsafe extern "C" fn readv(
    data: *mut c_void,
    fd: c_int,
    vector: *const iovec,
    count: c_int,
) -> ssize_t {
    answer(data, |door| {
        let count = usize::try_from(count).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: the caller's vector, of which each piece is a buffer to write to.
        unsafe { receive(door, fd, pieces(vector, count)?, 0) }
    }) as ssize_t
}

unsafe extern "C" fn recv(
    data: *mut c_void,
    fd: c_int,
    to: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    let piece = [iovec { iov_base: to, iov_len: len }];
    // SAFETY: the caller's buffer and its length.
    answer(data, |door| unsafe { receive(door, fd, &piece, flags) }) as ssize_t
}

unsafe extern "C" fn recvfrom(
    data: *mut c_void,
    fd: c_int,
    to: *mut c_void,
    len: size_t,
    flags: c_int,
    _: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if !addr_len.is_null() {
        // A stream has no senders' addresses, and says so by their length.
        // SAFETY: not null, so the caller's to be written.
        unsafe { *addr_len = 0 };
    }
    // SAFETY: the same arguments.
    unsafe { recv(data, fd, to, len, flags) }
}

unsafe extern "C" fn recvmsg(
    data: *mut c_void,
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    answer(data, |door| {
        // SAFETY: the caller's message, and the vector in it.
        unsafe {
            let message = message.as_mut().ok_or(Errno(libc::EFAULT))?;
            (message.msg_flags, message.msg_controllen, message.msg_namelen) = (0, 0, 0);
            receive(door, fd, pieces(message.msg_iov, message.msg_iovlen)?, flags)
        }
    }) as ssize_t
}

unsafe extern "C" fn write(
    data: *mut c_void,
    fd: c_int,
    from: *const c_void,
    len: size_t,
) -> ssize_t {
    // SAFETY: the same arguments.
    unsafe { send(data, fd, from, len, 0) }
}

unsafe extern "C" fn writev(
    data: *mut c_void,
    fd: c_int,
    vector: *const iovec,
    count: c_int,
) -> ssize_t {
    answer(data, |door| {
        let count = usize::try_from(count).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: the caller's vector, of which each piece is a buffer to read from.
        let all = unsafe { gather(pieces(vector, count)?) }?;
        transmit(door, fd, &all, 0)
    }) as ssize_t
}

unsafe extern "C" fn send(
    data: *mut c_void,
    fd: c_int,
    from: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    answer(data, |door| {
        // SAFETY: the caller's buffer and its length.
        let all = unsafe { bytes(from.cast(), len) }?;
        transmit(door, fd, all, flags)
    }) as ssize_t
}

unsafe extern "C" fn sendto(
    data: *mut c_void,
    fd: c_int,
    from: *const c_void,
    len: size_t,
    flags: c_int,
    _: *const sockaddr,
    _: socklen_t,
) -> ssize_t {
    // SAFETY: the same arguments; a stream knows where it sends to.
    unsafe { send(data, fd, from, len, flags) }
}

unsafe extern "C" fn sendmsg(
    data: *mut c_void,
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    answer(data, |door| {
        // SAFETY: the caller's message, and the vector in it.
        let all = unsafe {
            let message = message.as_ref().ok_or(Errno(libc::EFAULT))?;
            gather(pieces(message.msg_iov, message.msg_iovlen)?)
        }?;
        transmit(door, fd, &all, flags)
    }) as ssize_t
}

unsafe extern "C" fn fcntl(data: *mut c_void, fd: c_int, command: c_int, flags: c_long) -> c_int {
    answer(data, |door| {
        door.call(|host| match command {
            libc::F_GETFL => {
                let blocking = host.is_blocking(fd)?;
                Ok((libc::O_RDWR | if blocking { 0 } else { libc::O_NONBLOCK }).into())
            }
            libc::F_SETFL => {
                let blocking = flags & c_long::from(libc::O_NONBLOCK) == 0;
                zero(host.set_blocking(fd, blocking))
            }
            _ => Err(Errno(libc::EINVAL)),
        })
    }) as c_int
}

unsafe extern "C" fn ioctl(
    data: *mut c_void,
    fd: c_int,
    request: c_ulong,
    to: *mut c_void,
) -> c_int {
    answer(data, |door| {
        let value = door.call(|host| match request {
            libc::FIONREAD => host.unread(fd),
            libc::TIOCOUTQ => host.info(fd).map(|info| info.send_queue),
            _ => Err(Errno(libc::ENOTTY)),
        })?;
        if to.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: not null, and both requests write an int.
        unsafe { ptr::write_unaligned(to.cast::<c_int>(), value as c_int) };
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn close(data: *mut c_void, fd: c_int) -> c_int {
    answer(data, |door| zero(door.call(|host| host.close(fd)))) as c_int
}

unsafe extern "C" fn shutdown(data: *mut c_void, fd: c_int, how: c_int) -> c_int {
    answer(data, |door| zero(door.call(|host| host.shutdown(fd, how)))) as c_int
}

unsafe extern "C" fn getsockopt(
    data: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    to: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    answer(data, |door| {
        let value = door.call(|host| host.option(fd, level, name))?;
        if to.is_null() || len.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: neither is null; `*len` bytes at `to` are the caller's to be written.
        unsafe {
            let room = (*len as usize).min(value.len());
            ptr::copy_nonoverlapping(value.as_ptr(), to.cast(), room);
            *len = room as socklen_t;
        }
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn setsockopt(
    data: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    from: *const c_void,
    len: socklen_t,
) -> c_int {
    answer(data, |door| {
        // SAFETY: the caller's buffer and its length.
        let value = unsafe { bytes(from.cast(), len as usize) }?;
        zero(door.call(|host| host.set_option(fd, level, name, value)))
    }) as c_int
}

unsafe extern "C" fn poll(
    data: *mut c_void,
    fds: *mut pollfd,
    count: nfds_t,
    timeout: c_int,
) -> c_int {
    answer(data, |door| {
        if fds.is_null() && count > 0 || count > 1024 {
            return Err(Errno(libc::EFAULT));
        }
        let asked = match count {
            0 => &mut [][..],
            // SAFETY: not null, and as many entries as said are the caller's.
            _ => unsafe { slice::from_raw_parts_mut(fds, count as usize) },
        };
        let mut polls: Vec<Poll> =
            asked.iter().map(|ask| Poll { fd: ask.fd, events: ask.events, revents: 0 }).collect();
        let mut host = door.lock();
        let end = u64::try_from(timeout)
            .ok()
            .map(|millis| host.now() + std::time::Duration::from_millis(millis));
        let ready = loop {
            let ready = host.poll(&mut polls);
            if ready > 0 || end.is_some_and(|end| host.now() >= end) {
                break ready;
            }
            host = door.changed.wait(host).unwrap_or_else(std::sync::PoisonError::into_inner);
        };
        for (ask, poll) in asked.iter_mut().zip(&polls) {
            ask.revents = poll.revents;
        }
        Ok(ready as i64)
    }) as c_int
}

/// A packet for the host.
unsafe extern "C" fn netdev_send(data: *mut c_void, from: *const c_void, len: size_t) -> c_int {
    answer(data, |door| {
        // SAFETY: the caller's buffer and its length.
        let packet = unsafe { bytes(from.cast(), len) }?;
        door.call(|host| {
            // What is malformed is dropped, as by any host.
            if let Some(incoming) = wire::decode(packet) {
                host.receive(incoming);
            }
            Ok(0)
        })
    }) as c_int
}

/// The next packet that the host sends: the clock moves until there is one. None, with a length of
/// 0, where no timer runs that could send one.
unsafe extern "C" fn netdev_receive(
    data: *mut c_void,
    to: *mut c_void,
    len: *mut size_t,
    micros: *mut c_longlong,
) -> c_int {
    answer(data, |door| {
        if to.is_null() || len.is_null() || micros.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        let mut host = door.lock();
        let sent = loop {
            if let Some(sent) = host.take_sent() {
                break Some(sent);
            }
            if let Some(at) = host.deadline() {
                host.step(at);
                door.changed.notify_all();
                continue;
            }
            let (again, waited) = door
                .changed
                .wait_timeout(host, PATIENCE)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            host = again;
            if waited.timed_out() {
                break None;
            }
        };
        let (packet, at) = match sent {
            Some(sent) => (wire::encode(&sent.header, &sent.payload), sent.at),
            None => (Vec::new(), host.now()),
        };
        // SAFETY: none is null, and `*len` bytes at `to` are the caller's to be written.
        unsafe {
            if packet.len() > *len {
                return Err(Errno(libc::EMSGSIZE));
            }
            ptr::copy_nonoverlapping(packet.as_ptr(), to.cast(), packet.len());
            *len = packet.len();
            *micros = at.as_micros() as c_longlong;
        }
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn usleep(data: *mut c_void, micros: useconds_t) -> c_int {
    answer(data, |door| {
        let end = door.lock().now() + std::time::Duration::from_micros(micros.into());
        // A call that waits sees every moment at which something happened.
        while door.call(|host| Ok(host.step(end)))? {}
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn gettimeofday(data: *mut c_void, to: *mut timeval, _: *mut c_void) -> c_int {
    answer(data, |door| {
        let micros = door.lock().now().as_micros() as i64;
        if to.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        let time = timeval { tv_sec: micros / 1_000_000, tv_usec: micros % 1_000_000 };
        // SAFETY: not null, so the caller's to be written.
        unsafe { ptr::write_unaligned(to, time) };
        Ok(0)
    }) as c_int
}

fn none(data: *mut c_void) -> i64 {
    answer(data, |_| Err(Errno(libc::ENOSYS)))
}

unsafe extern "C" fn epoll_create(data: *mut c_void, _: c_int) -> c_int {
    none(data) as c_int
}

unsafe extern "C" fn epoll_ctl(
    data: *mut c_void,
    _: c_int,
    _: c_int,
    _: c_int,
    _: *mut epoll_event,
) -> c_int {
    none(data) as c_int
}

unsafe extern "C" fn epoll_wait(
    data: *mut c_void,
    _: c_int,
    _: *mut epoll_event,
    _: c_int,
    _: c_int,
) -> c_int {
    none(data) as c_int
}

unsafe extern "C" fn pipe(data: *mut c_void, _: *mut c_int) -> c_int {
    none(data) as c_int
}

unsafe extern "C" fn splice(
    data: *mut c_void,
    _: c_int,
    _: *mut loff_t,
    _: c_int,
    _: *mut loff_t,
    _: size_t,
    _: c_uint,
) -> ssize_t {
    none(data) as ssize_t
}
