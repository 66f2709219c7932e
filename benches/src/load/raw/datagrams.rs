//! Datagrams over frames made by hand.

use std::io;
use std::time::{Duration, Instant as Clock};

use super::{ASKED, FAILED, IDLE, Raw};
use crate::load::answer;
use crate::subject::LONGEST_RAW;

/// What has not come this long after the last one is lost.
const LOST: Duration = Duration::from_secs(1);

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
        let mut said = [0; LONGEST_RAW];
        let said = &mut said[..self.load.role.size];
        answer::message(index as u32, self.conns[index].seq, said);
        let (bytes, len) = self.frame.udp(index, said);
        self.send(index, &bytes[..len]);
    }

    /// A frame that may be an echo: it is one when it is the flow's last datagram, and the first time.
    pub(super) fn on_datagram(&mut self, frame: &[u8]) {
        let Some((index, said)) = self.frame.read_udp(frame) else { return };
        let Some(conn) = self.conns.get_mut(index) else { return };
        self.active = Clock::now();
        let mut asked = [0; LONGEST_RAW];
        let asked = &mut asked[..self.load.role.size];
        answer::message(index as u32, conn.seq, asked);
        if conn.missing != ASKED || said != asked {
            return self.note(&format!("not the echo of flow {index}: {said:02x?}"));
        }
        conn.missing = IDLE;
        self.done += 1;
        self.on_way -= 1;
        self.idle.push(index as u32);
        self.ask_another(None);
    }

    /// Waits for what is on its way; what does not come is an error each.
    pub(super) fn last_datagrams(&mut self) -> io::Result<()> {
        self.active = Clock::now();
        while self.on_way > 0 && self.active.elapsed() < LOST {
            self.turns();
        }
        if self.on_way > 0 {
            let (lost, before) = (std::mem::take(&mut self.on_way) as u64, self.errors);
            self.note(&format!("{lost} datagrams were lost"));
            self.errors = before + lost;
            // Should one come yet, it is wrong.
            for conn in self.conns.iter_mut().filter(|conn| conn.missing == ASKED) {
                conn.missing = FAILED;
            }
        }
        Ok(())
    }
}
