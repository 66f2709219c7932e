//! A client that neither sleeps nor is woken: the quickest that the kernel's sockets can be asked.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Done, parse_go, warm_up};
use crate::helper;
use crate::role::Role;
use crate::stats::Histogram;

pub(super) fn run(role: &Role) -> io::Result<()> {
    println!("open");
    if helper::next_line().is_none() {
        return Ok(());
    }
    let mut stream = TcpStream::connect(role.server)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut buffer = vec![0x55; role.size];
    println!("ready");
    while let Some(line) = helper::next_line() {
        let time = parse_go(&line)?;
        for_a_while(warm_up(time), || round_trip(&mut stream, &mut buffer))?;
        println!("begun");
        let begin = Instant::now();
        let times = for_a_while(time, || round_trip(&mut stream, &mut buffer))?;
        let done = Done {
            done: times.total(),
            errors: 0,
            seconds: begin.elapsed().as_secs_f64(),
            quantiles: times.quantiles(),
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

fn round_trip(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.write_all(buffer)?;
    let mut read = 0;
    while read < buffer.len() {
        match stream.read(&mut buffer[read..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
