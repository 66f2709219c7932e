//! One request: refused, or sent to a server and its response sent back.

mod answer;
mod forwarded;
mod head;
mod out;
mod upgrade;
mod upload;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use throng::http::client::{self, Error, ErrorKind, Phase};
use throng::runtime::now;

use crate::config::{Edits, HashBy, Protocol, Redirect, RetryOn};
use crate::group::{Group, Slot, Wish};
use crate::log::Entry;
use crate::proxied;
use crate::shard::{Shard, State};
use answer::Refusal;
use forwarded::Origin;
use head::Target;
pub(crate) use out::Out;
use upload::Upload;

/// Whose connection a request comes on.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    /// The client, or what is in front of us and says nothing by the PROXY protocol.
    pub(crate) peer: SocketAddr,
    /// What it connected to.
    pub(crate) local: Option<SocketAddr>,
    /// It came over TLS.
    pub(crate) secure: bool,
}

/// Answers one request of a client's.
pub(crate) async fn serve(
    shard: Rc<Shard>,
    client: Client,
    request: Request<Incoming>,
) -> Result<Response<Out>, Infallible> {
    let (state, Client { peer, local, secure }) = (shard.state(), client);
    let entry = shard.log.entry(peer, &request);
    let http2 = request.version() == Version::HTTP_2;
    let mut exchange = Exchange { shard: &shard, state: &state, peer, local, secure, entry };
    let mut response = match exchange.run(request).await {
        Ok(response) => response,
        Err(refusal) => {
            shard.count(|counts| counts.refused(refusal.status));
            refusal.response()
        }
    };
    shard.count(|counts| counts.responses += 1);
    if let Some(entry) = &mut exchange.entry {
        entry.status = response.status();
    }
    if http2 {
        // RFC 9113 8.2.2
        response.headers_mut().remove(header::CONNECTION);
    }
    let entry = exchange.entry.take();
    response.body_mut().log(entry);
    Ok(response)
}

struct Exchange<'a> {
    shard: &'a Rc<Shard>,
    state: &'a Rc<State>,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    /// The client came over TLS.
    secure: bool,
    entry: Option<Entry>,
}

/// What a client asks for, beside the request itself.
struct Asked {
    method: Method,
    /// The request's name, for the response.
    id: Option<HeaderValue>,
    /// The protocol to switch to, and the client's side of that.
    upgrade: Option<OnUpgrade>,
    /// The number of its route.
    route: usize,
}

