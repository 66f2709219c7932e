//! What every host of a run serves, on each of its shards.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use throng_http::{Running, Server};
use throng_net::{TcpListener, UdpSocket};
use throng_runtime::sim::{HostId, World};
use throng_runtime::{JoinHandle, ShardId, spawn_local};

use crate::jobs::{self, SOCKET_PORT, STREAM_PORT, UDP_PORT, WEB_PORT};
use crate::ledger::Ledger;
use crate::plan::{HostPlan, Side};

/// The servers of a host.
pub(crate) struct Servers {
    host: HostId,
    tasks: Vec<(ShardId, JoinHandle<()>)>,
    web: Vec<(ShardId, Running)>,
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], port))
}

impl Servers {
    /// Starts them.
    ///
    /// # Panics
    /// Where a port is taken: the host is new.
    pub(crate) fn start(
        world: &World,
        host: HostId,
        side: Side,
        plan: &HostPlan,
        ledger: &Rc<Ledger>,
    ) -> Servers {
        let mut servers = Servers { host, tasks: Vec::new(), web: Vec::new() };
        for shard in (0..plan.shards).map(|shard| ShardId(shard as u16)) {
            let tasks = world.enter(host, shard, || {
                let streams = TcpListener::bind_with_backlog(any(STREAM_PORT), plan.backlog);
                let sockets = TcpListener::bind_with_backlog(any(SOCKET_PORT), plan.backlog);
                let datagrams = UdpSocket::bind(any(UDP_PORT)).expect("a free port");
                let (ledger, late) = (ledger.clone(), plan.accept_after);
                [
                    spawn_local(streams_of(streams.expect("a port"), side, late, ledger.clone())),
                    spawn_local(sockets_of(sockets.expect("a port"), side, ledger.clone())),
                    spawn_local(jobs::udp_echo(datagrams, ledger)),
                ]
            });
            servers.tasks.extend(tasks.map(|task| (shard, task)));
            let web = world.enter(host, shard, || {
                let patience = Duration::from_secs(900);
                let server = Server::new()
                    .header_timeout(patience)
                    .body_timeout(patience)
                    .idle_timeout(patience)
                    .date_header(false)
                    .start();
                let listener = TcpListener::bind(any(WEB_PORT)).expect("a free port");
                let serving = server.clone();
                let serve = async move {
                    serving.serve(listener, throng_http::service_fn(jobs::site)).await;
                };
                spawn_local(serve).detach();
                server
            });
            servers.web.push((shard, web));
        }
        servers
    }

    /// Ends them: listeners close, what is open is let go.
    pub(crate) fn stop(self, world: &World) {
        for (shard, task) in self.tasks {
            world.enter(self.host, shard, || {
                task.abort();
                drop(task);
            });
        }
        for (shard, web) in self.web {
            world.enter(self.host, shard, || {
                drop(web.drain(Duration::from_secs(10)));
                drop(web);
            });
        }
    }
}

async fn streams_of(listener: TcpListener, side: Side, late: Duration, ledger: Rc<Ledger>) {
    let count = Cell::new(0_u64);
    while let Ok((stream, peer)) = listener.accept().await {
        count.set(count.get() + 1);
        let ticket = ledger.begin(side, format!("session with {peer}"));
        let number = count.get() << 16 | u64::from(peer.port());
        spawn_local(jobs::session(stream, side, number, ledger.clone(), ticket)).detach();
        if late > Duration::ZERO {
            throng_runtime::sleep(late).await;
        }
    }
}

async fn sockets_of(listener: TcpListener, side: Side, ledger: Rc<Ledger>) {
    while let Ok((stream, peer)) = listener.accept().await {
        let ticket = ledger.begin(side, format!("WebSocket of {peer}"));
        let serving = async move {
            let mut dice = crate::dice::Dice::new(peer.port().into(), "socket");
            let outcome = match jobs::keep_alive(&stream, &mut dice) {
                Err(error) => Err(error.into()),
                Ok(()) => match throng_ws::accept(stream).await {
                    Ok(socket) => jobs::socket_echo(socket).await,
                    Err(error) => Err(crate::ledger::Trouble::Web(error.to_string())),
                },
            };
            ticket.end(outcome);
        };
        spawn_local(serving).detach();
    }
}
