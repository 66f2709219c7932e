//! The names that scripts use for numbers of Linux.

/// The value of a name in an argument.
pub fn word(name: &str) -> Option<i64> {
    let value = match name {
        "AF_INET" | "PF_INET" => libc::AF_INET,
        "AF_INET6" | "PF_INET6" => libc::AF_INET6,
        "SOCK_STREAM" => libc::SOCK_STREAM,
        "SOCK_DGRAM" => libc::SOCK_DGRAM,
        "SOCK_NONBLOCK" => libc::SOCK_NONBLOCK,
        "SOCK_CLOEXEC" => libc::SOCK_CLOEXEC,
        "IPPROTO_TCP" | "SOL_TCP" => libc::IPPROTO_TCP,
        "SOL_SOCKET" => libc::SOL_SOCKET,
        "SO_REUSEADDR" => libc::SO_REUSEADDR,
        "SO_KEEPALIVE" => libc::SO_KEEPALIVE,
        "SO_LINGER" => libc::SO_LINGER,
        "SO_ERROR" => libc::SO_ERROR,
        "SO_RCVBUF" => libc::SO_RCVBUF,
        "SO_SNDBUF" => libc::SO_SNDBUF,
        "TCP_NODELAY" => libc::TCP_NODELAY,
        "TCP_CONGESTION" => libc::TCP_CONGESTION,
        "TCP_CORK" => libc::TCP_CORK,
        "TCP_MAXSEG" => libc::TCP_MAXSEG,
        "TCP_KEEPIDLE" => libc::TCP_KEEPIDLE,
        "TCP_KEEPINTVL" => libc::TCP_KEEPINTVL,
        "TCP_KEEPCNT" => libc::TCP_KEEPCNT,
        "TCP_USER_TIMEOUT" => libc::TCP_USER_TIMEOUT,
        "TCP_NOTSENT_LOWAT" => libc::TCP_NOTSENT_LOWAT,
        "SHUT_RD" => libc::SHUT_RD,
        "SHUT_WR" => libc::SHUT_WR,
        "SHUT_RDWR" => libc::SHUT_RDWR,
        "F_GETFL" => libc::F_GETFL,
        "F_SETFL" => libc::F_SETFL,
        "O_RDWR" => libc::O_RDWR,
        "O_NONBLOCK" => libc::O_NONBLOCK,
        "MSG_DONTWAIT" => libc::MSG_DONTWAIT,
        "MSG_NOSIGNAL" => libc::MSG_NOSIGNAL,
        "MSG_PEEK" => libc::MSG_PEEK,
        "MSG_OOB" => libc::MSG_OOB,
        "MSG_FASTOPEN" => libc::MSG_FASTOPEN,
        "POLLIN" => i32::from(libc::POLLIN),
        "POLLOUT" => i32::from(libc::POLLOUT),
        "POLLERR" => i32::from(libc::POLLERR),
        "POLLHUP" => i32::from(libc::POLLHUP),
        "POLLRDHUP" => i32::from(libc::POLLRDHUP),
        "POLLRDNORM" => i32::from(libc::POLLRDNORM),
        "POLLWRNORM" => i32::from(libc::POLLWRNORM),
        "POLLNVAL" => i32::from(libc::POLLNVAL),
        _ => return None,
    };
    Some(value.into())
}

const ERRORS: [(&str, i32); 26] = [
    ("EAGAIN", libc::EAGAIN),
    ("EWOULDBLOCK", libc::EWOULDBLOCK),
    ("EINPROGRESS", libc::EINPROGRESS),
    ("EALREADY", libc::EALREADY),
    ("EISCONN", libc::EISCONN),
    ("ENOTCONN", libc::ENOTCONN),
    ("EPIPE", libc::EPIPE),
    ("ECONNRESET", libc::ECONNRESET),
    ("ECONNREFUSED", libc::ECONNREFUSED),
    ("ECONNABORTED", libc::ECONNABORTED),
    ("ETIMEDOUT", libc::ETIMEDOUT),
    ("EHOSTUNREACH", libc::EHOSTUNREACH),
    ("ENETUNREACH", libc::ENETUNREACH),
    ("EADDRINUSE", libc::EADDRINUSE),
    ("EADDRNOTAVAIL", libc::EADDRNOTAVAIL),
    ("EBADF", libc::EBADF),
    ("EINVAL", libc::EINVAL),
    ("ENOENT", libc::ENOENT),
    ("ENOBUFS", libc::ENOBUFS),
    ("ENOMEM", libc::ENOMEM),
    ("ENOPROTOOPT", libc::ENOPROTOOPT),
    ("EPROTONOSUPPORT", libc::EPROTONOSUPPORT),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("EPROTO", libc::EPROTO),
    ("EMSGSIZE", libc::EMSGSIZE),
    ("EINTR", libc::EINTR),
];

/// The number of an error.
pub fn errno(name: &str) -> Option<i32> {
    ERRORS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The name of an error.
pub fn errno_name(number: i32) -> String {
    let known = ERRORS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("errno {number}"), |(name, _)| (*name).into())
}
