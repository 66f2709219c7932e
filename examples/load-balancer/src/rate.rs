//! Requests of each client in a time: the generic cell rate algorithm, which keeps one moment for
//! each client: when it will have used nothing again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Clients that are kept apart. Beyond it further ones are let through: a limiter that is full
/// must not be what keeps clients out.
const CLIENTS: usize = 65_536;

pub(crate) struct Limiter {
    /// Nanoseconds that a request is worth.
    cost: u64,
    /// How far ahead a client may be.
    burst: u64,
    clients: HashMap<u128, u64>,
    /// When the clients that have used nothing are looked for next.
    sweep: u64,
}

impl Limiter {
    /// So many requests in this time, and so many at once.
    pub(crate) fn new(requests: u32, per: Duration, burst: u32) -> Limiter {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let cost = (per / u64::from(requests.max(1))).max(1);
        let burst = cost.saturating_mul(u64::from(burst.max(1)));
        Limiter { cost, burst, clients: HashMap::new(), sweep: 0 }
    }

    /// Whether a client may have another request at `now`, in nanoseconds of any one clock; if
    /// not, how long it has to wait.
    ///
    /// # Errors
    /// That time.
    pub(crate) fn take(&mut self, client: IpAddr, now: u64) -> Result<(), Duration> {
        let client = key(client);
        let known = self.clients.get(&client).copied();
        if known.is_none() && self.clients.len() >= CLIENTS && !self.make_room(now) {
            return Ok(());
        }
        let next = known.unwrap_or(0).max(now).saturating_add(self.cost);
        match next.checked_sub(now.saturating_add(self.burst)) {
            None | Some(0) => {
                self.clients.insert(client, next);
                Ok(())
            }
            Some(early) => Err(Duration::from_nanos(early)),
        }
    }

    /// Forgets who has used nothing; not more often than it can help.
    fn make_room(&mut self, now: u64) -> bool {
        if now < self.sweep {
            return false;
        }
        self.sweep = now + self.burst.min(1_000_000_000);
        self.clients.retain(|_, until| *until > now);
        self.clients.len() < CLIENTS
    }
}

/// Of IPv6 the first half: the rest is the client's own choice.
fn key(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() & !u128::from(u64::MAX)) | (1 << 63),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut limiter = Limiter::new(10, Duration::from_secs(1), 5);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let taken = |limiter: &mut Limiter, client, now| {
            (0..20).filter(|_| limiter.take(client, now).is_ok()).count()
        };
        assert_eq!(taken(&mut limiter, one, SECOND), 5);
        assert_eq!(limiter.take(one, SECOND), Err(Duration::from_millis(100)));
        assert_eq!(taken(&mut limiter, other, SECOND), 5, "each has its own");
        assert_eq!(taken(&mut limiter, one, SECOND + 250_000_000), 2);
        assert_eq!(taken(&mut limiter, one, 100 * SECOND), 5, "no more than the burst");
    }

    #[test]
    fn neighbours_in_ipv6_are_one_client() {
        let mut limiter = Limiter::new(1, Duration::from_secs(1), 1);
        assert!(limiter.take("2001:db8::1".parse().unwrap(), SECOND).is_ok());
        assert!(limiter.take("2001:db8::2".parse().unwrap(), SECOND).is_err());
        assert!(limiter.take("2001:db8:0:1::1".parse().unwrap(), SECOND).is_ok());
        assert!(limiter.take("::ffff:192.0.2.1".parse().unwrap(), SECOND).is_ok());
        assert!(limiter.take("192.0.2.1".parse().unwrap(), SECOND).is_err());
    }

    #[test]
    fn a_full_table_keeps_nobody_out_and_is_emptied() {
        let mut limiter = Limiter::new(1, Duration::from_secs(1), 1);
        let client = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        for n in 0..CLIENTS {
            assert!(limiter.take(client(n), SECOND).is_ok());
        }
        for _ in 0..3 {
            assert!(limiter.take(client(CLIENTS), SECOND).is_ok(), "not known, not limited");
        }
        assert_eq!(limiter.clients.len(), CLIENTS);
        assert!(limiter.take(client(7), SECOND).is_err(), "who is known is limited");
        assert!(limiter.take(client(CLIENTS), 3 * SECOND).is_ok());
        assert_eq!(limiter.clients.len(), 1);
    }
}
