//! The direct way of a plain request: bytes in, bytes out, without hyper on either side.
//!
//! What is decided and which fields are made is in `policy`, as for requests that go through hyper.
//! Here are the bytes: a request is read once, its head written for the server, and from then on
//! nothing but this answers it, whatever its server does. What is not plain, and what is
//! refused before a server is picked, goes to hyper before anything was done about it.

mod passing;
mod write;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, Request, Uri, Version};
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use throng::http::plain::{self, Direct};

use super::{Client, Out, policy};
use crate::log::Entry;
use crate::proxied::Packed;
use crate::route;
use crate::shard::Shard;
use passing::Passing;

/// The service of a connection: plain requests by itself, the others by hyper.
pub(crate) struct Front {
    shard: Rc<Shard>,
    peer: Packed,
    local: Option<Packed>,
    secure: bool,
}

impl Front {
    pub(crate) fn new(shard: Rc<Shard>, client: Client) -> Front {
        let Client { peer, local, secure } = client;
        Front { shard, peer: peer.into(), local: local.map(Packed::from), secure }
    }

    fn client(&self) -> Client {
        let local = self.local.map(SocketAddr::from);
        Client { peer: self.peer.into(), local, secure: self.secure }
    }

    /// The line of the log, where there is one.
    fn entry(&self, request: &plain::Request<'_>, peer: SocketAddr) -> Option<Entry> {
        let line = || {
            let uri = request.target.parse::<Uri>().unwrap_or_default();
            (request.method.clone(), uri, Version::HTTP_11)
        };
        let field = |name: HeaderName| {
            let value = request.fields.get(name.as_str())?;
            HeaderValue::from_bytes(value).ok()
        };
        self.shard.log.entry(peer, line, field)
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Out>;
    type Error = Infallible;
    type Future = LocalBoxFuture<'static, Result<Response<Out>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(super::serve(self.shard.clone(), self.client(), request))
    }
}

impl Direct for Front {
    type Exchange = Passing;

    fn begin(&self, mut request: plain::Request<'_>, body: &[u8]) -> Option<Passing> {
        let (shard, client) = (&self.shard, self.client());
        let state = shard.state();
        let config = &state.world.config;
        if !config.http.direct || request.length > config.http.max_body.0 {
            return None;
        }
        // What is done about other spellings is the same as for all requests.
        let path = route::normal(request.path())?;
        let route = state.router.find(request.host(), &path, &request.fields)?;
        let group = state.routes.get(route)?.as_ref().filter(|group| group.is_plain())?.clone();
        // Who has had too many is told so by hyper; asking twice costs the client nothing.
        policy::limit(&state, route, &request.fields, client.peer.ip()).ok()?;
        let wish = policy::wish(&state, &group, &request.fields, client.peer.ip());
        let mut entry = self.entry(&request, client.peer);
        let passage = policy::Passage {
            shard,
            state: &state,
            client: &client,
            group: &group,
            route,
            host: Some(request.authority),
            version: Version::HTTP_11,
        };
        let id = passage.dress(&mut request.fields, None, &mut entry);
        let mut bytes = shard.spare.take();
        write::request(&mut bytes, &request, body);
        let asked =
            passing::Asked { method: request.method, route, id, wish, close: request.close };
        Some(Passing::begin(shard, state, group, asked, entry, bytes))
    }
}