impl Exchange<'_> {
    async fn run(&mut self, mut request: Request<Incoming>) -> Result<Response<Out>, Refusal> {
        let (method, version) = (request.method().clone(), request.version());
        let target = head::check(&method, request.uri(), version, request.headers())?;
        let config = &self.state.world.config;
        if request.body().size_hint().lower() > config.http.max_body.0 {
            return Err(Refusal::TOO_LARGE);
        }
        let route = self.state.router.find(target.host(), &target.path, request.headers());
        let none = Refusal::new(StatusCode::NOT_FOUND, "there is no route for this request");
        let number = route.ok_or(none)?;
        let route = config.route.get(number).ok_or(none)?.as_ref();
        if let Some(Some(limiter)) = self.state.limiters.get(number) {
            let trusted = &config.forwarding.trusted;
            let client = forwarded::client(request.headers(), self.peer.ip(), trusted);
            if let Err(wait) = limiter.borrow_mut().take(client, now().as_nanos()) {
                let why = "there are too many requests of this client";
                let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, why);
                let seconds = wait.as_millis().div_ceil(1000) as u64;
                return Err(Refusal { retry_after: Some(seconds), ..refusal });
            }
        }
        if let Some(redirect) = &route.redirect {
            return redirected(redirect, &target, request.uri());
        }
        let group = self.state.routes.get(number).and_then(Option::as_ref).ok_or(none)?.clone();
        if let Some(done) = max_forwards(&method, request.headers_mut()) {
            return Ok(done);
        }
        let http1 = group.config.protocol == Protocol::Http1;
        let protocol = head::upgrade(&method, version, request.headers(), &group.config.upgrade.0);
        let protocol = protocol.filter(|_| http1);
        let upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let wish = self.wish(&group, request.headers());
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        if let Some(to) = group.config.proxy_protocol {
            let header = proxied::header(to, Some((self.peer, self.local)));
            parts.extensions.insert(client::Prelude(header));
        }
        let id = self.dress(&mut parts, &target, &group, protocol);
        edit(&mut parts.headers, &route.request_header);
        let asked = Asked { method, id, upgrade, route: number };
        let chunked = !body.is_end_stream() && body.size_hint().exact().is_none();
        if chunked && http1 {
            // hyper would take a GET without a length to have no body.
            let value = HeaderValue::from_static("chunked");
            parts.headers.insert(header::TRANSFER_ENCODING, value);
        }
        let upload = Upload::new(body, config.http.max_body.0);
        self.forward(&group, parts, upload, wish, asked).await
    }

    /// The hash and the sticky server of a request.
    fn wish(&self, group: &Group, headers: &HeaderMap) -> Wish {
        let trusted = &self.state.world.config.forwarding.trusted;
        let hash = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_64(bytes);
        let source =
            || hash(forwarded::client(headers, self.peer.ip(), trusted).to_string().as_bytes());
        let hash = match &group.config.hash_by {
            None => 0,
            Some(HashBy::Source) => source(),
            Some(HashBy::Header(name)) => {
                headers.get(name).map_or_else(source, |value| hash(value.as_bytes()))
            }
            Some(HashBy::Cookie(name)) => {
                head::cookie(headers, name).map_or_else(source, |value| hash(value.as_bytes()))
            }
        };
        let sticky = group.config.sticky.as_ref();
        let sticky = sticky.and_then(|sticky| head::cookie(headers, &sticky.cookie.0));
        Wish { hash, sticky: sticky.map(str::to_owned) }
    }

    /// Makes the head that servers get; returns the request's name.
    fn dress(
        &mut self,
        parts: &mut Parts,
        target: &Target,
        group: &Group,
        protocol: Option<HeaderValue>,
    ) -> Option<HeaderValue> {
        let config = &self.state.world.config.forwarding;
        let headers = &mut parts.headers;
        head::remove_hop_by_hop(headers);
        head::join_cookies(headers);
        if let Some(protocol) = protocol {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol);
        }
        let peer = self.peer.ip();
        let trusted = forwarded::is_trusted(peer, &config.trusted);
        if let Some(entry) = &mut self.entry {
            entry.client = forwarded::client(headers, peer, &config.trusted);
        }
        let host = target.authority.as_ref().map(|authority| authority.as_str());
        forwarded::set(headers, &Origin { peer, trusted, host, secure: self.secure }, config.style);
        let wanted = match (&group.config.host, host) {
            (Some(host), _) => Some(host.0.clone()),
            (None, Some(host)) => HeaderValue::from_str(host).ok(),
            (None, None) => None,
        };
        match wanted {
            Some(host) => drop(headers.insert(header::HOST, host)),
            // The client puts the server's own there.
            None => drop(headers.remove(header::HOST)),
        }
        head::add_via(headers, parts.version, &config.via);
        parts.version = Version::HTTP_11;
        let name = &config.request_id.as_ref()?.0;
        let usable = |id: &&HeaderValue| {
            let bytes = id.as_bytes();
            trusted
                && !bytes.is_empty()
                && bytes.len() <= 128
                && bytes.iter().all(u8::is_ascii_graphic)
        };
        let id = match headers.get(name).filter(usable) {
            Some(id) => id.clone(),
            None => self.shard.request_id(),
        };
        headers.insert(name, id.clone());
        if let Some(entry) = &mut self.entry {
            entry.id = Some(id.clone());
        }
        Some(id)
    }

    /// Sends a request to servers until one answers.
    async fn forward(
        &mut self,
        group: &Rc<Group>,
        parts: Parts,
        upload: Upload,
        wish: Wish,
        mut asked: Asked,
    ) -> Result<Response<Out>, Refusal> {
        let retry = &group.config.retry;
        let mut slot = group.acquire(&wish, &self.shard.random).await?;
        let mut tried = Vec::new();
        let mut parts = Some(parts);
        while let Some(mut head) = parts.take() {
            let last = tried.len() >= retry.servers.0 as usize;
            if !last {
                parts = Some(head.clone());
            }
            head.uri = uri(&slot, group.config.tls.is_some(), head.uri.path_and_query());
            if let Some(entry) = &mut self.entry {
                entry.server = Some(slot.server.clone());
            }
            let begun = now();
            let request = Request::from_parts(head, upload.attempt());
            let outcome = group.client.request(request).await;
            let why = match &outcome {
                Ok(response) => {
                    slot.answered(response.status(), now().saturating_since(begun));
                    is_unavailable(response.status()).then_some(RetryOn::Unavailable)
                }
                Err(_) if upload.has_exceeded() => return Err(Refusal::TOO_LARGE),
                // It is not the server that is slow: clients could have servers ejected.
                Err(error)
                    if error.kind() == ErrorKind::Timeout(Phase::Head) && upload.is_awaited() =>
                {
                    return Err(Refusal::TOO_SLOW);
                }
                Err(error) => {
                    slot.failed(error);
                    reason(error)
                }
            };
            // Only what no server can have begun to do may be done by another one, but for what
            // can be done twice (RFC 9110 9.2.2).
            let safe = why == Some(RetryOn::Connect) || asked.method.is_idempotent();
            let again = !last
                && safe
                && upload.is_whole()
                && why.is_some_and(|why| retry.on.contains(&why));
            if again {
                tried.push(slot.server.clone());
                if let Ok(next) =
                    group.pick(&Wish { sticky: None, ..wish.clone() }, &tried, &self.shard.random)
                {
                    self.shard.count(|counts| counts.retries += 1);
                    slot = next;
                    continue;
                }
            }
            return match outcome {
                Ok(response) => self.answer(slot, response, &wish, &mut asked),
                Err(error) => Err(Refusal::of(&error)),
            };
        }
        Err(Refusal::new(StatusCode::BAD_GATEWAY, "no server answered"))
    }

    /// Makes the client's response of the server's.
    fn answer(
        &self,
        slot: Slot,
        mut response: Response<client::Body>,
        wish: &Wish,
        asked: &mut Asked,
    ) -> Result<Response<Out>, Refusal> {
        let config = &self.state.world.config.forwarding;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = response.headers().get(header::UPGRADE).cloned();
        let version = response.version();
        let headers = response.headers_mut();
        head::check_response(headers)?;
        head::remove_hop_by_hop(headers);
        // A request's field that servers copy into responses.
        headers.remove(header::TE);
        head::add_via(headers, version, &config.via);
        if let (Some(name), Some(id)) = (&config.request_id, asked.id.take()) {
            headers.insert(&name.0, id);
        }
        if let Some(route) = self.state.world.config.route.get(asked.route) {
            edit(headers, &route.as_ref().response_header);
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
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                headers.append(header::SET_COOKIE, cookie);
            }
        }
        if !switched {
            let (parts, body) = response.into_parts();
            return Ok(Response::from_parts(parts, Out::server(body, slot)));
        }
        let Some(ours) = asked.upgrade.take() else {
            let why = "the server switched protocols unasked";
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, why));
        };
        let mut answer = Response::new(Out::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = response.headers().clone();
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            headers.insert(header::UPGRADE, protocol);
        }
        upgrade::start(self.shard, slot, ours, response);
        Ok(answer)
    }
}

