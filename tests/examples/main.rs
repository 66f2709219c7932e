//! Every example, unchanged, over every backend: one table.
//!
//! An example runs in a process of its own, which is this program again: its source is a module
//! here, so that over the memory device, where both ends live in one process, the same `main` and the
//! same check can be had as elsewhere. The check is another Throng runtime: on the kernel's sockets,
//! or on the memory device's other end.

mod checks;
mod run;

#[path = "../../examples/echo.rs"]
mod echo;
#[path = "../../examples/http-get.rs"]
mod http_get;
#[path = "../../examples/http-hello.rs"]
mod http_hello;
#[cfg(feature = "tls")]
#[path = "../../examples/https-hello.rs"]
mod https_hello;
#[path = "../../examples/ws-client.rs"]
mod ws_client;
#[path = "../../examples/ws-echo.rs"]
mod ws_echo;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;

use futures::future::LocalBoxFuture;
use throng::TcpListener;

/// What a check says.
type Checked = Result<(), Box<dyn std::error::Error>>;
type Check = LocalBoxFuture<'static, Checked>;

/// An example and what is asked of it.
struct Example {
    name: &'static str,
    main: fn() -> io::Result<()>,
    /// Its arguments, given the server's address.
    args: fn(SocketAddr) -> Vec<String>,
    role: Role,
}

enum Role {
    /// It is a server: a client that looks at it. SIGTERM ends it afterwards.
    Server(fn(SocketAddr) -> Check),
    /// It is a client that ends by itself: a server for it, and what is to be in its output.
    Client(fn(TcpListener) -> Check, &'static [&'static str]),
}

/// Where an example runs.
struct Backend {
    name: &'static str,
    /// Its device; the kernel's sockets are used where none is named.
    device: Option<&'static str>,
    /// The kernel's interface on the other side.
    interface: Option<&'static str>,
    /// The addresses of the example and of the other side.
    here: Ipv4Addr,
    there: Ipv4Addr,
}

fn listen(server: SocketAddr) -> Vec<String> {
    vec![format!("--listen=0.0.0.0:{}", server.port())]
}

const EXAMPLES: &[Example] = &[
    Example {
        name: "echo",
        main: echo::main,
        args: listen,
        role: Role::Server(|server| Box::pin(checks::echo(server))),
    },
    Example {
        name: "http-hello",
        main: http_hello::main,
        args: listen,
        role: Role::Server(|server| Box::pin(checks::http(server))),
    },
    #[cfg(feature = "tls")]
    Example {
        name: "https-hello",
        main: https_hello::main,
        args: |server| {
            let (chain, key) = run::certificate();
            [listen(server), vec![format!("--chain={chain}"), format!("--key={key}")]].concat()
        },
        role: Role::Server(|server| Box::pin(checks::https(server))),
    },
    Example {
        name: "ws-echo",
        main: ws_echo::main,
        args: listen,
        role: Role::Server(|server| Box::pin(checks::web_socket(server))),
    },
    Example {
        name: "ws-client",
        main: ws_client::main,
        args: |server| vec!["--count=4".to_owned(), server.to_string()],
        role: Role::Client(
            |listener| Box::pin(checks::serve_web_socket(listener)),
            &["message 1: ", "message 4: "],
        ),
    },
    Example {
        name: "http-get",
        main: http_get::main,
        args: |server| vec![format!("http://{server}/a/path")],
        role: Role::Client(
            |listener| Box::pin(checks::serve_http(listener)),
            &["asked for /a/path by HTTP/1.1"],
        ),
    },
    Example {
        name: "http-get over HTTP/2",
        main: http_get::main,
        args: |server| {
            let url = format!("http://{server}/a/path");
            ["--http2", "--include", "--count=3", "--data=x", &url].map(str::to_owned).into()
        },
        role: Role::Client(
            |listener| Box::pin(checks::serve_http(listener)),
            &["HTTP/2.0 200 OK", "asked for /a/path by HTTP/2.0", "Stats"],
        ),
    },
];

/// Every server's port.
const PORT: u16 = 20_080;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

const BACKENDS: &[Backend] = &[
    Backend {
        name: "kernel",
        device: None,
        interface: None,
        here: Ipv4Addr::LOCALHOST,
        there: Ipv4Addr::LOCALHOST,
    },
    Backend {
        name: "memory",
        device: Some("memory:examples"),
        interface: None,
        here: HERE,
        there: THERE,
    },
    Backend {
        name: "tap",
        device: Some("tap:exam0"),
        interface: Some("exam0"),
        here: HERE,
        there: THERE,
    },
    #[cfg(feature = "dpdk")]
    Backend {
        name: "dpdk net_tap",
        device: Some("dpdk:net_tap0,iface=exam1"),
        interface: Some("exam1"),
        here: HERE,
        there: THERE,
    },
];

impl Backend {
    /// Where the server is, be it the example or not.
    fn server(&self, example: &Example) -> SocketAddr {
        let ip = match example.role {
            Role::Server(_) => self.here,
            Role::Client(..) => self.there,
        };
        SocketAddr::new(IpAddr::V4(ip), PORT)
    }

    fn is_memory(&self) -> bool {
        self.device.is_some_and(|device| device.starts_with("memory:"))
    }
}

/// Takes libtest's place, which would read an example's arguments as its own. Prints what it would.
fn main() -> ExitCode {
    if let Some((example, backend)) = run::asked_for() {
        run::as_example(example, backend);
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let running: Vec<_> = BACKENDS
        .iter()
        .map(|backend| {
            let names =
                EXAMPLES.iter().map(|example| format!("{}: {}", backend.name, example.name));
            let todo: Vec<_> =
                EXAMPLES.iter().zip(names).filter(|(_, name)| wanted(name)).collect();
            thread::spawn(move || run::all(backend, todo))
        })
        .collect();
    let outcomes: Vec<_> =
        running.into_iter().flat_map(|backend| backend.join().expect("no panic")).collect();
    report(&outcomes)
}

/// A row's outcome.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

fn report(outcomes: &[(String, Outcome)]) -> ExitCode {
    let count = |of: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, it)| of(it)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    println!("\nrunning {} tests", outcomes.len());
    for (name, outcome) in outcomes {
        match outcome {
            Outcome::Passed => println!("test {name} ... ok"),
            Outcome::Failed(_) => println!("test {name} ... FAILED"),
            Outcome::Skipped(why) => println!("test {name} ... ignored, {why}"),
        }
    }
    for (name, outcome) in outcomes {
        if let Outcome::Failed(why) = outcome {
            println!("\n---- {name} stdout ----\n{why}");
        }
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed; {} ignored; 0 measured; 0 filtered out\n",
        if failed == 0 { "ok" } else { "FAILED" },
        count(|outcome| matches!(outcome, Outcome::Passed)),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
