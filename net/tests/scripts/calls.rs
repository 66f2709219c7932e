//! The system calls of a script.

use std::net::SocketAddr;

use bytes::Bytes;
use throng_packetdrill::{Errno, Poll, Sys};

use crate::constants::{errno, errno_name, word};
use crate::flow::{Flow, pattern};
use crate::notation::seconds;
use crate::run::Run;
use crate::script::{Call, Expr};

/// A call that waits.
pub struct Pending {
    call: Call,
    /// When it is to return.
    end: i64,
    /// When it gives up waiting, if it does so by itself.
    timeout: Option<i64>,
}

enum Outcome {
    Done(Sys<i64>),
    Waits,
}

type Attempt = Result<Outcome, String>;

impl Run {
    /// Makes the call. `base` is what its end is relative to.
    pub fn call(&mut self, call: &Call, base: i64) -> Result<(), String> {
        if self.pending.is_some() {
            return Err("another call is still waiting".into());
        }
        let now = self.now();
        let timeout = poll_timeout(call)?.map(|millis| now + millis * 1_000);
        match self.attempt(call, false, timeout)? {
            Outcome::Done(result) => {
                self.judge(call, result)?;
                match call.end {
                    Some(end) if base + end > now + self.settings.tolerance => {
                        Err(format!("{} returns at once", call.name))
                    }
                    _ => Ok(()),
                }
            }
            Outcome::Waits => {
                let Some(end) = call.end else {
                    return Err(format!("{} would wait, and no `...` says how long", call.name));
                };
                self.pending = Some(Pending { call: call.clone(), end: base + end, timeout });
                Ok(())
            }
        }
    }

