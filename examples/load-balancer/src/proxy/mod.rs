//! One request: refused, or sent to a server and its response sent back.

mod answer;
mod direct;
mod fields;
mod forwarded;
mod head;
mod out;
mod policy;
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
use throng::http::client::{self, ErrorKind, Phase};
use throng::runtime::now;

use crate::config::{Protocol, Redirect};
use crate::group::{Group, Slot, Wish};
use crate::log::Entry;
use crate::proxied;
use crate::shard::{RequestId, Shard, State};
use answer::Refusal;
pub(crate) use direct::Front;
pub(crate) use fields::Fields;
use head::Target;
pub(crate) use out::Out;
use policy::Attempts;
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
    let state = shard.state();
    let field = |name| request.headers().get(name).cloned();
    let line = || (request.method().clone(), request.uri().clone(), request.version());
    let entry = shard.log.entry(client.peer, line, field);
    let http2 = request.version() == Version::HTTP_2;
    let mut exchange = Exchange { shard: &shard, state: &state, client, entry };
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
    client: Client,
    entry: Option<Entry>,
}

/// What a client asks for, beside the request itself.
struct Asked {
    method: Method,
    /// The request's name, for the response.
    id: Option<RequestId>,
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
        policy::limit(self.state, number, request.headers(), self.client.peer.ip())?;
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
        let wish = policy::wish(self.state, &group, request.headers(), self.client.peer.ip());
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        if let Some(to) = group.config.proxy_protocol {
            let header = proxied::header(to, Some((self.client.peer, self.client.local)));
            parts.extensions.insert(client::Prelude(header));
        }
        let passage = policy::Passage {
            shard: self.shard,
            state: self.state,
            client: &self.client,
            group: &group,
            route: number,
            host: target.authority.as_ref().map(|authority| authority.as_str()),
            version,
        };
        let id = passage.dress(&mut parts.headers, protocol.as_ref(), &mut self.entry);
        parts.version = Version::HTTP_11;
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

    /// Sends a request to servers until one answers.
    async fn forward(
        &mut self,
        group: &Rc<Group>,
        parts: Parts,
        upload: Upload,
        wish: Wish,
        mut asked: Asked,
    ) -> Result<Response<Out>, Refusal> {
        let mut slot = group.acquire(&wish, &self.shard.random).await?;
        let mut attempts = Attempts::default();
        let mut parts = Some(parts);
        while let Some(mut head) = parts.take() {
            if !attempts.is_last(group) {
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
                    policy::reason_of_status(response.status())
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
                    policy::reason(error)
                }
            };
            let (method, whole) = (&asked.method, upload.is_whole());
            if let Some(next) = attempts.next(self.shard, &slot, &wish, method, whole, why) {
                slot = next;
                continue;
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
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = response.headers().get(header::UPGRADE).cloned();
        let (line, id) = ((response.version(), response.status()), asked.id.as_ref());
        let headers = response.headers_mut();
        policy::undress(headers, line, self.state, asked.route, id, (&slot, wish))?;
        // RFC 9110 6.2: it is ours from here on.
        *response.version_mut() = Version::HTTP_11;
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
