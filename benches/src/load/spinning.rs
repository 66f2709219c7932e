//! A client that neither sleeps nor is woken: the quickest that the kernel's sockets can be asked.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Done, answer, parse_go, warm_up};
use crate::helper;
use crate::role::Role;
use crate::stats::Histogram;

pub(super) fn run(role: &Role) -> io::Result<()> {
    println!("open");
    if helper::next_line().is_none() {
        return Ok(());
    }
    let stream = TcpStream::connect(role.server)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut asking =
        Asking { stream, number: 0, said: vec![0; role.size], read: vec![0; role.size] };
    println!("ready");
    while let Some(line) = helper::next_line() {
        let time = parse_go(&line)?;
        for_a_while(warm_up(time), || asking.round_trip())?;
        println!("begun");
        let begin = Instant::now();
        let times = for_a_while(time, || asking.round_trip())?;
        let done = Done {
            done: times.total(),
            seconds: begin.elapsed().as_secs_f64(),
            quantiles: times.quantiles(),
            ..Done::default()
        };
        println!("{}", done.to_json());
    }
    Ok(())
}

fn for_a_while(time: Duration, mut once: impl FnMut() -> io::Result<()>) -> io::Result<Histogram> {
    let mut times = Histogram::default();
    let end = Instant::now() + time;
    loop {
        let begin = Instant::now();
        if begin >= end {
            return Ok(times);
        }
        once()?;
        times.add(begin.elapsed());
    }
}

struct Asking {
    stream: TcpStream,
    number: u32,
    said: Vec<u8>,
    read: Vec<u8>,
}

impl Asking {
    /// A message and its echo.
    fn round_trip(&mut self) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        answer::message(0, self.number, &mut self.said);
        self.stream.write_all(&self.said)?;
        let mut read = 0;
        while read < self.read.len() {
            match self.stream.read(&mut self.read[read..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(more) => read += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error),
            }
        }
        if self.read == self.said { Ok(()) } else { Err(io::Error::other("not the echo")) }
    }
}
