//! Echoes and pages over frames made by hand.

use std::rc::Rc;

use super::{ACK, Clock, Conn, FAILED, RST, Raw, Segment, UNANSWERED};
use crate::load::answer::{self, Page};
use crate::role::Traffic;
use crate::subject::LONGEST_RAW;

/// Of what comes in many segments every second one is acknowledged (RFC 9293 3.8.6.3).
const FULL: u32 = 1_448;

impl Raw {
    /// A message that is to come back; its number is where it begins, so that none is said twice.
    pub(super) fn ask_for_echo(&mut self, index: usize) {
        let size = self.load.role.size;
        let mut said = [0; LONGEST_RAW];
        answer::message(index as u32, self.conns[index].seq, &mut said[..size]);
        self.conns[index].missing = size as u32;
        self.say(index, &said[..size]);
    }

    /// A request.
    pub(super) fn ask_for_page(&mut self, index: usize) {
        let page = self.page.as_ref();
        self.conns[index].missing = page.map_or(UNANSWERED, |page| page.len() as u32);
        if let Some(times) = &mut self.times {
            times.asked[index] = Clock::now();
        }
        let request = self.message.clone();
        self.say(index, &request);
    }

    /// Data has come, in order; with its end, or more is to come.
    pub(super) fn on_answer(&mut self, index: usize, data: &[u8], ends: bool) {
        let right = match self.load.role.traffic {
            Traffic::Echo => self.is_echo(index, data),
            _ => self.is_page(index, data),
        };
        if !right {
            let some = String::from_utf8_lossy(&data[..data.len().min(100)]).into_owned();
            return self.failed(index, &format!("not the answer on connection {index}: {some:?}"));
        }
        let conn = &mut self.conns[index];
        conn.missing -= data.len() as u32;
        let (missing, len) = (conn.missing, data.len() as u32);
        if missing > 0 {
            if len >= 2 * FULL || (missing / FULL).is_multiple_of(2) {
                self.acknowledge(index);
            }
        } else if !self.load.role.traffic.connects() {
            self.done += 1;
            self.answered(index);
        } else if !ends {
            self.acknowledge(index);
        }
    }

    fn is_echo(&self, index: usize, data: &[u8]) -> bool {
        let (conn, size) = (&self.conns[index], self.load.role.size);
        let mut said = [0; LONGEST_RAW];
        answer::message(index as u32, conn.seq.wrapping_sub(size as u32), &mut said[..size]);
        let come = size - conn.missing as usize;
        said[..size].get(come..come + data.len()) == Some(data)
    }

    fn is_page(&mut self, index: usize, data: &[u8]) -> bool {
        if self.page.is_none() {
            // The first answer says how long all are; its head is in one segment.
            let size = self.load.role.size;
            self.page = Page::of(data, size).ok().flatten().map(Rc::new);
        }
        let Some(page) = &self.page else { return false };
        let missing = &mut self.conns[index].missing;
        if *missing == UNANSWERED {
            *missing = page.len() as u32;
        }
        page.has(page.len() - *missing as usize, data)
    }

    /// The connection is of no use any more.
    pub(super) fn failed(&mut self, index: usize, why: &str) {
        let Conn { seq, ack, stamp, .. } = self.conns[index];
        self.emit(index, Segment { seq, ack, stamp, flags: RST | ACK }, &[]);
        self.gone(index, why);
    }

    /// The connection is not there any more.
    pub(super) fn gone(&mut self, index: usize, why: &str) {
        self.note(why);
        let missing = std::mem::replace(&mut self.conns[index].missing, FAILED);
        if self.load.role.traffic.connects() {
            return self.ended();
        }
        if missing > 0 {
            self.on_way -= 1;
            self.ask_another(None);
        } else {
            // Nothing was asked on it, and it waits to be.
            self.idle.retain(|idle| *idle as usize != index);
            self.picked.retain(|picked| *picked as usize != index);
        }
    }
}
