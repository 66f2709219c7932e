//! The errors of system calls.

use throng_net::engine::Error;

/// An error number of Linux, such as `libc::EAGAIN`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

/// What a system call returns.
pub type Sys<T> = Result<T, Errno>;

impl From<Error> for Errno {
    fn from(error: Error) -> Errno {
        Errno(match error {
            Error::Refused => libc::ECONNREFUSED,
            Error::Reset => libc::ECONNRESET,
            Error::TimedOut => libc::ETIMEDOUT,
            Error::HostUnreachable => libc::EHOSTUNREACH,
            Error::NetworkUnreachable => libc::ENETUNREACH,
            Error::AddrInUse => libc::EADDRINUSE,
            Error::NotConnected => libc::ENOTCONN,
            Error::BrokenPipe => libc::EPIPE,
            Error::ConnectionLimit | Error::NoMemory => libc::ENOBUFS,
        })
    }
}
