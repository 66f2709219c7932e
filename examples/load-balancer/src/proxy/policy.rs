//! What is decided about a request and made of its head and its response's, whichever way both go.

use std::net::IpAddr;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::{Method, StatusCode, Version};
use throng::http::client::{Error, ErrorKind, Phase};
use throng::runtime::now;

use super::Client;
use super::answer::Refusal;
use super::fields::Fields;
use super::forwarded::{self, Origin};
use super::head;
use crate::config::{HashBy, RetryOn};
use crate::group::{Group, Server, Slot, Wish};
use crate::log::Entry;
use crate::shard::{RequestId, Shard, State};

/// Whether the client may have another request on this route.
///
/// # Errors
/// It has had too many.
pub(super) fn limit(
    state: &State,
    route: usize,
    headers: &impl Fields,
    peer: IpAddr,
) -> Result<(), Refusal> {
    let Some(Some(limiter)) = state.limiters.get(route) else { return Ok(()) };
    let client = forwarded::client(headers, peer, &state.world.config.forwarding.trusted);
    limiter.borrow_mut().take(client, now().as_nanos()).map_err(|wait| {
        let why = "there are too many requests of this client";
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, why);
        let seconds = wait.as_millis().div_ceil(1000) as u64;
        Refusal { retry_after: Some(seconds), ..refusal }
    })
}

/// The hash and the sticky server of a request.
pub(super) fn wish(state: &State, group: &Group, headers: &impl Fields, peer: IpAddr) -> Wish {
    let trusted = &state.world.config.forwarding.trusted;
    let hash = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_64(bytes);
    let source = || hash(forwarded::client(headers, peer, trusted).to_string().as_bytes());
    let hash = match &group.config.hash_by {
        None => 0,
        Some(HashBy::Source) => source(),
        Some(HashBy::Header(name)) => headers.first(name).map_or_else(source, hash),
        Some(HashBy::Cookie(name)) => {
            head::cookie(headers, name).map_or_else(source, |value| hash(value.as_bytes()))
        }
    };
    let sticky = group.config.sticky.as_ref();
    let sticky = sticky.and_then(|sticky| head::cookie(headers, &sticky.cookie.0));
    Wish { hash, sticky: sticky.map(str::to_owned) }
}

/// A request on its way to the servers of a route.
pub(super) struct Passage<'a> {
    pub(super) shard: &'a Shard,
    pub(super) state: &'a State,
    pub(super) client: &'a Client,
    pub(super) group: &'a Group,
    pub(super) route: usize,
    /// What the client asks for, with its port; none with HTTP/1.0 alone.
    pub(super) host: Option<&'a str>,
    pub(super) version: Version,
}

impl Passage<'_> {
    /// Makes the fields that servers get; returns the request's name. `protocol`: what it asks to
    /// switch to.
    pub(super) fn dress(
        &self,
        headers: &mut impl Fields,
        protocol: Option<&HeaderValue>,
        entry: &mut Option<Entry>,
    ) -> Option<RequestId> {
        let config = &self.state.world.config.forwarding;
        head::remove_hop_by_hop(headers);
        head::join_cookies(headers);
        if let Some(protocol) = protocol {
            headers.set(&header::CONNECTION, b"upgrade");
            headers.set(&header::UPGRADE, protocol.as_bytes());
        }
        let peer = self.client.peer.ip();
        let trusted = forwarded::is_trusted(peer, &config.trusted);
        if let Some(entry) = entry {
            entry.client = forwarded::client(headers, peer, &config.trusted);
        }
        let origin = Origin { peer, trusted, host: self.host, secure: self.client.secure };
        forwarded::set(headers, &origin, config.style);
        match (&self.group.config.host, self.host) {
            (Some(host), _) => headers.set(&header::HOST, host.0.as_bytes()),
            (None, Some(host)) => {
                if headers.first(&header::HOST) != Some(host.as_bytes()) {
                    headers.set(&header::HOST, host.as_bytes());
                }
            }
            // The client puts the server's own there.
            (None, None) => headers.remove(&header::HOST),
        }
        head::add_via(headers, self.version, &config.via);
        let id = config.request_id.as_ref().map(|name| {
            let usable = |id: &&[u8]| {
                trusted && (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
            };
            let id = match headers.first(&name.0).filter(usable) {
                Some(id) => RequestId::Theirs(id.into()),
                None => self.shard.request_id(),
            };
            headers.set(&name.0, id.as_bytes());
            id
        });
        if let (Some(entry), Some(id)) = (entry, &id) {
            entry.id = HeaderValue::from_bytes(id.as_bytes()).ok();
        }
        if let Some(route) = self.state.world.config.route.get(self.route) {
            head::edit(headers, &route.as_ref().request_header);
        }
        id
    }
}

