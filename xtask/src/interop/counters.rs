//! The server's own counters, as its admin endpoint tells them.

use super::checks;

/// Where the server is asked for them, on the namespace's own loopback.
pub(crate) const ADMIN: &str = "127.0.0.1:9100";

/// All of them at one moment.
pub(crate) struct Counters(String);

impl Counters {
    pub(crate) fn read() -> Result<Counters, String> {
        checks::get(&format!("http://{ADMIN}/metrics"), &["-m5"]).map(Counters)
    }

    /// A counter of all shards together; `name` as in `docs/METRICS.md`.
    pub(crate) fn total(&self, name: &str) -> Result<u64, String> {
        let words = self.0.split(' ');
        let values: Vec<&str> = words
            .clone()
            .zip(words.skip(1))
            .filter(|(word, _)| word.split_once('{').is_some_and(|(key, _)| key == name))
            .map(|(_, value)| value)
            .collect();
        if values.is_empty() {
            return Err(format!("the server has no {name}"));
        }
        values.iter().map(|value| value.parse::<u64>().map_err(|e| format!("{value}: {e}"))).sum()
    }

    /// Segments that the server has sent again, with those that a probe of the tail repeats
    /// (RFC 8985 7).
    pub(crate) fn sent_again(&self) -> Result<u64, String> {
        self.total("throng_tcp_retransmits_total")
    }

    /// By how much a counter has grown since `before`.
    pub(crate) fn since(&self, before: &Counters, name: &str) -> Result<u64, String> {
        Ok(self.total(name)? - before.total(name)?)
    }
}
