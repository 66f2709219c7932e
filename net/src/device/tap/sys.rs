//! The `ioctl`s of Linux TAP interfaces: the one place outside `device/dpdk` and the packet
//! buffer with unsafe code, because no maintained crate wraps these calls safely without
//! bringing its own idea of a device (docs/decisions/0002-tap-ioctls.md).

#![allow(unsafe_code, reason = "system calls that no crate wraps")]

use std::ffi::c_ulong;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `struct ifreq` of netdevice(7): a name, and 24 bytes whose meaning the call decides.
#[repr(C, align(8))]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

impl Request {
    fn new(name: &str) -> io::Result<Request> {
        let mut request = Request { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        // One byte is left for the terminating zero.
        if name.len() >= libc::IFNAMSIZ || name.bytes().any(|byte| byte == 0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }

    fn short(&self) -> i16 {
        i16::from_ne_bytes([self.value[0], self.value[1]])
    }

    fn set_short(&mut self, value: i16) {
        self.value[..2].copy_from_slice(&value.to_ne_bytes());
    }

    fn int(&self) -> i32 {
        i32::from_ne_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }

    fn set_int(&mut self, value: i32) {
        self.value[..4].copy_from_slice(&value.to_ne_bytes());
    }

    /// Makes a call that takes a `struct ifreq`.
    fn call(&mut self, fd: BorrowedFd<'_>, number: c_ulong) -> io::Result<()> {
        // SAFETY: every number passed here is a request that reads or writes one
        // `struct ifreq`, whose size and alignment `Request` has (asserted above); the
        // descriptor is borrowed, so it is open.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), number as _, &raw mut *self) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// What the kernel may hand to the reader of the interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Offload {
    /// Frames with unfinished checksums, and TCP packets of up to 64 KiB.
    pub(super) enabled: bool,
}

/// Opens a queue of the TAP `name`, which is created when there is none: no packet
/// information header, the 10-byte `virtio_net_hdr` when `header`, non-blocking.
pub(super) fn open_queue(name: &str, multi_queue: bool, header: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    if header {
        flags |= libc::IFF_VNET_HDR;
    }
    let mut request = Request::new(name)?;
    request.set_short(flags as i16);
    request.call(std::os::fd::AsFd::as_fd(&file), libc::TUNSETIFF as c_ulong)?;
    Ok(file)
}

/// Says what the reader of the interface can take; it holds for all its queues.
pub(super) fn set_offload(queue: BorrowedFd<'_>, offload: Offload) -> io::Result<()> {
    let flags = if offload.enabled {
        libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN
    } else {
        0
    };
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours; the
    // descriptor is borrowed, so it is open.
    let result =
        unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD as _, c_ulong::from(flags)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the interface this address, if it has another one.
pub(super) fn set_mac(name: &str, mac: [u8; 6]) -> io::Result<()> {
    let control = control()?;
    let control = std::os::fd::AsFd::as_fd(&control);
    let mut request = Request::new(name)?;
    request.call(control, libc::SIOCGIFHWADDR as c_ulong)?;
    // A `struct sockaddr`: the family, which is ARPHRD_ETHER, then the address.
    if request.value[2..8] != mac {
        request.value[2..8].copy_from_slice(&mac);
        request.call(control, libc::SIOCSIFHWADDR as c_ulong)?;
    }
    Ok(())
}

/// A socket to ask about interfaces by.
fn control() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// Sets the MTU and brings the interface up, each only if it is not so already: then an
/// unprivileged process can use an interface that was prepared for it.
pub(super) fn bring_up(name: &str, mtu: usize) -> io::Result<()> {
    let control = control()?;
    let control = std::os::fd::AsFd::as_fd(&control);
    let mtu = i32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request = Request::new(name)?;
    request.call(control, libc::SIOCGIFMTU as c_ulong)?;
    if request.int() != mtu {
        request.set_int(mtu);
        request.call(control, libc::SIOCSIFMTU as c_ulong)?;
    }
    let mut request = Request::new(name)?;
    request.call(control, libc::SIOCGIFFLAGS as c_ulong)?;
    let flags = request.short();
    if flags & libc::IFF_UP as i16 == 0 {
        request.set_short(flags | libc::IFF_UP as i16);
        request.call(control, libc::SIOCSIFFLAGS as c_ulong)?;
    }
    Ok(())
}
