//! The options of a socket.

use std::time::Duration;

use throng_net::engine::{CongestionControl, Keepalive};

use crate::errno::{Errno, Sys};
use crate::host::Host;
use crate::tcp_info;

/// What `setsockopt` has set, and what a connection inherits of its listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    reuse_addr: bool,
    nodelay: bool,
    keepalive: bool,
    /// Seconds, seconds, number.
    keep: (i32, i32, i32),
    /// Milliseconds; 0: none.
    user_timeout: i32,
    /// Seconds; `None`: off.
    linger: Option<i32>,
    /// Bytes, without a sign; all of them: no limit.
    notsent_lowat: i32,
    /// `None`: the host's.
    congestion: Option<CongestionControl>,
}

impl Default for Settings {
    /// As in Linux.
    fn default() -> Settings {
        Settings {
            reuse_addr: false,
            nodelay: false,
            keepalive: false,
            keep: (7_200, 75, 9),
            user_timeout: 0,
            linger: None,
            notsent_lowat: -1,
            congestion: None,
        }
    }
}

/// Linux's names for what moves the congestion window, and the room it has for one.
const CONTROLS: [(&str, CongestionControl); 2] =
    [("cubic", CongestionControl::Cubic), ("reno", CongestionControl::NewReno)];
const CONTROL_NAME: usize = 16;

const INVALID: Errno = Errno(libc::EINVAL);