    /// Lets the call that waits look again.
    pub fn try_pending(&mut self) -> Result<(), String> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let (now, tolerance) = (self.now(), self.settings.tolerance);
        let Outcome::Done(result) = self.attempt(&pending.call, true, pending.timeout)? else {
            if now > pending.end + tolerance {
                return Err(format!("{} still waits", pending.call.name));
            }
            self.pending = Some(pending);
            return Ok(());
        };
        self.judge(&pending.call, result)?;
        if (now - pending.end).abs() > tolerance {
            let (name, end) = (&pending.call.name, seconds(pending.end));
            return Err(format!("{name} returns at {}, expected at {end}", seconds(now)));
        }
        Ok(())
    }

    /// The script is over: a call that waits still has to return when it should.
    pub fn finish_pending(&mut self) -> Result<(), String> {
        if let Some(pending) = &self.pending {
            let end = pending.end + self.settings.tolerance + 1;
            self.advance(end)?;
        }
        Ok(())
    }

    fn judge(&mut self, call: &Call, result: Sys<i64>) -> Result<(), String> {
        let told = match result {
            Ok(value) => value.to_string(),
            Err(error) => format!("-1 {}", errno_name(error.0)),
        };
        let expected = match (&call.result, &call.errno) {
            (Expr::Any, _) => return Ok(()),
            (result, Some(name)) => format!("{} {name}", number(result)?),
            (result, None) => number(result)?.to_string(),
        };
        if let Some(name) = &call.errno
            && errno(name).is_none()
        {
            return Err(format!("`{name}` is no error"));
        }
        if matches!(call.name.as_str(), "socket" | "accept" | "accept4")
            && let (Ok(fd), Ok(script)) = (result, number(&call.result))
            && script >= 0
        {
            self.fds.insert(script, fd as i32);
            return Ok(());
        }
        if told == expected {
            return Ok(());
        }
        Err(format!("{} returns {told}, expected {expected}", call.name))
    }

    fn attempt(&mut self, call: &Call, again: bool, timeout: Option<i64>) -> Attempt {
        let name = call.name.as_str();
        let arguments = Arguments(&call.arguments);
        if name == "socket" {
            let v6 = match arguments.get(0)? {
                Expr::Any => self.settings.v6,
                family => number(family)? == i64::from(libc::AF_INET6),
            };
            let kind = arguments.number(1)?;
            if kind & 15 != i64::from(libc::SOCK_STREAM) {
                return Ok(Outcome::Done(Err(Errno(libc::EPROTONOSUPPORT))));
            }
            let nonblocking = kind & i64::from(libc::SOCK_NONBLOCK) != 0;
            return done(Ok(self.host.socket_call(v6, nonblocking).into()));
        }
        if name == "poll" {
            return self.poll(&arguments, timeout);
        }
        let script_fd = arguments.number(0)?;
        let fd = self.fds.get(&script_fd).copied().unwrap_or(script_fd as i32);
        let zero = |result: Sys<()>| done(result.map(|()| 0));
        match name {
            "bind" => {
                let addr = self.address(arguments.get(1)?, true)?;
                zero(self.host.bind(fd, addr))
            }
            "listen" => {
                self.awaiting = true;
                zero(self.host.listen(fd, arguments.number(1)? as i32))
            }
            "accept" | "accept4" => {
                let flags = if name == "accept4" { arguments.number(3)? } else { 0 };
                let nonblocking = flags & i64::from(libc::SOCK_NONBLOCK) != 0;
                let result = self.host.accept(fd, nonblocking).map(|(fd, _)| i64::from(fd));
                self.outcome(fd, result, libc::EAGAIN, false)
            }
            "connect" => {
                let to = self.address(arguments.get(1)?, false)?;
                let result = self.host.connect(fd, to).map(|()| 0);
                if !again && let Ok(tuple) = self.host.tuple(fd) {
                    let known = self.flows.iter().any(|flow| flow.tuple == tuple);
                    if !known {
                        self.flows.push(Flow::new(tuple));
                    }
                    self.current = Some(self.flow_of(tuple));
                    self.awaiting = false;
                }
                let waits = if again { libc::EALREADY } else { libc::EINPROGRESS };
                self.outcome(fd, result, waits, false)
            }
            "read" | "recv" | "recvfrom" | "readv" | "recvmsg" => self.read(fd, name, &arguments),
            "write" | "send" | "sendto" | "writev" | "sendmsg" => self.write(fd, name, &arguments),
            "close" => {
                self.fds.remove(&script_fd);
                zero(self.host.close(fd))
            }
            "shutdown" => zero(self.host.shutdown(fd, arguments.number(1)? as i32)),
            "setsockopt" | "getsockopt" => self.option(name, fd, &arguments),
            "fcntl" => {
                let nonblock = i64::from(libc::O_NONBLOCK);
                match arguments.number(1)? as i32 {
                    libc::F_GETFL => {
                        let flags = self.host.is_blocking(fd).map(|blocking| {
                            i64::from(libc::O_RDWR) | if blocking { 0 } else { nonblock }
                        });
                        done(flags)
                    }
                    libc::F_SETFL => {
                        let blocking = arguments.number(2)? & nonblock == 0;
                        zero(self.host.set_blocking(fd, blocking))
                    }
                    _ => Err("fcntl: F_GETFL and F_SETFL are known here".into()),
                }
            }
            "ioctl" => self.ioctl(fd, &arguments),
            _ => Err(format!("the call {name} is not known here")),
        }
    }

    /// What a call has come to that waits for `waits` to be over on a blocking descriptor.
    fn outcome(&mut self, fd: i32, result: Sys<i64>, waits: i32, dont_wait: bool) -> Attempt {
        let blocking = !dont_wait && self.host.is_blocking(fd).unwrap_or(false);
        if blocking && result == Err(Errno(waits)) {
            return Ok(Outcome::Waits);
        }
        done(result)
    }

    fn read(&mut self, fd: i32, name: &str, arguments: &Arguments<'_>) -> Attempt {
        let flags = arguments.flags(name)?;
        let dont_wait = flags == i64::from(libc::MSG_DONTWAIT);
        if flags != 0 && !dont_wait {
            return Err("of the flags only MSG_DONTWAIT is known here".into());
        }
        let max = match name {
            "readv" => vector(arguments.get(1)?)?,
            "recvmsg" => vector(message(arguments.get(1)?)?)?,
            _ => arguments.number(2)? as usize,
        };
        let result = self.host.read(fd, max);
        if let (Ok(bytes), Ok(tuple)) = (&result, self.host.tuple(fd)) {
            let flow = self.flow_of(tuple);
            let flow = &mut self.flows[flow];
            let wrong = (flow.read..).zip(bytes).find(|(at, byte)| pattern(*at) != **byte);
            if let Some((at, _)) = wrong {
                return Err(format!("byte {at} of what is read is not what the peer sent"));
            }
            flow.read += bytes.len();
        }
        let result = result.map(|bytes| bytes.len() as i64);
        self.outcome(fd, result, libc::EAGAIN, dont_wait)
    }

    fn write(&mut self, fd: i32, name: &str, arguments: &Arguments<'_>) -> Attempt {
        let flags = arguments.flags(name)? as i32;
        if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
            return Err("of the flags MSG_DONTWAIT and MSG_NOSIGNAL are known here".into());
        }
        let len = match name {
            "writev" => vector(arguments.get(1)?)?,
            "sendmsg" => vector(message(arguments.get(1)?)?)?,
            _ => arguments.number(2)? as usize,
        };
        let tuple = self.host.tuple(fd);
        let flow = tuple.ok().map(|tuple| self.flow_of(tuple));
        let start = flow.map_or(0, |flow| self.flows[flow].written.len());
        let bytes: Bytes = match arguments.get(1)? {
            Expr::Str(text) if text.len() == len => text.clone().into(),
            Expr::Str(text) => return Err(format!("`{text}` is not {len} bytes")),
            _ => (start..start + len).map(pattern).collect(),
        };
        if let Some(flow) = flow {
            self.flows[flow].written.extend_from_slice(&bytes);
        }
        let result = self.host.write(fd, bytes);
        if let Some(flow) = flow {
            let taken = *result.as_ref().unwrap_or(&0);
            self.flows[flow].written.truncate(start + taken);
        }
        let dont_wait = flags & libc::MSG_DONTWAIT != 0;
        self.outcome(fd, result.map(|len| len as i64), libc::EAGAIN, dont_wait)
    }

    fn option(&mut self, name: &str, fd: i32, arguments: &Arguments<'_>) -> Attempt {
        let (level, option) = (arguments.number(1)? as i32, arguments.number(2)? as i32);
        let value = arguments.get(3)?;
        if name == "setsockopt" {
            let bytes = option_bytes(value)?;
            return done(self.host.set_option(fd, level, option, &bytes).map(|()| 0));
        }
        let result = self.host.option(fd, level, option);
        if let Ok(got) = &result
            && !matches!(value, Expr::Any)
        {
            let mut want = option_bytes(value)?;
            if matches!(value, Expr::Str(_)) {
                // A name ends where its zeros begin.
                want.resize(got.len(), 0);
            }
            if want != *got {
                let show = |bytes: &[u8]| {
                    let numbers =
                        bytes.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                    numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
                };
                return Err(format!("getsockopt gives {}, expected {}", show(got), show(&want)));
            }
        }
        done(result.map(|_| 0))
    }

    fn ioctl(&mut self, fd: i32, arguments: &Arguments<'_>) -> Attempt {
        let Expr::Word(request) = arguments.get(1)? else {
            return Err("ioctl: the request is a word".into());
        };
        let result = match request.as_str() {
            "SIOCINQ" | "FIONREAD" => self.host.unread(fd).map(|len| len as i64),
            "SIOCOUTQ" | "TIOCOUTQ" => self.host.info(fd).map(|info| info.send_queue as i64),
            "SIOCOUTQNSD" => {
                self.host.info(fd).map(|info| info.send_queue as i64 - i64::from(info.in_flight))
            }
            _ => return Err(format!("ioctl {request} is not known here")),
        };
        if let (Ok(got), Expr::List(want)) = (&result, arguments.get(2)?) {
            let want = number(want.first().unwrap_or(&Expr::Int(0)))?;
            if want != *got {
                return Err(format!("{request} gives {got}, expected {want}"));
            }
        }
        done(result.map(|_| 0))
    }

    /// `poll([{fd=4, events=POLLIN, revents=POLLIN}], 1, 100)`.
    fn poll(&mut self, arguments: &Arguments<'_>, timeout: Option<i64>) -> Attempt {
        let Expr::List(list) = arguments.get(0)? else {
            return Err("poll: a list in brackets".into());
        };
        let mut polls = Vec::new();
        let mut expected = Vec::new();
        for entry in list {
            let Expr::Braces(members) = entry else {
                return Err("poll: {fd=..., events=...}".into());
            };
            let member = |name: &str| {
                let found = members.iter().find(|(member, _)| member == name);
                found.map_or(Ok(0), |(_, value)| number(value))
            };
            let fd = member("fd")?;
            let fd = self.fds.get(&fd).copied().unwrap_or(fd as i32);
            polls.push(Poll { fd, events: member("events")? as i16, revents: 0 });
            expected.push(member("revents")? as i16);
        }
        let ready = self.host.poll(&mut polls);
        if ready == 0 && timeout.is_none_or(|end| self.now() < end) {
            return Ok(Outcome::Waits);
        }
        for (poll, want) in polls.iter().zip(expected) {
            if poll.revents != want {
                return Err(format!("revents is {:#x}, expected {want:#x}", poll.revents));
            }
        }
        done(Ok(ready as i64))
    }

    /// The address an argument stands for: `...` is the script's own or its peer's.
    fn address(&self, value: &Expr, local: bool) -> Result<SocketAddr, String> {
        let settings = &self.settings;
        let Expr::Braces(members) = value else {
            return Ok(if local {
                let any: std::net::IpAddr =
                    if settings.v6 { [0u8; 16].into() } else { [0u8; 4].into() };
                SocketAddr::new(any, settings.bind_port)
            } else {
                SocketAddr::new(settings.remote(), settings.connect_port)
            });
        };
        let mut addr = SocketAddr::new(settings.remote(), 0);
        for (name, value) in members {
            match (name.as_str(), value) {
                ("sin_port", Expr::Apply(_, port)) => {
                    addr.set_port(number(port.first().unwrap_or(&Expr::Int(0)))? as u16);
                }
                ("sin_addr", Expr::Apply(_, text)) => {
                    let Some(Expr::Str(text)) = text.first() else {
                        return Err("an address in quotes".into());
                    };
                    addr.set_ip(text.parse().map_err(|_| format!("`{text}` is no address"))?);
                }
                ("sa_family", _) => {}
                (name, _) => return Err(format!("`{name}` is no member of a socket's address")),
            }
        }
        Ok(addr)
    }
}

