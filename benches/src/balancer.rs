//! Balancers of HTTP in front of the same server, asked by the same client: throng-lb, nginx, HAProxy.
//!
//! Each has one core, keeps connections on both sides, writes no access log, and tells the server who
//! asks, by which scheme, for which host, and the request's name. The server and the client share the
//! other core: nginx with a fixed page and Throng's client on the host's sockets, one process that
//! makes the frames of both by hand on a device.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use crate::helper::Helper;
use crate::load::Load;
use crate::subject::{Ask, Link, Match, PORT, START, client, devices, on_kernel, wait_for};
use crate::web::{Files, Site, Web, pinned};

/// Where the server behind the balancers listens.
const UPSTREAM: u16 = 8_000;
/// Connections that nginx makes room for.
const ROOM: usize = 19_000;
/// Addresses on a device.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// throng-lb on a device, over this link.
    Throng(Link),
    /// throng-lb on the host's sockets.
    OnKernel,
    /// nginx, one worker.
    Nginx,
    /// HAProxy, one thread.
    Haproxy,
}

impl Balancer {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Balancer::Throng(_) => "throng",
            Balancer::OnKernel => "throng-on-kernel",
            Balancer::Nginx => "nginx",
            Balancer::Haproxy => "haproxy",
        }
    }

    pub(crate) fn start(self, ask: &Ask) -> io::Result<Match> {
        let files = Files::new()?;
        if let Balancer::Throng(link) = self {
            return bypass(link, ask, files);
        }
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (server, endpoint) = (at(UPSTREAM), at(PORT));
        let core = Some(ask.cores[1]);
        let site = Site { listen: server, size: ask.size, room: ROOM, shared: false, core };
        let upstream = Web::Nginx.start(&files, &site)?;
        wait_for(server)?;
        let balancer = match self {
            Balancer::Nginx => {
                let mut command = pinned(ask.cores[0], &Web::Nginx.program()?);
                command.arg("-c");
                command.arg(files.write("balancer.conf", &nginx(&files, server, endpoint))?);
                Helper::start(&mut command)?.ended_by_signal()
            }
            Balancer::Haproxy => {
                let mut command = pinned(ask.cores[0], &Web::Haproxy.program()?);
                command.args(["-db", "-q", "-f"]);
                command.arg(files.write("haproxy.cfg", &haproxy(server, endpoint))?);
                Helper::start(&mut command)?.ended_by_signal()
            }
            Balancer::OnKernel | Balancer::Throng(_) => {
                throng(&files, ask, server, endpoint, |command| {
                    command.env("THRONG_DEVICE", "kernel");
                })?
            }
        };
        wait_for(endpoint)?;
        let mut role = on_kernel(ask, ask.cores[1], endpoint, ask.connections);
        // The server needs the rest of its core.
        role.adaptive = true;
        let client = client(ask, role, ask.window)?;
        let (servers, clients, others) = (vec![balancer], vec![client], vec![upstream]);
        Match { servers, clients, others, endpoint, _files: Some(files) }.connected(ask)
    }
}

/// The balancer on a device, client and server at its other end.
fn bypass(link: Link, ask: &Ask, files: Files) -> io::Result<Match> {
    let (ours, theirs) = devices(link, 1)?;
    let endpoint = SocketAddr::from((OURS, PORT));
    let mut role = on_kernel(ask, ask.cores[1], endpoint, ask.connections);
    (role.device, role.address) = (theirs, Some(format!("{THEIRS}/24")));
    let load = Load {
        role,
        window: ask.window,
        rate: ask.rate,
        timed: ask.timed,
        spinning: false,
        raw: true,
        ramp: None,
        upstream: Some(UPSTREAM),
    };
    let mut client = Command::new(std::env::current_exe()?);
    let mut client = Helper::start(client.arg("load").args(load.arguments()))?;
    client.expect("open", START)?;
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let server = throng(&files, ask, SocketAddr::from((THEIRS, UPSTREAM)), listen, |command| {
        command.env("THRONG_DEVICE", ours).env("THRONG_ADDRESS", format!("{OURS}/24"));
        command.env("THRONG_IDLE", if ask.adaptive { "adaptive" } else { "busy" });
    })?;
    let (servers, clients) = (vec![server], vec![client]);
    Match { servers, clients, others: Vec::new(), endpoint, _files: Some(files) }.connected(ask)
}

/// throng-lb, built beside this program, once it listens.
fn throng(
    files: &Files,
    ask: &Ask,
    server: SocketAddr,
    listen: SocketAddr,
    environment: impl FnOnce(&mut Command),
) -> io::Result<Helper> {
    let program = std::env::current_exe()?.with_file_name("throng-lb");
    let config = format!(
        "listener = [{{ address = \"{listen}\" }}]\n\
         route = [{{ upstream = \"app\" }}]\n\
         [http]\nidle_timeout = \"600s\"\n\
         [forwarding]\nvia = \"\"\n\
         [upstream.app]\n\
         keepalive = {{ connections = 20_000, idle_timeout = \"600s\" }}\n\
         server = [{{ address = \"{server}\", max_requests = 20_000 }}]\n"
    );
    // Its log says when it listens.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(program);
    command.arg(files.write("lb.toml", &config)?);
    command.env("THRONG_SHARDS", "1").env("THRONG_CORES", ask.cores[0].to_string());
    command.env("RUST_LOG", "info").env("NO_COLOR", "1");
    environment(&mut command);
    let mut balancer = Helper::start(&mut command)?.ended_by_signal();
    let mut said = String::new();
    loop {
        let line = balancer.line(START).map_err(|error| {
            io::Error::new(error.kind(), format!("throng-lb: {error}; it said: {said}"))
        })?;
        if line.contains("listening") {
            return Ok(balancer);
        }
        said.push_str(&line);
    }
}

fn nginx(files: &Files, server: SocketAddr, listen: SocketAddr) -> String {
    let dir = files.dir().display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/balancer.pid;\n\
         error_log {dir}/error.log; worker_rlimit_nofile 20000;\n\
         events {{ worker_connections {ROOM}; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600;\n\
         client_body_temp_path {dir}/b-body; proxy_temp_path {dir}/b-proxy;\n\
         fastcgi_temp_path {dir}/b-fastcgi; uwsgi_temp_path {dir}/b-uwsgi;\n\
         scgi_temp_path {dir}/b-scgi;\n\
         upstream app {{ server {server}; keepalive 20000; keepalive_requests 1000000000;\n\
         keepalive_timeout 600s; }}\n\
         server {{ listen {listen} backlog=65535; location / {{\n\
         proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $http_host;\n\
         proxy_set_header X-Request-Id $request_id; add_header X-Request-Id $request_id;\n\
         }} }} }}\n"
    )
}

fn haproxy(server: SocketAddr, listen: SocketAddr) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 9000\n  no strict-limits\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n\
         \x20 timeout http-keep-alive 600s\n\
         frontend clients\n  bind {listen} backlog 65535\n  option forwardfor\n\
         \x20 http-request set-header X-Forwarded-Proto http\n\
         \x20 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20 unique-id-format %[uuid()]\n  unique-id-header X-Request-Id\n\
         \x20 http-response set-header X-Request-Id %[unique-id]\n\
         \x20 default_backend app\n\
         backend app\n  http-reuse always\n  server one {server}\n"
    )
}
