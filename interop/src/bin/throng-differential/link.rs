//! The link to a subject: a TAP of ours, one thread that reads and writes it, and who hears what.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use throng::net::device::{Device, tap};
use throng::net::packet::Packet;

use crate::frame::{Segment, answer_neighbor};

/// A segment of the subject's, and when it came.
pub(crate) type Arrival = (Instant, Segment);

type Ears = Arc<Mutex<HashMap<IpAddr, mpsc::Sender<Arrival>>>>;

/// The peer's end of a link.
pub(crate) struct Link {
    outbox: UnixDatagram,
    ears: Ears,
}

impl Link {
    /// Begins to work on `device`, for as long as the process runs.
    pub(crate) fn start(device: tap::TapQueue) -> io::Result<Link> {
        let (outbox, inbox) = UnixDatagram::pair()?;
        inbox.set_nonblocking(true)?;
        let ears = Ears::default();
        let link = Link { outbox, ears: ears.clone() };
        thread::spawn(move || {
            if let Err(error) = work(device, &inbox, &ears) {
                eprintln!("a link ended: {error}");
            }
        });
        Ok(link)
    }

    /// Sends a frame to the subject.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.outbox.send(frame).map(drop)
    }

    /// Segments to `address` go to the one returned here from now on.
    pub(crate) fn hear(&self, address: IpAddr) -> mpsc::Receiver<Arrival> {
        let (tell, told) = mpsc::channel();
        self.ears.lock().unwrap_or_else(PoisonError::into_inner).insert(address, tell);
        told
    }
}

fn work(mut device: tap::TapQueue, inbox: &UnixDatagram, ears: &Ears) -> io::Result<()> {
    let mut buffer = vec![0; 2_048];
    let (mut frames, mut out) = (Vec::new(), VecDeque::new());
    let time = throng::runtime::Instant::ZERO;
    loop {
        {
            let port = device.interrupt_fd().ok_or(io::ErrorKind::NotConnected)?;
            let mut fds =
                [PollFd::from_borrowed_fd(port, PollFlags::IN), PollFd::new(inbox, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) | Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        device.receive(&mut frames, 64, time);
        let now = Instant::now();
        for frame in frames.drain(..) {
            if let Some(answer) = answer_neighbor(frame.data()) {
                out.push_back(Packet::from(answer));
            } else if let Some(segment) = Segment::from_frame(frame.data()) {
                let ears = ears.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(ear) = ears.get(&segment.dst) {
                    // An exchange that is over hears nothing more.
                    let _ = ear.send((now, segment));
                }
            }
        }
        while let Ok(length) = inbox.recv(&mut buffer) {
            out.push_back(Packet::from(buffer[..length].to_vec()));
        }
        device.transmit(&mut out, time);
    }
}