/// Makes the fields that the client gets of a server's.
///
/// # Errors
/// They cannot be passed on.
pub(super) fn undress(
    headers: &mut impl Fields,
    (version, status): (Version, StatusCode),
    state: &State,
    route: usize,
    id: Option<&RequestId>,
    (slot, wish): (&Slot, &Wish),
) -> Result<(), Refusal> {
    let config = &state.world.config;
    head::check_response(headers)?;
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 8.6
        headers.remove(&header::CONTENT_LENGTH);
    }
    head::remove_hop_by_hop(headers);
    // A request's field that servers copy into responses.
    headers.remove(&header::TE);
    head::add_via(headers, version, &config.forwarding.via);
    if let (Some(name), Some(id)) = (&config.forwarding.request_id, id) {
        headers.set(&name.0, id.as_bytes());
    }
    if let Some(route) = config.route.get(route) {
        head::edit(headers, &route.as_ref().response_header);
    }
    if let Some(sticky) = &slot.group.config.sticky
        && wish.sticky.as_deref() != Some(slot.server.id.as_str())
    {
        let max_age = sticky.max_age.map(|age| format!("; Max-Age={}", age.0.as_secs()));
        let secure = if sticky.secure { "; Secure" } else { "" };
        let cookie = format!(
            "{}={}; Path=/; HttpOnly; SameSite=Lax{}{secure}",
            sticky.cookie.0,
            slot.server.id,
            max_age.unwrap_or_default(),
        );
        headers.append(&header::SET_COOKIE, cookie.as_bytes());
    }
    Ok(())
}

/// The servers that a request has been sent to in vain.
#[derive(Default)]
pub(super) struct Attempts(Vec<Rc<Server>>);

impl Attempts {
    /// No further server may be asked.
    pub(super) fn is_last(&self, group: &Group) -> bool {
        self.0.len() >= group.config.retry.servers.0 as usize
    }

    /// The next server, where `why` is a reason to ask one and it may be: `slot` is the present
    /// one, and `whole` says that nothing of the request is lost.
    pub(super) fn next(
        &mut self,
        shard: &Shard,
        slot: &Slot,
        wish: &Wish,
        method: &Method,
        whole: bool,
        why: Option<RetryOn>,
    ) -> Option<Slot> {
        let (why, group) = (why?, &slot.group);
        // Only what no server can have begun to do may be done by another one, but for what can
        // be done twice (RFC 9110 9.2.2).
        let safe = why == RetryOn::Connect || method.is_idempotent();
        if self.is_last(group) || !safe || !whole || !group.config.retry.on.contains(&why) {
            return None;
        }
        self.0.push(slot.server.clone());
        let wish = Wish { sticky: None, ..wish.clone() };
        let next = group.pick(&wish, &self.0, &shard.random).ok()?;
        shard.count(|counts| counts.retries += 1);
        Some(next)
    }
}

/// Which reason to ask another server a response is.
pub(super) fn reason_of_status(status: StatusCode) -> Option<RetryOn> {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
    .then_some(RetryOn::Unavailable)
}

/// Which reason to ask another server an error is.
pub(super) fn reason(error: &Error) -> Option<RetryOn> {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Timeout(Phase::Connect) => Some(RetryOn::Connect),
        ErrorKind::Timeout(_) => Some(RetryOn::Timeout),
        ErrorKind::Closed => Some(RetryOn::Closed),
        _ => None,
    }
}
