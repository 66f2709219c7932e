//! Starting examples and peers, and what they need.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that runs, and is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Waits until it takes connections.
    pub(crate) fn until_open(mut self, address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "{} ended: {ended:?}", self.line);
            assert!(Instant::now() < end, "{} does not listen at {address}", self.line);
            thread::sleep(Duration::from_millis(20));
        }
        self
    }

    /// Asks it to end, as a service manager does, and expects success.
    pub(crate) fn terminate(mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("it runs");
        let status = self.wait();
        assert!(status.success(), "{}: {status}", self.line);
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < end, "{} does not end", self.line);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program, which ends with the test.
pub(crate) fn start(command: &mut Command) -> Running {
    let line = format!("{command:?}");
    let child = command.stdin(Stdio::null()).spawn();
    Running { child: child.unwrap_or_else(|error| panic!("{line}: {error}")), line }
}

/// What a program that ends by itself prints: whether it succeeded, its output and its errors.
pub(crate) fn run(command: &mut Command) -> (bool, String, String) {
    let mut running = start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let stdout = running.child.stdout.take().expect("a pipe");
    let stderr = running.child.stderr.take().expect("a pipe");
    let read = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let (stdout, stderr) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let status = running.wait();
    (status.success(), stdout.join().expect("read"), stderr.join().expect("read"))
}

/// The output of a program that has to succeed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let (success, stdout, stderr) = run(command);
    assert!(success, "{command:?}\n{stdout}{stderr}");
    stdout
}

/// One of the examples, on the `kernel` backend.
pub(crate) fn example(path: &str) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("THRONG_")) {
        command.env_remove(name);
    }
    command.env("THRONG_SHARDS", "2");
    command
}

/// A loopback address at which nobody listens.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// Where a program is; when there is none, says that the test is skipped.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        println!("skipped: needs {program}");
    }
    found
}

/// The Python that `cargo xtask setup` makes, if it has this module.
pub(crate) fn python(module: &str, script: &str) -> Option<Command> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let python = target.join("venv/bin/python");
    let probe = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if !probe.is_ok_and(|done| done.status.success()) {
        println!("skipped: needs Python with {module} in {}", python.display());
        return None;
    }
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script));
    Some(command)
}

/// curl, which gives up after 10 seconds.
pub(crate) fn curl(arguments: &[&str]) -> Output {
    let done = Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).output();
    done.expect("curl was found")
}

/// What curl got: the body, the status and the version of HTTP.
pub(crate) fn get(arguments: &[&str]) -> String {
    let done = curl(&[arguments, &["-w", " %{http_code} %{http_version}"]].concat());
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Our end of a [`tap`], and the kernel's.
pub(crate) const OURS: &str = "10.71.0.2";
pub(crate) const KERNELS: &str = "10.71.0.1";

/// A network namespace for this thread and what it starts, with a TAP for an example. If there
/// cannot be one, says that the test is skipped.
pub(crate) fn tap() -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("skipped: needs a network namespace: {error}");
        return false;
    }
    if !Path::new("/dev/net/tun").exists() {
        println!("skipped: there is no /dev/net/tun");
        return false;
    }
    let Some(ip) = find("ip") else { return false };
    for line in [
        "link set lo up",
        "tuntap add dev compat0 mode tap multi_queue",
        &format!("addr add {KERNELS}/24 dev compat0"),
        "link set compat0 up",
    ] {
        succeed(Command::new(&ip).args(line.split(' ')));
    }
    true
}

/// An example on our own stack, at the other end of the [`tap`].
pub(crate) fn on_tap(path: &str) -> Command {
    let mut command = example(path);
    command.env("THRONG_DEVICE", "tap:compat0").env("THRONG_ADDRESS", format!("{OURS}/24"));
    command
}
