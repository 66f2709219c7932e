//! The command line that all comparisons share.

use std::io;
use std::time::Duration;

use crate::compare::{Comparison, Measure};
use crate::report::Report;
use crate::role::Traffic;
use crate::subject::{Ask, Link, Subject};

/// What all comparisons take.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// One short round
    #[arg(long)]
    pub quick: bool,
    /// One JSON object on the last line
    #[arg(long)]
    pub json: bool,
    /// These numbers of connections in place of the usual ones
    #[arg(long, value_delimiter = ',')]
    pub connections: Vec<usize>,
    /// Sockets of the server of `udp`, in place of the usual numbers of them
    #[arg(long, value_delimiter = ',')]
    pub sockets: Vec<usize>,
    /// Messages of a turn of `path`, at most 64, in place of the usual numbers of them
    #[arg(long, value_delimiter = ',')]
    pub bursts: Vec<usize>,
    /// Bytes of a message or a body
    #[arg(long)]
    pub size: Option<usize>,
    /// Most operations on their way at a time
    #[arg(long)]
    pub window: Option<usize>,
    /// Operations that fall due each second, of `latency` on many connections, default: half of what
    /// tokio can do; of `ramp`, default: 1,000
    #[arg(long)]
    pub rate: Option<f64>,
    /// WebSockets that `ramp` opens each second
    #[arg(long, default_value_t = 40_000.0)]
    pub opens: f64,
    /// How often each is measured
    #[arg(long)]
    pub rounds: Option<usize>,
    /// For how many seconds
    #[arg(long)]
    pub seconds: Option<f64>,
    /// What joins Throng's server with the client; default: memif-zero-copy, or memif where there are
    /// too few hugepages for it; virtio for a server that may sleep
    #[arg(long)]
    pub link: Option<Link>,
    /// The client of Throng's server has a stack, Throng's own, in place of frames made by hand
    #[arg(long)]
    pub with_stack: bool,
    /// Throng's server may sleep, as it does on devices that can wake it
    #[arg(long)]
    pub adaptive: bool,
    /// The cores of server and client
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1])]
    pub cores: Vec<usize>,
    /// Only the peers whose name contains this, of `path` the servers; `none` for none
    #[arg(long)]
    pub peers: Option<String>,
}

impl Options {
    /// The numbers of connections to measure with.
    pub fn connections(&self, usual: &[usize], quick: &[usize]) -> Vec<usize> {
        self.of(&self.connections, usual, quick)
    }

    /// `asked`, or what is usual.
    pub fn of(&self, asked: &[usize], usual: &[usize], quick: &[usize]) -> Vec<usize> {
        match asked {
            [] if self.quick => quick.to_vec(),
            [] => usual.to_vec(),
            asked => asked.to_vec(),
        }
    }

    /// What is asked of all, unless the command line says otherwise.
    pub fn ask(&self, traffic: Traffic, connections: usize, size: usize, window: usize) -> Ask {
        let core = |i: usize| self.cores.get(i).or(self.cores.first()).copied().unwrap_or(0);
        Ask {
            traffic,
            connections,
            size: self.size.unwrap_or(size),
            window: self.window.unwrap_or(window),
            rate: None,
            ramp: None,
            timed: false,
            spinning: false,
            with_stack: self.with_stack,
            adaptive: self.adaptive,
            sockets: 1,
            shards: 1,
            preallocate: 0,
            cores: [core(0), core(1)],
        }
    }

    /// What joins Throng's server with the client. memif cannot wake a server that sleeps.
    pub fn link(&self) -> Link {
        match self.link {
            Some(link) => link,
            None if self.adaptive => Link::Virtio,
            None => Link::best(),
        }
    }

    /// Throng, and those of `peers` that are wanted.
    pub fn subjects(&self, peers: &[Subject]) -> Vec<Subject> {
        let wanted = |peer: &&Subject| {
            let name = peer.name();
            self.peers.as_ref().is_none_or(|part| name.contains(part.as_str()))
        };
        let peers = peers.iter().filter(wanted).cloned();
        std::iter::once(Subject::Throng(self.link())).chain(peers).collect()
    }

    /// A comparison of these.
    pub fn comparison(
        &self,
        bench: &'static str,
        measure: Measure,
        ask: Ask,
        subjects: Vec<Subject>,
    ) -> Comparison {
        let (rounds, seconds) = if self.quick { (1, 0.2) } else { (5, 3.0) };
        let time = Duration::from_secs_f64(self.seconds.unwrap_or(seconds));
        let rounds = self.rounds.unwrap_or(rounds);
        let of_peers = usize::MAX;
        Comparison { bench, ask, subjects, rounds, time, measure, of_peers }
    }

    /// Compares Throng with those of `peers` that are wanted, and prints what was found.
    ///
    /// # Errors
    /// Throng itself fails.
    pub fn run(
        &self,
        bench: &'static str,
        measure: Measure,
        ask: Ask,
        peers: &[Subject],
    ) -> io::Result<Report> {
        eprintln!("{bench}, {} connections", ask.connections);
        let report = self.comparison(bench, measure, ask, self.subjects(peers)).run()?;
        report.print();
        Ok(report)
    }
}
