//! Active checks: one task for each server, on one shard, for all of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use throng::http::client::{Client, Prelude};
use throng::runtime::{JoinHandle, now};
use throng::{TcpStream, sleep, spawn_local, timeout};

use crate::config::{Check, Health, ServerAddress, Statuses, ToServers};
use crate::vitals::Vitals;
use crate::world::{Member, World};
use crate::{group, proxied};

/// How much of a body is looked at.
const BODY: usize = 64 << 10;

/// The checks that run; dropped, they end.
pub(crate) struct Checks {
    _tasks: Vec<JoinHandle<()>>,
}

impl Checks {
    /// Starts those of a configuration. Upstreams without checks are taken to be healthy.
    pub(crate) fn start(world: &World) -> Checks {
        let mut tasks = Vec::new();
        for (name, upstream) in &world.config.upstream {
            let members = world.members(name);
            for (at, Member { config: server, vitals }) in members.iter().enumerate() {
                let Some(health) = &upstream.as_ref().health else {
                    vitals.set_up(true, now().as_millis());
                    continue;
                };
                let upstream = upstream.as_ref();
                let checked = Checked {
                    secure: upstream.tls.is_some(),
                    proxy_protocol: upstream.proxy_protocol,
                    client: group::client_builder(upstream, world.connector(name))
                        .max_idle_per_host(0)
                        .build(),
                    upstream: name.clone(),
                    address: server.address.clone(),
                    health: health.clone(),
                    vitals: vitals.clone(),
                };
                // Not all at once.
                let count = members.len() as u32;
                let first = health.interval.0 * at as u32 / count;
                let first = first.min(Duration::from_millis(100) * at as u32);
                tasks.push(spawn_local(checked.run(first)).cancel_on_drop());
            }
        }
        Checks { _tasks: tasks }
    }
}

struct Checked {
    /// Connects as requests do, but anew each time.
    client: Client,
    secure: bool,
    proxy_protocol: Option<ToServers>,
    upstream: String,
    address: ServerAddress,
    health: Health,
    vitals: Arc<Vitals>,
}

impl Checked {
    async fn run(self, first: Duration) {
        sleep(first).await;
        let health = &self.health;
        let mut verdict = Verdict { up: self.vitals.is_up(), contrary: 0 };
        loop {
            let outcome = match timeout(health.timeout.0, self.ask()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            if verdict.changes(outcome.is_ok(), health.rise.0, health.fall.0)
                && self.vitals.set_up(verdict.up, now().as_millis())
            {
                let (upstream, server) = (&self.upstream, &self.address);
                match outcome {
                    Ok(()) => tracing::info!(%upstream, %server, "healthy"),
                    Err(error) => tracing::warn!(%upstream, %server, %error, "unhealthy"),
                }
            }
            sleep(health.interval.0).await;
        }
    }

    async fn ask(&self) -> io::Result<()> {
        if self.health.check == Check::Tcp {
            let connecting = TcpStream::connect((self.address.host.clone(), self.address.port));
            return connecting.await.map(drop);
        }
        let path = self.health.path.as_ref().map_or("/", |path| &path.0);
        let scheme = if self.secure { "https" } else { "http" };
        let mut request = Request::get(format!("{scheme}://{}{path}", self.address))
            .header(header::USER_AGENT, HeaderValue::from_static("throng-lb health check"))
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        if let Some(host) = &self.health.host {
            request.headers_mut().insert(header::HOST, host.0.clone());
        }
        if let Some(to) = self.proxy_protocol {
            request.extensions_mut().insert(Prelude(proxied::header(to, None)));
        }
        let response = self.client.request(request).await?;
        let status = response.status().as_u16();
        let statuses = self.health.status.as_deref().unwrap_or(&[Statuses::SUCCESS]);
        if !statuses.iter().any(|range| range.contains(status)) {
            return Err(io::Error::other(format!("status {status}")));
        }
        let Some(wanted) = &self.health.body else { return Ok(()) };
        let mut body = Limited::new(response.into_body(), BODY);
        let mut text = Vec::new();
        // An error is one of the body's end: what there was before it counts.
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        match contains(&text, wanted.as_bytes()) {
            true => Ok(()),
            false => Err(io::Error::other("the body has not what it should")),
        }
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

/// What the last answers say together.
struct Verdict {
    up: bool,
    /// Answers in a row that say the contrary.
    contrary: u32,
}

impl Verdict {
    /// Whether this answer changes it.
    fn changes(&mut self, good: bool, rise: u32, fall: u32) -> bool {
        if good == self.up {
            self.contrary = 0;
            return false;
        }
        self.contrary += 1;
        if self.contrary < if good { rise } else { fall } {
            return false;
        }
        *self = Verdict { up: good, contrary: 0 };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_takes_answers_in_a_row() {
        let mut verdict = Verdict { up: true, contrary: 0 };
        let mut ask = |good| verdict.changes(good, 2, 3).then_some(good);
        let answers =
            [false, false, true, false, false, false, false, true, false, true, true, true];
        let changes: Vec<_> = answers.into_iter().map(&mut ask).collect();
        let mut wanted = [None; 12];
        (wanted[5], wanted[10]) = (Some(false), Some(true));
        assert_eq!(changes, wanted);
    }

    #[test]
    fn bodies_are_searched() {
        assert!(contains(b"all ok here", b"ok") && contains(b"", b"") && contains(b"x", b""));
        assert!(!contains(b"o k", b"ok") && !contains(b"", b"ok"));
    }
}