struct Arguments<'a>(&'a [Expr]);

impl<'a> Arguments<'a> {
    fn get(&self, index: usize) -> Result<&'a Expr, String> {
        self.0.get(index).ok_or_else(|| format!("there is no argument {}", index + 1))
    }

    fn number(&self, index: usize) -> Result<i64, String> {
        number(self.get(index)?)
    }

    /// The flags of a call that sends or receives.
    fn flags(&self, name: &str) -> Result<i64, String> {
        match name {
            "recvmsg" | "sendmsg" => self.number(2),
            "recv" | "recvfrom" | "send" | "sendto" => self.number(3),
            _ => Ok(0),
        }
    }
}

fn done(result: Sys<i64>) -> Attempt {
    Ok(Outcome::Done(result))
}

fn number(value: &Expr) -> Result<i64, String> {
    match value {
        Expr::Int(number) => Ok(*number),
        Expr::Word(name) => word(name).ok_or_else(|| format!("`{name}` is not known here")),
        Expr::Or(all) => all.iter().try_fold(0, |sum, value| Ok(sum | number(value)?)),
        _ => Err("expected a number".into()),
    }
}

/// The vector of `{msg_name(...)=..., msg_iov(1)=[{..., 1000}], msg_flags=0}`.
fn message(value: &Expr) -> Result<&Expr, String> {
    let Expr::Braces(members) = value else { return Err("expected {msg_iov(1)=...}".into()) };
    if members.iter().any(|(name, value)| name == "msg_control" && *value != Expr::Any) {
        return Err("msg_control is not known here".into());
    }
    let vector = members.iter().find(|(name, _)| name == "msg_iov");
    vector.map(|(_, vector)| vector).ok_or_else(|| "there is no msg_iov".into())
}

