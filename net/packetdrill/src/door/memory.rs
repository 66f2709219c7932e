//! The caller's memory: addresses, buffers and vectors of C.

use std::ffi::c_int;
use std::net::{Ipv6Addr, SocketAddr};
use std::{ptr, slice};

use libc::{iovec, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};

use crate::errno::{Errno, Sys};

const INVALID: Errno = Errno(libc::EINVAL);

/// Reads an address.
///
/// # Safety
/// `addr` is null or points to `len` bytes.
pub(super) unsafe fn read_address(addr: *const sockaddr, len: socklen_t) -> Sys<SocketAddr> {
    let len = len as usize;
    if addr.is_null() || len < size_of::<sockaddr_in>() {
        return Err(INVALID);
    }
    // SAFETY: there are at least as many bytes as every address begins with.
    let family = unsafe { ptr::read_unaligned(&raw const (*addr).sa_family) };
    match c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: checked above that there are as many bytes.
            let v4 = unsafe { ptr::read_unaligned(addr.cast::<sockaddr_in>()) };
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            Ok(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 if len >= size_of::<sockaddr_in6>() => {
            // SAFETY: as above, and checked in this arm.
            let v6 = unsafe { ptr::read_unaligned(addr.cast::<sockaddr_in6>()) };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr).to_canonical();
            Ok(SocketAddr::new(ip, u16::from_be(v6.sin6_port)))
        }
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Writes an address, cut to what there is room for, and its whole length.
///
/// # Safety
/// `to` and `len` are both null, or `to` has `*len` bytes to write to.
pub(super) unsafe fn write_address(addr: SocketAddr, to: *mut sockaddr, len: *mut socklen_t) {
    if to.is_null() || len.is_null() {
        return;
    }
    let bytes = match addr {
        SocketAddr::V4(v4) => {
            let mut bytes = vec![0; size_of::<sockaddr_in>()];
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[2..4].copy_from_slice(&v4.port().to_be_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            bytes
        }
        SocketAddr::V6(v6) => {
            let mut bytes = vec![0; size_of::<sockaddr_in6>()];
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[2..4].copy_from_slice(&v6.port().to_be_bytes());
            bytes[8..24].copy_from_slice(&v6.ip().octets());
            bytes
        }
    };
    // SAFETY: by contract `*len` bytes may be written at `to`, and `len` itself.
    unsafe {
        let room = (*len as usize).min(bytes.len());
        ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), room);
        *len = bytes.len() as socklen_t;
    }
}

/// The bytes at `from`.
///
/// # Safety
/// `from` is null or points to `len` bytes that stay as they are for as long as the slice lives.
pub(super) unsafe fn bytes<'a>(from: *const u8, len: usize) -> Sys<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if from.is_null() || len > isize::MAX as usize {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: not null, and as many bytes as said, by contract.
    Ok(unsafe { slice::from_raw_parts(from, len) })
}

/// The pieces of a vector.
///
/// # Safety
/// `vector` is null or points to `count` pieces.
pub(super) unsafe fn pieces<'a>(vector: *const iovec, count: usize) -> Sys<&'a [iovec]> {
    if vector.is_null() || count > 1024 {
        return Err(INVALID);
    }
    // SAFETY: not null, and as many pieces as said, by contract.
    Ok(unsafe { slice::from_raw_parts(vector, count) })
}

/// All that the pieces hold, in one.
///
/// # Safety
/// Each piece points to as many bytes as it says.
pub(super) unsafe fn gather(pieces: &[iovec]) -> Sys<Vec<u8>> {
    let mut all = Vec::new();
    for piece in pieces {
        // SAFETY: by contract.
        all.extend_from_slice(unsafe { bytes(piece.iov_base.cast(), piece.iov_len) }?);
    }
    Ok(all)
}

/// Fills the pieces in turn.
///
/// # Safety
/// Each piece may be written to for as many bytes as it says.
pub(super) unsafe fn scatter(mut data: &[u8], pieces: &[iovec]) {
    for piece in pieces {
        let (now, later) = data.split_at(piece.iov_len.min(data.len()));
        if !now.is_empty() {
            // SAFETY: by contract, and `now` is no longer than the piece.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), piece.iov_base.cast(), now.len()) };
        }
        data = later;
    }
}
