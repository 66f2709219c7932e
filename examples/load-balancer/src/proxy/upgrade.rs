//! Upgraded connections, once both sides have switched protocols.

use std::rc::Rc;

use http::Response;
use hyper::upgrade::OnUpgrade;
use throng::http::client;
use throng::runtime::try_spawn_local;

use crate::group::Slot;
use crate::shard::Shard;
use crate::tunnel;

/// Joins the client's side and the server's.
pub(super) fn start(
    shard: &Rc<Shard>,
    slot: Slot,
    ours: OnUpgrade,
    response: Response<client::Body>,
) {
    let guest = shard.ends.drain.enter();
    let idle = slot.group.config.timeout.tunnel.0;
    let counted = shard.clone();
    let joined = async move {
        let (Ok(client), Ok(server)) = (ours.await, client::upgrade(response).await) else {
            return;
        };
        counted.count(|counts| counts.tunnels += 1);
        if let Err(error) = tunnel::join(client, server, idle, guest).await {
            tracing::debug!(%error, "an upgraded connection failed");
        }
        drop(slot);
    };
    if try_spawn_local(joined).is_err() {
        tracing::debug!("no room for the task of an upgraded connection");
    }
}