/// The lengths of `[{..., 1000}, {..., 1000}]`, together.
fn vector(value: &Expr) -> Result<usize, String> {
    let Expr::List(list) = value else { return Err("expected [{..., length}]".into()) };
    let mut len = 0;
    for entry in list {
        match entry {
            Expr::Braces(members) if members.len() == 2 => len += number(&members[1].1)? as usize,
            _ => return Err("expected {..., length}".into()),
        }
    }
    Ok(len)
}

/// An option's value as the ABI has it: `[1]` or `{onoff=1, linger=0}`.
fn option_bytes(value: &Expr) -> Result<Vec<u8>, String> {
    let values: Vec<&Expr> = match value {
        Expr::List(list) => list.iter().collect(),
        Expr::Braces(members) => members.iter().map(|(_, value)| value).collect(),
        value => vec![value],
    };
    let mut bytes = Vec::new();
    for value in values {
        match value {
            Expr::Braces(_) => bytes.extend(option_bytes(value)?),
            Expr::Str(text) => bytes.extend_from_slice(text.as_bytes()),
            _ => bytes.extend_from_slice(&(number(value)? as i32).to_ne_bytes()),
        }
    }
    Ok(bytes)
}

/// For how long a `poll` waits, in milliseconds; `None`: for ever, or it is not a `poll`.
fn poll_timeout(call: &Call) -> Result<Option<i64>, String> {
    if call.name != "poll" {
        return Ok(None);
    }
    let timeout = Arguments(&call.arguments).number(2)?;
    Ok((timeout >= 0).then_some(timeout))
}
