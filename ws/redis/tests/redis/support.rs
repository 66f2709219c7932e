//! A server, and hubs attached to it.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use throng_net::Builder;
use throng_runtime::{ShardId, sleep, timeout};
use throng_ws::Frame;
use throng_ws::topic::{BackplaneStats, Hub, News, Subscription, TopicConfig, Topics};
use throng_ws_redis::{Config, Redis};

const PATIENCE: Duration = Duration::from_secs(20);

/// A redis-server that keeps nothing.
pub(crate) struct Server {
    child: Child,
    arguments: Vec<String>,
    pub(crate) port: u16,
}

impl Server {
    /// Starts one; `None` where there is none to start.
    pub(crate) fn start(arguments: &[&str]) -> Option<Server> {
        let found = ["/usr/bin/redis-server", "/usr/local/bin/redis-server"];
        if !found.iter().any(|path| PathBuf::from(path).exists()) {
            println!("skipped: redis-server is missing");
            return None;
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let child = Server::spawn(port, &arguments);
        Some(Server { child, arguments, port })
    }

    fn spawn(port: u16, arguments: &[String]) -> Child {
        let mut command = Command::new("redis-server");
        let port_text = port.to_string();
        if !arguments.iter().any(|text| text == "--tls-port") {
            command.args(["--port", &port_text]);
        } else {
            command.args(["--port", "0", "--tls-port", &port_text]);
        }
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--daemonize", "no"]);
        command.args(arguments.iter().filter(|text| *text != "--tls-port"));
        command.current_dir(env!("CARGO_TARGET_TMPDIR")).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "redis-server has ended");
            assert!(begin.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// For clients that `login` as in `user:password@`.
    pub(crate) fn config(&self, login: &str) -> Config {
        let url = format!("redis://{login}127.0.0.1:{}", self.port);
        let config = Config::from_url(&url).unwrap();
        config.backoff(Duration::from_millis(10), Duration::from_millis(100))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = Server::spawn(self.port, &self.arguments);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is stopped is killed all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a task on each shard of a runtime of its own.
pub(crate) fn run<F: Future<Output = ()> + 'static>(
    shards: usize,
    main: impl Fn(ShardId) -> F + Send + Sync + 'static,
) {
    let builder = Builder::new().device("kernel").shards(shards);
    let main = std::sync::Arc::new(main);
    let outcomes = builder.run(move |shard| {
        let main = main.clone();
        async move {
            timeout(PATIENCE, main(shard)).await.expect("in time");
            io::Result::Ok(())
        }
    });
    outcomes.unwrap().into_iter().for_each(|outcome| outcome.unwrap());
}

/// A hub as another process would have it, on this shard alone.
pub(crate) fn node(config: Config) -> Topics {
    let topics = Hub::new(1, TopicConfig::default().backlog(4_096)).enter().unwrap();
    attach(&topics, config);
    topics
}

pub(crate) fn attach(topics: &Topics, config: Config) {
    topics.attach(|inbound| Redis::start(config, inbound)).unwrap();
}

/// Waits until the counters of a hub's backplane are so.
pub(crate) async fn until(topics: &Topics, what: impl Fn(&BackplaneStats) -> bool) {
    let begin = Instant::now();
    while !what(&topics.backplane().unwrap()) {
        assert!(begin.elapsed() < PATIENCE, "it stays {:?}", topics.backplane());
        sleep(Duration::from_millis(2)).await;
    }
}

/// The next frame.
pub(crate) async fn next(subscription: &mut Subscription) -> Frame {
    match timeout(PATIENCE, poll_fn(|cx| subscription.poll_news(cx))).await {
        Ok(News::Frame(frame)) => frame,
        other => panic!("{other:?} instead of a frame"),
    }
}

/// The next frame's text.
pub(crate) async fn text(subscription: &mut Subscription) -> String {
    let frame = next(subscription).await;
    assert!(frame.is_text(), "{frame:?}");
    String::from_utf8(frame.payload().to_vec()).unwrap()
}

/// Frames that come until none has come for a while.
pub(crate) async fn rest(subscription: &mut Subscription) -> Vec<String> {
    let mut rest = Vec::new();
    let pause = Duration::from_millis(100);
    while let Ok(News::Frame(frame)) =
        timeout(pause, poll_fn(|cx| subscription.poll_news(cx))).await
    {
        rest.push(String::from_utf8(frame.payload().to_vec()).unwrap());
    }
    rest
}
