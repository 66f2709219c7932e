//! Datagrams over frames made by hand.

use std::collections::HashMap;
use std::time::Duration;

use super::{ASKED, FAILED, IDLE, Raw};
use crate::load::answer;
use crate::load::datagrams::{OVERDUE, TIMES, Taken};
use crate::subject::LONGEST_RAW;

/// A flow's datagrams that were sent again.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    /// How often the one that is on its way was.
    times: u32,
    /// Echoes of the one before that have not come.
    late: u32,
}

/// What is overdue, and what came of it.
pub(super) struct Overdue {
    flows: HashMap<usize, Again>,
    pub(super) after: Duration,
    /// When it was last looked for, by the frames' clock.
    looked: u32,
    pub(super) taken: Taken,
}

impl Default for Overdue {
    fn default() -> Overdue {
        Overdue { flows: HashMap::new(), after: OVERDUE, looked: 0, taken: Taken::default() }
    }
}

impl Raw {
    /// Every flow is there from the beginning.
    pub(super) fn open_flows(&mut self) {
        self.established = self.conns.len();
        self.idle = (0..self.conns.len() as u32).collect();
    }

    /// A datagram on a flow; it is the flow's next.
    pub(super) fn ask_by_datagram(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        (conn.seq, conn.missing) = (conn.seq.wrapping_add(1), ASKED);
        self.send_datagram(index);
    }

    /// The flow's newest datagram, which may have been sent before.
    fn send_datagram(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.stamp = self.frame.stamp;
        let mut said = [0; LONGEST_RAW];
        let said = &mut said[..self.load.role.size];
        answer::message(index as u32, conn.seq, said);
        let (bytes, len) = self.frame.udp(index, said);
        self.send(index, &bytes[..len]);
    }

    /// Asks again for what is overdue, a bounded number of times each.
    pub(super) fn ask_overdue(&mut self) {
        let (now, after) = (self.frame.stamp, self.overdue.after.as_millis() as u32);
        if now.wrapping_sub(self.overdue.looked) < after.div_ceil(2) {
            return;
        }
        self.overdue.looked = now;
        for index in 0..self.conns.len() {
            let conn = &mut self.conns[index];
            if conn.missing != ASKED || now.wrapping_sub(conn.stamp) < after {
                continue;
            }
            let again = self.overdue.flows.entry(index).or_default();
            again.times += 1;
            if again.times < TIMES {
                self.overdue.taken.asked_again += 1;
                self.send_datagram(index);
                continue;
            }
            *again = Again { times: 0, late: TIMES };
            conn.missing = FAILED;
            self.on_way -= 1;
            self.note(&format!("no echo of flow {index}, asked for {TIMES} times"));
            self.ask_another(None);
        }
    }

    /// A frame that may be an echo: of the flow's last datagram, the first time it comes, or of one that was
    /// asked for again.
    pub(super) fn on_datagram(&mut self, frame: &[u8]) {
        let Some((index, said)) = self.frame.read_udp(frame) else { return };
        let Some(conn) = self.conns.get_mut(index) else { return };
        let is_it = |number: u32| {
            let mut asked = [0; LONGEST_RAW];
            let asked = &mut asked[..said.len().min(LONGEST_RAW)];
            answer::message(index as u32, number, asked);
            said == asked && said.len() == self.load.role.size
        };
        if conn.missing != ASKED || !is_it(conn.seq) {
            let answered = conn.seq.wrapping_sub(u32::from(conn.missing == ASKED));
            if let Some(again) = self.overdue.flows.get_mut(&index)
                && again.late > 0
                && is_it(answered)
            {
                again.late -= 1;
                self.overdue.taken.late += 1;
                return;
            }
            return self.note(&format!("not the echo of flow {index}: {said:02x?}"));
        }
        conn.missing = IDLE;
        if let Some(again) = self.overdue.flows.get_mut(&index) {
            *again = Again { times: 0, late: again.times };
        }
        self.done += 1;
        self.on_way -= 1;
        self.idle.push(index as u32);
        self.ask_another(None);
    }

    /// Waits for what is on its way, and asks for it as before.
    pub(super) fn last_datagrams(&mut self) {
        while self.on_way > 0 {
            self.turns();
        }
    }
}
