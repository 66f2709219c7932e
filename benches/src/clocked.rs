//! A crowd in real time.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use throng::net::device::Device;
use throng::runtime;

use crate::crowd::{Crowd, Station};

/// Longest time without an answer or another client.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A crowd behind a device, at the time of the machine.
pub struct Clocked<D> {
    station: Station<D>,
    begin: Instant,
}

impl<D: Device> Clocked<D> {
    /// Finds the server that this crowd is to be of.
    ///
    /// # Errors
    /// `TimedOut`: nobody answers.
    pub fn new(crowd: Crowd, device: D) -> io::Result<Clocked<D>> {
        let mut this = Clocked { station: Station::new(crowd, device), begin: Instant::now() };
        while !this.station.crowd.knows_server() {
            this.rest(Duration::from_millis(20));
            this.station.ask_again();
            if this.begin.elapsed() > PATIENCE {
                return Err(timed_out("the server does not answer".to_owned()));
            }
        }
        Ok(this)
    }

    /// Opens WebSockets until there are `clients`; returns how long it took.
    ///
    /// # Errors
    /// `TimedOut`: one does not come through.
    pub fn open(&mut self, clients: u32) -> io::Result<Duration> {
        let begin = Instant::now();
        self.station.crowd.grow_to(clients);
        let (mut last, mut idle) = (begin, 0);
        while !self.station.crowd.is_complete() {
            if !self.station.turn(self.now()) {
                thread::yield_now();
            }
            if self.station.crowd.idle() != idle {
                (last, idle) = (Instant::now(), self.station.crowd.idle());
            } else if last.elapsed() > PATIENCE {
                let text = format!("no more than {idle} clients could open a WebSocket");
                return Err(timed_out(text));
            }
        }
        Ok(begin.elapsed())
    }

    /// Has so many of the clients leave.
    ///
    /// # Errors
    /// `TimedOut`: the server does not let one go.
    pub fn leave(&mut self, clients: u32) -> io::Result<()> {
        self.station.crowd.leave(clients);
        let (mut last, mut left) = (Instant::now(), 0);
        while self.station.crowd.left() < clients {
            if !self.station.turn(self.now()) {
                thread::yield_now();
            }
            if self.station.crowd.left() != left {
                (last, left) = (Instant::now(), self.station.crowd.left());
            } else if last.elapsed() > PATIENCE {
                return Err(timed_out(format!("no more than {left} clients could leave")));
            }
        }
        Ok(())
    }

    /// Lets time pass.
    pub fn rest(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.station.turn(self.now());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Segments that no client should have got.
    pub fn wrong(&self) -> u32 {
        self.station.crowd.wrong()
    }

    fn now(&self) -> runtime::Instant {
        runtime::Instant::from_nanos(self.begin.elapsed().as_nanos() as u64)
    }
}

fn timed_out(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}
