//! What holds between any two calls; checked by tests after every event.

use super::demux::Kind;
use super::engine::Engine;
use super::state::{Armed, Conn, Phase, State, flag, mark};

throng_runtime::metrics! {
    /// How many of what an engine holds, and the memory of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Usage {
        /// Connections, ended ones the application has not closed included.
        gauge connections: usize,
        /// Connections that their application has closed and that are not at their end.
        gauge orphans: usize,
        /// Half-open passive connections.
        gauge half_open: usize,
        /// TIME_WAIT entries.
        gauge time_wait: usize,
        /// Nodes in the timing wheel.
        gauge timers: usize,
        /// Connections that own buffers at the moment.
        gauge with_buffers: usize,
        /// Bytes counted against the bound of send memory.
        gauge send_memory: u64,
        /// Bytes counted against the bound of receive memory.
        gauge recv_memory: u64,
        /// Bytes of the tables: blocks, half-open and TIME_WAIT entries, demultiplexing,
        /// settings, paths, accepted cookies, limits.
        gauge tables: usize,
        /// Bytes of `tables` that are connections' blocks.
        gauge blocks: usize,
        /// Bytes of `tables` that lead from addresses and ports to connections.
        gauge demux: usize,
        /// Bytes of the timing wheel's nodes.
        gauge timer_memory: usize,
    }
}

impl Engine {
    /// What is held at the moment.
    pub fn usage(&self) -> Usage {
        Usage {
            connections: self.conns.len(),
            orphans: self.core.orphans,
            half_open: self.halves.len(),
            time_wait: self.core.waits.len(),
            timers: self.core.wheel.len(),
            with_buffers: self.core.pool.taken,
            send_memory: self.core.send_used,
            recv_memory: self.core.recv_used,
            tables: self.conns.memory()
                + self.halves.memory()
                + self.core.waits.memory()
                + self.core.settings.memory()
                + self.core.paths.memory()
                + self.core.cookies.memory()
                + self.core.resets.memory()
                + self.core.ports.memory()
                + self.core.demux.memory(),
            blocks: self.conns.memory(),
            demux: self.core.demux.memory(),
            timer_memory: self.core.wheel.memory(),
        }
    }

    /// Checks everything that must hold between two calls; its time grows with the number
    /// of connections. For tests.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn check_invariants(&self) {
        let (mut live, mut mapped, mut boxes) = (0, 0, 0);
        let (mut recv_used, mut settings, mut own_paths) = (0, 0, 0);
        for (index, conn) in self.conns.iter() {
            if !conn.has(flag::LIVE) {
                assert!(conn.cold.is_none() && conn.node.is_none(), "a free block owns nothing");
                continue;
            }
            assert_eq!(conn.index, index);
            live += 1;
            mapped += usize::from(conn.has(flag::MAPPED));
            boxes += usize::from(conn.cold.is_some());
            recv_used += conn.cold.as_ref().map_or(0, |cold| u64::from(cold.charge()));
            if conn.has(flag::MAPPED) {
                let hash = self.core.demux.hash(&conn.tuple);
                let found = self.core.demux.find(hash, |slot| slot == conn.slot());
                assert!(found.is_some(), "a mapped connection is found");
            }
            settings += usize::from(conn.settings != 0);
            own_paths += usize::from(conn.has(flag::OWN_PATH));
            self.check(conn);
        }
        assert_eq!(live, self.conns.len(), "connections in use");
        let orphans = self.conns.iter().filter(|(_, conn)| conn.has(flag::ORPHAN)).count();
        assert_eq!(orphans, self.core.orphans, "orphans");
        assert_eq!(boxes, self.core.pool.taken, "boxes in use");
        assert_eq!(recv_used, self.core.recv_used, "receive memory");
        assert_eq!(settings, self.core.settings.users(), "settings in use");
        assert_eq!(own_paths, self.core.paths.owners(), "paths of single connections");
        assert_eq!(
            mapped + self.halves.len() + self.core.waits.len(),
            self.core.demux.len(),
            "entries of the demultiplexing table"
        );
        let half_open: usize = self.listeners.iter().map(|listener| listener.half_open).sum();
        assert!(half_open <= self.halves.len());
        for listener in self.listeners.iter() {
            assert!(listener.ready.len() <= listener.backlog);
        }
        for slot in self.core.transmit.iter().chain(&self.core.repeats) {
            assert!(slot.kind() != Kind::Wait);
        }
    }

    fn check(&self, conn: &Conn) {
        assert!(conn.flight() < 1 << 31, "una <= nxt");
        assert!(conn.offered() < 1 << 31, "the right edge is not behind RCV.NXT");
        assert!(conn.marks & mark::PROBED == 0 || conn.has(flag::UNUSUAL), "no segment passes by");
        if let Some(cold) = &conn.cold {
            assert!(!cold.is_unusual() || conn.has(flag::UNUSUAL), "told beforehand");
            cold.check();
            if let Some(early) = cold.early() {
                early.check(conn.rcv_nxt);
            }
            match cold.sent() {
                Some(sent) if conn.marks & mark::LOGGED != 0 => {
                    sent.check(conn.snd_una, conn.snd_nxt)
                }
                sent => assert!(sent.is_none_or(|sent| !sent.is_marked()), "marks are kept"),
            }
        }
        match conn.state {
            State::Closed | State::TimeWait => {
                assert!(!conn.has(flag::MAPPED));
                assert_eq!(conn.queued(), 0, "nothing is queued that will never be sent");
                return;
            }
            _ => assert!(conn.has(flag::MAPPED)),
        }
        let fin = u32::from(conn.has(flag::FIN_SENT));
        let syn = u32::from(matches!(conn.state, State::SynSent | State::SynReceived));
        if conn.snd_una != conn.snd_nxt {
            assert!(conn.queued() + fin + syn >= conn.flight(), "what is in flight is queued");
        }
        assert!(conn.flight() > 0 || !conn.has(flag::TIMING), "what is timed is out");
        let ahead = conn.recover.after(conn.snd_una);
        assert!(conn.phase == Phase::Open || ahead && conn.recover.at_or_before(conn.snd_nxt));
        if conn.armed == Armed::Reordering && conn.rexmit_at.is_some() {
            assert!(conn.has(flag::SACK) && conn.flight() > 0, "only what is out may be late");
        }
        let syn_sent = matches!(conn.state, State::SynSent | State::SynReceived);
        assert!(
            syn_sent || conn.congestion.cwnd >= u32::from(conn.mss),
            "a segment fits the window"
        );
        conn.congestion.check();
        // A deadline has a node in the wheel, or the transmit queue will see to it.
        let deadline = conn.deadline();
        if deadline.is_some() && !conn.has(flag::QUEUED) {
            let node = conn.node.expect("a deadline has a timer");
            let at = deadline.instant(self.clock.instant).max(self.clock.instant);
            assert!(!self.core.wheel.is_later(node, at), "the timer is not late");
            if let Some(known) = conn.node_by.tick(self.clock.tick) {
                let at = known.instant(self.clock.instant).max(self.clock.instant);
                assert!(!self.core.wheel.is_later(node, at), "nor later than it is taken for");
            }
        }
        if conn.flight() > 0 && !conn.has(flag::QUEUED) {
            assert!(conn.rexmit_at.is_some(), "a timer is armed while data is out");
        }
        if conn.phase == Phase::Open && conn.has(flag::FIN_SENT) {
            assert!(conn.has(flag::FIN_QUEUED));
        }
    }
}
