//! Two hosts, each a runtime of its own on a thread of its own, for as long as the process runs.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use futures::channel::{mpsc, oneshot};
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use throng_net::{Builder, IdlePolicy, TcpListener, TcpStream};
use throng_runtime::{sleep, spawn_local, timeout};

/// What no behaviour should take, on a machine that is busy with others.
const LIMIT: Duration = Duration::from_secs(60);

type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// A host, as those who tell it what to do see it.
#[derive(Clone)]
pub(crate) struct Host {
    jobs: mpsc::UnboundedSender<Job>,
    /// Its addresses, one of each family that it has.
    pub(crate) ips: Vec<IpAddr>,
    /// An address of each family on its link that nobody has; none where there is no link.
    pub(crate) silent: Vec<IpAddr>,
    /// An address it has no route to, where that is known.
    pub(crate) foreign: Option<IpAddr>,
    kernel: bool,
}

/// Where a behaviour runs, and the host it talks to.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) near: Host,
    pub(crate) far: Host,
}

/// Two hosts that reach each other.
pub(crate) struct World {
    pub(crate) a: Host,
    pub(crate) b: Host,
}

/// What a job on another host returns, or its panic. Dropping it cancels the job.
pub(crate) struct Remote<T>(oneshot::Receiver<Result<T, String>>);

impl<T> Remote<T> {
    /// Waits for the job's end.
    pub(crate) async fn done(self) -> T {
        let outcome = self.0.await.expect("the host is there");
        outcome.unwrap_or_else(|said| panic!("the other host: {said}"))
    }
}

impl Host {
    /// Starts a host with one shard, which sleeps when it has nothing to do.
    pub(crate) fn start(builder: Builder, ips: &[&str], kernel: bool) -> Host {
        let (jobs, todo) = mpsc::unbounded::<Job>();
        let todo = Mutex::new(Some(todo));
        let spin = Duration::from_micros(20);
        let builder = builder.shards(1).idle(IdlePolicy::Adaptive { spin, pause: spin });
        thread::spawn(move || {
            let ended = builder.run(|_| {
                let todo = todo.lock().unwrap().take();
                async move {
                    let mut todo = todo.expect("one shard");
                    while let Some(job) = todo.next().await {
                        spawn_local(job()).detach();
                    }
                }
            });
            eprintln!("a host ended: {ended:?}");
        });
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Host { jobs, ips, silent: Vec::new(), foreign: None, kernel }
    }

    /// The same on a link with few others on it, and no router.
    pub(crate) fn on_link(mut self) -> Host {
        self.silent = ["10.77.0.77", "fd77::77"].map(|ip| ip.parse().unwrap()).into();
        self.foreign = Some([192, 0, 2, 1].into());
        self
    }

    /// Whether its sockets are the kernel's.
    pub(crate) fn is_kernel(&self) -> bool {
        self.kernel
    }

    /// Its IPv4 address.
    pub(crate) fn v4(&self) -> IpAddr {
        self.ips[0]
    }

    /// Runs a job on the host, beside others.
    pub(crate) fn spawn<T, Fut>(&self, job: impl FnOnce() -> Fut + Send + 'static) -> Remote<T>
    where
        T: Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (mut tell, told) = oneshot::channel();
        let job = move || {
            async move {
                let caught = AssertUnwindSafe(async move { job().await }).catch_unwind();
                let outcome = futures::select_biased! {
                    outcome = Box::pin(caught).fuse() => outcome,
                    () = tell.cancellation().fuse() => return,
                };
                let _ = tell.send(outcome.map_err(|panic| words(&*panic)));
            }
            .boxed_local()
        };
        self.jobs.unbounded_send(Box::new(job)).expect("the host runs");
        Remote(told)
    }

    /// Gives a listener of the host's, at `ip` and a port of its choice, to `serve`.
    pub(crate) async fn serve_at<T, Fut>(
        &self,
        ip: IpAddr,
        serve: impl FnOnce(TcpListener) -> Fut + Send + 'static,
    ) -> (SocketAddr, Remote<T>)
    where
        T: Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (tell, told) = oneshot::channel();
        let task = self.spawn(move || async move {
            let listener = TcpListener::bind(SocketAddr::new(ip, 0)).unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            serve(listener).await
        });
        (told.await.expect("a listener"), task)
    }

    /// The same at its IPv4 address.
    pub(crate) async fn serve<T, Fut>(
        &self,
        serve: impl FnOnce(TcpListener) -> Fut + Send + 'static,
    ) -> (SocketAddr, Remote<T>)
    where
        T: Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.serve_at(self.v4(), serve).await
    }
}

impl Ends {
    /// A connection to the far host, whose end there is given to `serve`.
    pub(crate) async fn connect<T, Fut>(
        &self,
        serve: impl FnOnce(TcpStream) -> Fut + Send + 'static,
    ) -> (TcpStream, Remote<T>)
    where
        T: Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let accept = |listener: TcpListener| async move {
            let (stream, _) = listener.accept().await.unwrap();
            drop(listener);
            serve(stream).await
        };
        let (addr, task) = self.far.serve(accept).await;
        (TcpStream::connect(addr).await.unwrap(), task)
    }

    /// More bytes than the buffers of a connection take: the kernel's grow to some megabytes.
    pub(crate) fn much(&self) -> usize {
        let kernels = [&self.near, &self.far].iter().filter(|host| host.kernel).count();
        [2 << 20, 8 << 20, 16 << 20][kernels]
    }

    /// A connection to the far host, which sends back what it gets.
    pub(crate) async fn connect_to_echo(&self) -> (TcpStream, Remote<()>) {
        self.connect(echo).await
    }
}

/// Sends back what comes, until its end.
pub(crate) async fn echo(mut stream: TcpStream) {
    while let Ok(chunk) = stream.read_chunk(65_536).await {
        if chunk.is_empty() || stream.write_chunk(chunk).await.is_err() {
            break;
        }
    }
}

/// Two channels' ends: one tells, the other is told, across hosts.
pub(crate) fn signal() -> (oneshot::Sender<()>, oneshot::Receiver<()>) {
    oneshot::channel()
}

/// Waits for `condition`, which comes by itself.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Runs a behaviour on `near`; panics as it does.
pub(crate) fn run(near: &Host, far: &Host, case: fn(Ends) -> LocalBoxFuture<'static, ()>) {
    let ends = Ends { near: near.clone(), far: far.clone() };
    let (tell, told) = std::sync::mpsc::channel();
    let bounded = move || async move {
        let case = AssertUnwindSafe(timeout(LIMIT, case(ends))).catch_unwind();
        let outcome = match case.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("it takes too long".to_owned()),
            Err(panic) => Err(words(&*panic)),
        };
        tell.send(outcome).unwrap();
    };
    let _task = near.spawn(bounded);
    let outcome = told.recv_timeout(2 * LIMIT).expect("the near host runs");
    outcome.unwrap_or_else(|said| panic!("{said}"));
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
