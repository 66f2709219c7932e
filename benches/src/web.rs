//! Web servers as Debian has them, each as one process of one thread with a page to give.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::helper::Helper;
use crate::serve;

/// The longest text that nginx's configuration takes; longer pages are files.
const LONGEST_TEXT: usize = 2_000;
/// What HAProxy has for each connection in use unless told otherwise; an answer of its own must fit in,
/// with a head.
const HAPROXY_BUFFER: usize = 16_384;
const HEAD: usize = 4_096;
/// Where Debian has servers, besides the `PATH`.
const SBIN: &str = "/usr/sbin";

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Web {
    /// nginx, its page in its configuration or a file it keeps open.
    Nginx,
    /// HAProxy, which answers by itself (`http-request return`).
    Haproxy,
}

/// What one is to do.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Bytes of the page.
    pub size: usize,
    /// Most connections that it makes room for.
    pub room: usize,
    /// Whether others listen there, too.
    pub shared: bool,
    /// The core it runs on, if it matters.
    pub core: Option<usize>,
}

impl Web {
    /// The name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Web::Nginx => "nginx",
            Web::Haproxy => "haproxy",
        }
    }

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Web> {
        [Web::Nginx, Web::Haproxy].into_iter().find(|web| web.name() == name)
    }

    /// Where it is.
    ///
    /// # Errors
    /// `NotFound`: it is not installed.
    pub fn program(self) -> io::Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&path).chain([PathBuf::from(SBIN)]);
        let found = places.map(|place| place.join(self.name())).find(|program| program.is_file());
        found.ok_or_else(|| {
            let text = format!("{} is not installed; it is Debian's package", self.name());
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }

    /// Starts it; when it listens is for the caller to find out. What it reads and writes is in `files`.
    ///
    /// # Errors
    /// It is not installed, or its files cannot be written.
    pub fn start(self, files: &Files, site: &Site) -> io::Result<Helper> {
        let program = self.program()?;
        let (text, config) = (self.config(files, site)?, files.new_name("conf"));
        std::fs::write(&config, text)?;
        let mut command = match site.core {
            Some(core) => pinned(core, &program),
            None => Command::new(&program),
        };
        match self {
            Web::Nginx => command.arg("-c").arg(config),
            Web::Haproxy => command.args(["-q", "-db", "-f"]).arg(config),
        };
        Ok(Helper::start(&mut command)?.ended_by_signal())
    }

    fn config(self, files: &Files, site: &Site) -> io::Result<String> {
        let (dir, Site { listen, room, size, .. }) = (files.0.display(), site);
        let page = serve::page(*size);
        std::fs::write(files.0.join("index.html"), &page)?;
        Ok(match self {
            Web::Nginx => {
                let page = match String::from_utf8(page) {
                    Ok(text) if text.len() <= LONGEST_TEXT => format!("return 200 \"{text}\";"),
                    _ => format!("root {dir}; open_file_cache max=16;"),
                };
                let shared = if site.shared { "reuseport" } else { "" };
                let pid = files.new_name("pid");
                format!(
                    "daemon off; master_process off; worker_processes 1; pid {};\n\
                     error_log {dir}/error.log; worker_rlimit_nofile 20000;\n\
                     events {{ worker_connections {room}; }}\n\
                     http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600;\n\
                     client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
                     fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;\n\
                     scgi_temp_path {dir}/scgi; sendfile on;\n\
                     server {{ listen {listen} backlog=65535 {shared}; {page} }} }}\n",
                    pid.display()
                )
            }
            Web::Haproxy => {
                let body = match size {
                    0 => String::new(),
                    _ => format!("content-type text/plain file {dir}/index.html"),
                };
                let buffer = HAPROXY_BUFFER.max(size + HEAD);
                // Listeners share their port unless told otherwise; a limit of descriptors that it would
                // like to be twice as high is none, for it connects to nobody.
                format!(
                    "global\n nbthread 1\n maxconn {room}\n no strict-limits\n\
                     \x20tune.bufsize {buffer}\n\
                     defaults\n mode http\n timeout client 600s\n timeout server 600s\n\
                     \x20timeout connect 5s\n timeout http-request 600s\n timeout http-keep-alive 600s\n\
                     frontend pages\n bind {listen} backlog 65535\n\
                     \x20http-request return status 200 {body}\n"
                )
            }
        })
    }
}

/// `program` on one core.
pub(crate) fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// What servers read and write, in a directory of their own, which goes with this.
pub struct Files(PathBuf);

impl Files {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> io::Result<Files> {
        let dir = std::env::temp_dir().join(format!("throng-bench-{}", unique()));
        std::fs::create_dir_all(&dir)?;
        Ok(Files(dir))
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let file = self.0.join(name);
        std::fs::write(&file, text)?;
        Ok(file)
    }

    fn new_name(&self, kind: &str) -> PathBuf {
        self.0.join(format!("{}.{kind}", unique()))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_say_what_is_asked_for() {
        let files = Files::new().unwrap();
        let site = |size, shared| Site {
            listen: "127.0.0.1:9000".parse().unwrap(),
            size,
            room: 1_234,
            shared,
            core: None,
        };
        let nginx = Web::Nginx.config(&files, &site(6, true)).unwrap();
        for part in
            ["worker_connections 1234;", "127.0.0.1:9000 backlog=65535 reuseport;", "hello\n"]
        {
            assert!(nginx.contains(part), "{part} in {nginx}");
        }
        let long = Web::Nginx.config(&files, &site(LONGEST_TEXT + 1, false)).unwrap();
        assert!(long.contains(" root ") && !long.contains("reuseport"), "{long}");
        assert_eq!(std::fs::read(files.0.join("index.html")).unwrap().len(), LONGEST_TEXT + 1);
        let haproxy = Web::Haproxy.config(&files, &site(100_000, true)).unwrap();
        for part in ["maxconn 1234\n", "tune.bufsize 104096\n", "index.html\n"] {
            assert!(haproxy.contains(part), "{part} in {haproxy}");
        }
        let empty = Web::Haproxy.config(&files, &site(0, true)).unwrap();
        assert!(empty.ends_with("return status 200 \n"), "{empty}");
        assert_eq!(Web::by_name("haproxy"), Some(Web::Haproxy));
        assert_eq!(Web::by_name("tungstenite"), None);
        let dir = files.0.clone();
        drop(files);
        assert!(!dir.exists());
    }
}