impl Host {
    /// `setsockopt(2)`: `level` and `name` as Linux numbers them, `value` as its ABI has it.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`; `ENOPROTOOPT`: not an option there is.
    pub fn set_option(&mut self, fd: i32, level: i32, name: i32, value: &[u8]) -> Sys<()> {
        let socket = self.socket_mut(fd)?;
        let settings = &mut socket.settings;
        if (level, name) == (libc::SOL_TCP, libc::TCP_CONGESTION) {
            settings.congestion = Some(read_control(value)?);
            return self.apply(fd, level, name);
        }
        let number = read_int(value, 0)?;
        let at_least = |least: i32| if number < least { Err(INVALID) } else { Ok(number) };
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => settings.reuse_addr = number != 0,
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => settings.keepalive = number != 0,
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let time = read_int(value, 4)?;
                settings.linger = (number != 0).then_some(time.max(0));
            }
            (libc::SOL_TCP, libc::TCP_NODELAY) => settings.nodelay = number != 0,
            (libc::SOL_TCP, libc::TCP_KEEPIDLE) => settings.keep.0 = at_least(1)?,
            (libc::SOL_TCP, libc::TCP_KEEPINTVL) => settings.keep.1 = at_least(1)?,
            (libc::SOL_TCP, libc::TCP_KEEPCNT) => settings.keep.2 = at_least(1)?.min(127),
            (libc::SOL_TCP, libc::TCP_USER_TIMEOUT) => settings.user_timeout = at_least(0)?,
            (libc::SOL_TCP, libc::TCP_NOTSENT_LOWAT) => settings.notsent_lowat = number,
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        self.apply(fd, level, name)?;
        self.turn();
        Ok(())
    }

    /// `getsockopt(2)`: the value as Linux's ABI has it.
    ///
    /// # Errors
    /// `EBADF`; `ENOTCONN`: no connection to tell of; `ENOPROTOOPT`: not an option there is.
    pub fn option(&mut self, fd: i32, level: i32, name: i32) -> Sys<Vec<u8>> {
        let settings = self.socket(fd)?.settings;
        let number = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => {
                self.take_error(fd).map_or(0, |error| Errno::from(error).0)
            }
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => settings.reuse_addr.into(),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => settings.keepalive.into(),
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let on = i32::from(settings.linger.is_some()).to_ne_bytes();
                let time = settings.linger.unwrap_or(0).to_ne_bytes();
                return Ok([on, time].concat());
            }
            (libc::SOL_TCP, libc::TCP_NODELAY) => settings.nodelay.into(),
            (libc::SOL_TCP, libc::TCP_KEEPIDLE) => settings.keep.0,
            (libc::SOL_TCP, libc::TCP_KEEPINTVL) => settings.keep.1,
            (libc::SOL_TCP, libc::TCP_KEEPCNT) => settings.keep.2,
            (libc::SOL_TCP, libc::TCP_USER_TIMEOUT) => settings.user_timeout,
            (libc::SOL_TCP, libc::TCP_NOTSENT_LOWAT) => settings.notsent_lowat,
            (libc::SOL_TCP, libc::TCP_MAXSEG) => self.info(fd)?.mss.into(),
            (libc::SOL_TCP, libc::TCP_CONGESTION) => {
                let known = self.info(fd).ok().and_then(|info| info.congestion);
                let control = known.or(settings.congestion).unwrap_or_default();
                let mut bytes = CONTROLS
                    .iter()
                    .find(|(_, known)| *known == control)
                    .map_or_else(Vec::new, |(name, _)| name.as_bytes().to_vec());
                bytes.resize(CONTROL_NAME, 0);
                return Ok(bytes);
            }
            (libc::SOL_TCP, libc::TCP_INFO) => return Ok(tcp_info::bytes(&self.info(fd)?)),
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    /// Tells the engine what one option has become.
    fn apply(&mut self, fd: i32, level: i32, name: i32) -> Sys<()> {
        let socket = self.socket(fd)?;
        let (Some(conn), settings) = (socket.conn(), socket.settings) else { return Ok(()) };
        let seconds = |number: i32| Duration::from_secs(number.max(0) as u64);
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                self.engine.set_linger(conn, settings.linger.map(seconds));
            }
            (libc::SOL_TCP, libc::TCP_CONGESTION) => {
                if let Some(control) = settings.congestion {
                    self.engine.set_congestion(conn, control);
                }
            }
            (libc::SOL_TCP, libc::TCP_NODELAY) => self.engine.set_nodelay(conn, settings.nodelay),
            (libc::SOL_TCP, libc::TCP_USER_TIMEOUT) => {
                let timeout = Duration::from_millis(settings.user_timeout.max(0) as u64);
                self.engine.set_user_timeout(conn, Some(timeout).filter(|time| !time.is_zero()));
            }
            (libc::SOL_TCP, libc::TCP_NOTSENT_LOWAT) => {
                let bytes = Some(settings.notsent_lowat as u32).filter(|bytes| *bytes != u32::MAX);
                self.engine.set_notsent_lowat(conn, bytes);
            }
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE)
            | (libc::SOL_TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT) => {
                let keepalive = settings.keepalive.then(|| Keepalive {
                    idle: seconds(settings.keep.0),
                    interval: seconds(settings.keep.1),
                    count: settings.keep.2.clamp(1, 127) as u8,
                });
                self.engine.set_keepalive(conn, keepalive);
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the engine of every option that is not at its default.
    pub(crate) fn apply_all(&mut self, fd: i32) -> Sys<()> {
        let settings = self.socket(fd)?.settings;
        if settings.linger.is_some() {
            self.apply(fd, libc::SOL_SOCKET, libc::SO_LINGER)?;
        }
        if settings.nodelay {
            self.apply(fd, libc::SOL_TCP, libc::TCP_NODELAY)?;
        }
        if settings.congestion.is_some() {
            self.apply(fd, libc::SOL_TCP, libc::TCP_CONGESTION)?;
        }
        if settings.user_timeout > 0 {
            self.apply(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT)?;
        }
        if settings.notsent_lowat != -1 {
            self.apply(fd, libc::SOL_TCP, libc::TCP_NOTSENT_LOWAT)?;
        }
        if settings.keepalive {
            self.apply(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE)?;
        }
        Ok(())
    }
}

/// The `int` at `offset` of an option's value.
fn read_int(value: &[u8], offset: usize) -> Sys<i32> {
    let bytes = value.get(offset..offset + 4).ok_or(INVALID)?;
    bytes.try_into().map(i32::from_ne_bytes).map_err(|_| INVALID)
}

/// A control by its name, which ends at a zero if there is one.
fn read_control(value: &[u8]) -> Sys<CongestionControl> {
    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let known = CONTROLS.iter().find(|(known, _)| known.as_bytes() == name);
    known.map(|(_, control)| *control).ok_or(Errno(libc::ENOENT))
}
