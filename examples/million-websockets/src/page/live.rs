//! The page's WebSockets: what they are sent, and what they may ask.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::SinkExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use throng::runtime::{self, Instant};
use throng::ws::topic::{Hub, Slow, Topic, TopicConfig, Topics};
use throng::ws::{CloseCode, Frame, Message, Upgraded, WebSocket};

use super::About;
use super::broadcast::Broadcasts;
use super::figures::{EVERY, Figures};
use crate::server::Control;

/// Longest message that a page may send, in bytes.
pub(super) const LONGEST: usize = 2 << 10;
/// Messages that a page may send at once, and one more each second.
const BURST: u32 = 8;
/// Frames that a page may be behind before it is disconnected, to come back and begin anew.
const BEHIND: usize = 32;
/// A page that is silent for twice this long is gone.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How long pages have to take note of the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// What all page sockets share.
pub(super) struct Live {
    about: About,
    pub(super) control: Arc<Control>,
    /// Keeps the topic.
    _topics: Topics,
    topic: Topic,
    figures: RefCell<Figures>,
    broadcasts: Broadcasts,
    sockets: Cell<usize>,
}

/// What a page can say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// To be sent to all connections of the server.
    broadcast: String,
}

impl Live {
    pub(super) fn new(about: About, control: Arc<Control>) -> io::Result<Rc<Live>> {
        let topics =
            Hub::new(1, TopicConfig::default().backlog(BEHIND).slow(Slow::Disconnect)).enter()?;
        let config = TopicConfig::default().backlog(BEHIND).slow(Slow::Disconnect);
        let topic = topics.topic_with("live", config.heartbeat(HEARTBEAT));
        Ok(Rc::new(Live {
            about,
            control,
            _topics: topics,
            topic,
            figures: RefCell::default(),
            broadcasts: Broadcasts::default(),
            sockets: Cell::new(0),
        }))
    }

    /// Looks at the server and tells all pages, for ever.
    pub(super) async fn look_on(self: Rc<Self>) {
        let mut next = runtime::now();
        loop {
            self.look();
            // Behind on a busy machine, it leaves out what is past.
            next = (next + EVERY).max(runtime::now());
            runtime::sleep_until(next).await;
        }
    }

    fn look(&self) {
        let tick = self.figures.borrow_mut().look(&self.control, self.sockets.get());
        if self.sockets.get() > 0 {
            self.tell("tick", &tick);
        }
    }

    /// Tells all pages something.
    pub(super) fn tell(&self, what: &str, value: &impl Serialize) {
        let said = json!({ "is": what, "value": value }).to_string();
        // What has no room is seen again in the next look.
        let _ = self.topic.publish(&Frame::text(said));
    }

    /// A place for one more page, where there are not `most` already.
    pub(super) fn seat(self: &Rc<Self>, most: usize) -> Option<Seat> {
        let sockets = self.sockets.get();
        (sockets < most).then(|| {
            self.sockets.set(sockets + 1);
            Seat(self.clone())
        })
    }

    /// The end: pages are told the last numbers, and sent away.
    pub(super) async fn end(&self) {
        self.look();
        self.tell("end", &());
        self.topic.close();
        let until = runtime::now() + GOODBYE;
        while self.sockets.get() > 0 && runtime::now() < until {
            runtime::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What a page that comes is told: all that does not change, and what was.
    fn hello(&self) -> String {
        let figures = self.figures.borrow();
        let value = json!({
            "about": self.about,
            "every": EVERY.as_secs_f64(),
            "history": figures.history(),
            "tick": figures.last(),
            "broadcast": self.broadcasts.last(),
        });
        json!({ "is": "hello", "value": value }).to_string()
    }

    /// Does what a page asks for, or says why not.
    fn obey(self: &Rc<Self>, message: &Message) -> Result<(), String> {
        let Message::Text(text) = message else { return Err("only text is understood".into()) };
        let ask: Ask = serde_json::from_str(text).map_err(|error| format!("not asked: {error}"))?;
        let connections = self.figures.borrow().connections();
        let phase = self.figures.borrow().phase();
        let id = self.broadcasts.begin(&ask.broadcast, connections, phase)?;
        let live = self.clone();
        throng::spawn_local(async move { live.broadcasts.run(id, &live).await }).detach();
        Ok(())
    }
}

/// A page's place, given up when dropped.
pub(super) struct Seat(Rc<Live>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.sockets.set(self.0.sockets.get() - 1);
    }
}

impl Seat {
    /// Tells a page everything, and does what it asks, to its end.
    pub(super) async fn talk(self, mut socket: WebSocket<Upgraded>) {
        let live = &self.0;
        // Of what is published from here on it misses nothing.
        let mut subscribed = [live.topic.subscribe()];
        let hello = live.hello();
        if socket.send(Message::text(hello)).await.is_err() {
            return;
        }
        let mut allowance = Allowance::new();
        while let Some(Ok(message)) = socket.next_with(&mut subscribed).await {
            if !allowance.take() {
                let _ = socket.close(Some(too_much())).await;
            } else if message.is_text() || message.is_binary() {
                let Err(why) = live.obey(&message) else { continue };
                let sorry = json!({ "is": "sorry", "value": why }).to_string();
                if socket.send(Message::text(sorry)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn too_much() -> throng::ws::CloseFrame {
    throng::ws::CloseFrame { code: CloseCode::Policy, reason: "too many messages".into() }
}

/// Messages that a page may still send: [`BURST`], and one more each second.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new() -> Allowance {
        Allowance { left: BURST.into(), at: runtime::now() }
    }

    fn take(&mut self) -> bool {
        let now = runtime::now();
        let more = (now - self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + more).min(BURST.into()), now);
        let has = self.left >= 1.0;
        self.left -= if has { 1.0 } else { 0.0 };
        has
    }
}
