//! Starts examples, checks them and ends them.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::future::{Either, select};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use throng::{Builder, TcpListener, sleep, timeout};

use super::{BACKENDS, Backend, Check, EXAMPLES, Example, Outcome, PORT, Role};

/// Says to a process of this program which example it is, and on which backend.
const AS_EXAMPLE: &str = "THRONG_TEST_EXAMPLE";
/// What a check, or an example that ends by itself, may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// What an example that is asked to end may take.
const END: Duration = Duration::from_secs(15);

/// Which example this process is.
pub(crate) fn asked_for() -> Option<(&'static Example, &'static Backend)> {
    let text = std::env::var(AS_EXAMPLE).ok()?;
    let (backend, example) = text.split_once('/')?;
    let example = EXAMPLES.iter().find(|it| it.name == example)?;
    Some((example, BACKENDS.iter().find(|it| it.name == backend)?))
}

/// Is the example, and on the memory device also what checks it.
pub(crate) fn as_example(example: &'static Example, backend: &Backend) -> ! {
    let begin = move || match (example.main)() {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{}: {error}", example.name);
            std::process::exit(1)
        }
    };
    if !backend.is_memory() {
        begin();
    }
    let device = backend.device.unwrap_or_default();
    let builder = Builder::new().device(device).address(format!("{}/24", backend.there));
    let server = backend.server(example);
    let checked = match example.role {
        Role::Server(check) => {
            thread::spawn(begin);
            run(builder, move || check(server))
        }
        Role::Client(serve, _) => run(builder, move || {
            let listener = TcpListener::bind(server);
            thread::spawn(begin);
            Box::pin(async move { serve(listener?).await })
        }),
    };
    match checked {
        Ok(()) => println!("{CHECKED}"),
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(1);
        }
    }
    // Until it is told to end.
    loop {
        thread::park();
    }
}

/// A process of the memory device says this when its check has succeeded.
const CHECKED: &str = "the check has succeeded";

/// Runs a check on a runtime of its own.
fn run(builder: Builder, check: impl Fn() -> Check + Send + Sync) -> Result<(), String> {
    let outcomes = builder.shards(1).run(|_| {
        let check = check();
        async move { check.await.map_err(|error| error.to_string()) }
    });
    outcomes.map_err(|error| format!("the check's runtime: {error}"))?.into_iter().collect()
}

/// Runs these examples on a backend, one after the other, in a network of their own.
pub(crate) fn all(
    backend: &'static Backend,
    todo: Vec<(&'static Example, String)>,
) -> Vec<(String, Outcome)> {
    let network = own_network();
    let outcome = |example| match &network {
        // Where there is no interface to be made, the network of all will do.
        Err(why) if backend.interface.is_some() => Outcome::Skipped(why.clone()),
        _ => match check(backend, example) {
            Ok(()) => Outcome::Passed,
            Err(why) => Outcome::Failed(why),
        },
    };
    todo.into_iter().map(|(example, name)| (name, outcome(example))).collect()
}

fn own_network() -> Result<(), String> {
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Err("there is no /dev/net/tun".to_owned());
    }
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("needs a network namespace: {error}"))?;
    ip("link set lo up")
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {said}")) }
}

/// An example's process; killed when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(backend: &Backend, example: &Example) -> io::Result<Process> {
        let name = format!("{}-{}.log", backend.name, example.name).replace([' ', '/'], "-");
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let out = File::create(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args((example.args)(backend.server(example)))
            .env(AS_EXAMPLE, format!("{}/{}", backend.name, example.name))
            .env("THRONG_SHARDS", "2")
            .env("THRONG_IDLE", "adaptive")
            .env("RUST_BACKTRACE", "1")
            .env_remove("THRONG_CONFIG")
            .env_remove("THRONG_DEVICE")
            .env_remove("THRONG_ADDRESS")
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out);
        if let Some(device) = backend.device {
            let address = format!("{}/24", backend.here);
            command.env("THRONG_DEVICE", device).env("THRONG_ADDRESS", address);
        }
        Ok(Process { child: command.spawn()?, log })
    }

    fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for its end.
    fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if begin.elapsed() < limit => thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err(format!("not ended after {limit:?}")),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Gives the kernel's end of its device an address, when it is there.
    fn bring_up(&mut self, backend: &Backend) -> Result<(), String> {
        let Some(interface) = backend.interface else { return Ok(()) };
        let begin = Instant::now();
        while let Err(why) = ip(&format!("link set {interface} up")) {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended || begin.elapsed() > LIMIT {
                return Err(why);
            }
            thread::sleep(Duration::from_millis(10));
        }
        ip(&format!("addr add {}/24 dev {interface}", backend.there))
    }
}