/// Changes fields as a route wants it.
fn edit(headers: &mut HeaderMap, edits: &Edits) {
    for name in &edits.remove {
        headers.remove(&name.0);
    }
    for field in &edits.set {
        headers.insert(&field.name.0, field.value.0.clone());
    }
}

/// Sends the client elsewhere.
fn redirected(to: &Redirect, target: &Target, uri: &Uri) -> Result<Response<Out>, Refusal> {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    // A path with two slashes would be another host; to browsers a backslash is one.
    let path = format!("/{}", path.trim_start_matches(['/', '\\']));
    let location = HeaderValue::from_str(&to.to.of(target.host(), &path));
    let mut response = Response::new(Out::empty());
    *response.status_mut() = to.status.0;
    let location = location.map_err(|_| Refusal::bad("the target is malformed"))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// RFC 9110 7.6.2: a count that has run out is answered here, else it goes down.
fn max_forwards(method: &Method, headers: &mut HeaderMap) -> Option<Response<Out>> {
    if *method != Method::OPTIONS {
        return None;
    }
    let left = headers.get(header::MAX_FORWARDS)?.to_str().ok()?.parse::<u64>().ok()?;
    match left.checked_sub(1) {
        Some(left) => {
            headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
            None
        }
        None => Some(Response::new(Out::empty())),
    }
}

/// The same path and query at a server.
fn uri(slot: &Slot, secure: bool, path: Option<&PathAndQuery>) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(slot.server.authority.clone());
    parts.path_and_query = path.cloned().or(Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

fn is_unavailable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Which reason to ask another server an error is.
fn reason(error: &Error) -> Option<RetryOn> {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Timeout(Phase::Connect) => Some(RetryOn::Connect),
        ErrorKind::Timeout(_) => Some(RetryOn::Timeout),
        ErrorKind::Closed => Some(RetryOn::Closed),
        _ => None,
    }
}