/// Runs an example on a backend and checks it.
fn check(backend: &'static Backend, example: &'static Example) -> Result<(), String> {
    // It is made before anybody asks for it twice.
    certificate();
    let server = match example.role {
        Role::Client(serve, _) if !backend.is_memory() => Some(Serving::start(serve)?),
        _ => None,
    };
    let mut process = Process::start(backend, example).map_err(|error| error.to_string())?;
    let outcome = process.bring_up(backend).and_then(|()| match example.role {
        Role::Server(check) => check_server(backend, example, &mut process, check),
        Role::Client(_, says) => check_client(&mut process, says),
    });
    drop(server);
    outcome.map_err(|why| format!("{why}\nit said:\n{}", process.said()))
}

fn check_server(
    backend: &Backend,
    example: &Example,
    process: &mut Process,
    check: fn(SocketAddr) -> Check,
) -> Result<(), String> {
    let id = Pid::from_raw(process.child.id() as i32);
    if backend.is_memory() {
        let begin = Instant::now();
        while !process.said().contains(CHECKED) {
            let ended = !matches!(process.child.try_wait(), Ok(None));
            if ended || begin.elapsed() > LIMIT {
                return Err("the check beside it has failed, or is not done".to_owned());
            }
            thread::sleep(Duration::from_millis(10));
        }
    } else {
        let server = backend.server(example);
        run(Builder::new().device("kernel"), move || {
            let checking = async move { timeout(LIMIT, check(server)).await? };
            Box::pin(async move {
                match select(Box::pin(checking), Box::pin(ended(id))).await {
                    Either::Left((checked, _)) => checked,
                    Either::Right(_) => Err("it has ended".into()),
                }
            })
        })?;
    }
    kill(id, Signal::SIGTERM).map_err(|error| error.to_string())?;
    let status = process.wait(END)?;
    // Those that have nothing to finish leave it to the signal's default.
    let by_signal = status.signal() == Some(Signal::SIGTERM as i32);
    if status.success() || by_signal { Ok(()) } else { Err(format!("{status} after SIGTERM")) }
}

/// Waits for a child's end, and leaves the rest to others.
async fn ended(child: Pid) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while matches!(waitid(Id::Pid(child), flags), Ok(WaitStatus::StillAlive)) {
        sleep(Duration::from_millis(20)).await;
    }
}

fn check_client(process: &mut Process, says: &[&str]) -> Result<(), String> {
    let status = process.wait(LIMIT)?;
    let said = process.said();
    match says.iter().find(|text| !said.contains(**text)) {
        _ if !status.success() => Err(format!("it ended with {status}")),
        Some(text) => Err(format!("'{text}' is not in its output")),
        None => Ok(()),
    }
}

/// A server for clients, on the kernel's sockets, until it is dropped.
struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Serving {
    fn start(serve: fn(TcpListener) -> Check) -> Result<Serving, String> {
        // The interface has no address yet.
        let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT);
        let (stop, stopped) = oneshot::channel();
        let stopped = std::sync::Mutex::new(Some(stopped));
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let serving = run(Builder::new().device("kernel"), || {
                let stopped = stopped.lock().ok().and_then(|mut it| it.take());
                let listener = TcpListener::bind(at);
                let _ = tell.send(listener.as_ref().map(drop).map_err(|error| error.to_string()));
                Box::pin(async move {
                    let stopped = stopped.ok_or("one shard")?;
                    match select(serve(listener?), stopped).await {
                        Either::Left((ended, _)) => ended,
                        Either::Right(_) => Ok(()),
                    }
                })
            });
            if let Err(why) = serving {
                eprintln!("the server of a check: {why}");
            }
        });
        told.recv().map_err(|_| "the server of the check did not start")??;
        Ok(Serving { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Where a certificate and its key are, for all addresses that examples have here.
pub(crate) fn certificate() -> (String, String) {
    static MADE: Once = Once::new();
    let file = |name: &str| format!("{}/examples-{name}.pem", env!("CARGO_TARGET_TMPDIR"));
    MADE.call_once(|| {
        // The examples' processes read what the test's has written.
        if asked_for().is_none() {
            let names = BACKENDS.iter().map(|backend| backend.here.to_string());
            let made = rcgen::generate_simple_self_signed(names.collect::<Vec<_>>());
            let made = made.expect("a certificate");
            std::fs::write(file("chain"), made.cert.pem()).expect("a file");
            std::fs::write(file("key"), made.signing_key.serialize_pem()).expect("a file");
        }
    });
    (file("chain"), file("key"))
}
