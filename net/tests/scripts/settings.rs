//! The settings of a script: its `--option` lines, and the `sysctl` commands it gives.

use std::net::IpAddr;
use std::time::Duration;

use throng_net::engine::{Config, CongestionControl, Ecn, Options};

use crate::script::Script;

#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    pub v6: bool,
    pub local: (IpAddr, IpAddr),
    pub remote: (IpAddr, IpAddr),
    /// The port that `bind(3, ..., ...)` means.
    pub bind_port: u16,
    /// The remote port that `connect(3, ..., ...)` means.
    pub connect_port: u16,
    /// How far from its time a packet may be, in microseconds.
    pub tolerance: i64,
    /// Whether it does not matter where PSH is set: Linux and the engine choose differently.
    pub any_push: bool,
    /// Options that a `sysctl` has turned off. The engine always offers them; they are taken out of
    /// SYNs on their way, which comes to the same.
    without: Without,
    /// How much real time a unit of a timestamp stands for, if timestamps are to be exact.
    pub tick: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Without {
    sack: bool,
    timestamps: bool,
    scale: bool,
}

impl Default for Settings {
    /// packetdrill's addresses and ports; the remote address is the first of its documentation
    /// prefix.
    fn default() -> Settings {
        let ip = |text: &str| text.parse().expect("an address");
        Settings {
            config: Config::default(),
            v6: false,
            local: (ip("192.168.0.1"), ip("fd3d:a0b:17d6::1")),
            remote: (ip("192.0.2.1"), ip("fd3d:fa7b:d17d::1")),
            bind_port: 8080,
            connect_port: 8080,
            tolerance: 4_000,
            any_push: false,
            without: Without::default(),
            tick: None,
        }
    }
}

type Told = Result<(), String>;

impl Settings {
    /// What the options at the head of `script` ask for.
    pub fn of(script: &Script) -> Result<Settings, crate::script::Wrong> {
        let mut settings = Settings::default();
        for (line, name, value) in &script.options {
            settings
                .option(name, value)
                .map_err(|what| crate::script::Wrong { line: *line, what })?;
        }
        Ok(settings)
    }

    fn option(&mut self, name: &str, value: &str) -> Told {
        match name {
            "ip_version" => match value {
                "ipv4" => self.v6 = false,
                "ipv6" => self.v6 = true,
                _ => return Err(format!("--ip_version={value}: ipv4 or ipv6")),
            },
            "local_ip" => set_ip(&mut self.local, read(name, value)?),
            "remote_ip" => set_ip(&mut self.remote, read(name, value)?),
            "bind_port" => self.bind_port = read(name, value)?,
            "connect_port" => self.connect_port = read(name, value)?,
            "mtu" => {
                let mtu: u16 = read(name, value)?;
                self.config.mss_v4 = mtu.saturating_sub(40);
                self.config.mss_v6 = mtu.saturating_sub(60);
            }
            "tolerance_usecs" => self.tolerance = read(name, value)?,
            "tcp_ts_tick_usecs" => {
                self.tick = Some(read::<i64>(name, value)?).filter(|tick| *tick > 0);
            }
            // How packetdrill drives a kernel, which there is none of.
            "send_omit_free" | "non_fatal" | "strict_segments" | "verbose" | "mss"
            | "gateway_ip" | "netmask_ip" | "init_scripts" => {}
            _ => return Err(format!("the option --{name} is not known here")),
        }
        Ok(())
    }

    /// What the command between backticks asks for. It gives back for how long it sleeps.
    pub fn command(&mut self, text: &str) -> Result<Duration, String> {
        let mut sleep = Duration::ZERO;
        let text = text.replace("\\\n", " ");
        for line in text.split(['\n', ';']).flat_map(|line| line.split("&&")) {
            // Comments, and where the output goes.
            let ends = ["#", " >", " 2>"].iter().filter_map(|end| line.find(end));
            let line = &line[..ends.min().unwrap_or(line.len())];
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [script] if script.ends_with("defaults.sh") => self.defaults(),
                // The end of packetdrill's own files, and how a kernel's device cuts segments.
                [script] if script.contains("sysctl_restore") => {}
                ["ethtool", "-K", ..] => {}
                [command, ..] if *command == "sysctl" || command.ends_with("set_sysctls.py") => {
                    self.sysctls(line.trim_start().trim_start_matches(command))?;
                }
                ["sleep", seconds] => {
                    let seconds: f64 = read("sleep", seconds)?;
                    sleep += Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
                }
                // There is no such memory of earlier connections.
                ["ip", "tcp_metrics", ..] => {}
                _ => return Err(format!("only sysctl and sleep are known here, not `{line}`")),
            }
        }
        Ok(sleep)
    }

    /// What packetdrill's own files have a shell script set, as far as there is a setting for it.
    fn defaults(&mut self) {
        let config = &mut self.config;
        (config.initial_recv_buffer, config.recv_buffer) = (540_000, 15_728_640);
        (config.initial_send_buffer, config.send_buffer) = (262_144, 4_194_304);
        config.syn_retries = 5;
        config.ecn = Ecn::Off;
        self.any_push = true;
    }

    /// `-q -w name=value name="a b c"`, or with `/proc/sys/` before the names.
    fn sysctls(&mut self, line: &str) -> Told {
        let line = multiplied(line)?;
        let mut rest = line.trim();
        while !rest.is_empty() {
            if rest.starts_with('-') {
                rest = rest.split_once(' ').map_or("", |(_, rest)| rest).trim();
                continue;
            }
            let Some((name, after)) = rest.split_once('=') else {
                return Err(format!("`{rest}` is not a setting"));
            };
            let (value, left) = match after.strip_prefix(['"', '\'']) {
                Some(quoted) => quoted.split_once(['"', '\'']).unwrap_or((quoted, "")),
                None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
            };
            self.sysctl(&name.trim().trim_start_matches("/proc/sys/").replace('/', "."), value)?;
            rest = left.trim();
        }
        Ok(())
    }

    fn sysctl(&mut self, name: &str, value: &str) -> Told {
        let config = &mut self.config;
        let seconds = || read(name, value).map(Duration::from_secs);
        // Least, first and most, in bytes.
        let sizes: Vec<&str> = value.split_whitespace().collect();
        let size = |which: usize| read(name, sizes.get(which).unwrap_or(&""));
        let Some(short) = name.strip_prefix("net.ipv4.") else {
            return Err(format!("{name} is not known here"));
        };
        match short {
            "tcp_rmem" => (config.initial_recv_buffer, config.recv_buffer) = (size(1)?, size(2)?),
            "tcp_wmem" => (config.initial_send_buffer, config.send_buffer) = (size(1)?, size(2)?),
            "tcp_ecn" => {
                config.ecn = match value {
                    "0" => Ecn::Off,
                    "1" => Ecn::On,
                    "2" => Ecn::Passive,
                    _ => return Err(format!("{name}={value}: 0, 1 or 2")),
                }
            }
            "tcp_syncookies" if value == "2" => config.max_half_open = 0,
            "tcp_syncookies" if value == "1" => {}
            "tcp_max_syn_backlog" => config.max_half_open = read(name, value)?,
            "tcp_max_tw_buckets" => config.max_time_wait = read(name, value)?,
            "tcp_fin_timeout" => config.fin_wait_2 = seconds()?,
            "tcp_syn_retries" => config.syn_retries = read(name, value)?,
            "tcp_synack_retries" => config.syn_ack_retries = read(name, value)?,
            "tcp_retries2" => config.data_retries = read(name, value)?,
            "tcp_orphan_retries" => config.orphan_retries = read(name, value)?,
            "tcp_mtu_probing" => config.black_hole_detection = value != "0",
            "tcp_invalid_ratelimit" => {
                config.challenge_interval = Duration::from_millis(read(name, value)?);
            }
            "tcp_congestion_control" => {
                config.congestion = match value {
                    "cubic" => CongestionControl::Cubic,
                    "reno" => CongestionControl::NewReno,
                    _ => return Err(format!("{name}={value}: cubic or reno")),
                }
            }
            "tcp_sack" => self.without.sack = value == "0",
            "tcp_timestamps" => self.without.timestamps = value == "0",
            "tcp_window_scaling" => self.without.scale = value == "0",
            // What the engine always does.
            "tcp_rfc1337" | "tcp_dsack" | "tcp_recovery" if value == "1" => {}
            "tcp_frto" if value == "2" => {}
            "tcp_reordering" if value == "3" => {}
            "tcp_early_retrans" if matches!(value, "3" | "4") => {}
            "tcp_fastopen" | "tcp_fack" | "tcp_shrink_window" if value == "0" => {}
            "tcp_notsent_lowat" if value == "4294967295" => {}
            // How a kernel packs segments, what it remembers of other connections, and a restart
            // after idle time that the engine always does.
            "tcp_slow_start_after_idle"
            | "tcp_min_tso_segs"
            | "tcp_tso_win_divisor"
            | "tcp_autocorking"
            | "tcp_limit_output_bytes"
            | "tcp_no_metrics_save" => {}
            _ => return Err(format!("{name}={value} is not known here")),
        }
        Ok(())
    }

    /// Takes out of a SYN what a `sysctl` has turned off.
    pub fn strip(&self, syn: &mut Options) {
        syn.sack_permitted &= !self.without.sack;
        syn.timestamps = syn.timestamps.filter(|_| !self.without.timestamps);
        syn.window_scale = syn.window_scale.filter(|_| !self.without.scale);
    }

    pub fn local(&self) -> IpAddr {
        if self.v6 { self.local.1 } else { self.local.0 }
    }

    pub fn remote(&self) -> IpAddr {
        if self.v6 { self.remote.1 } else { self.remote.0 }
    }
}

fn set_ip(pair: &mut (IpAddr, IpAddr), ip: IpAddr) {
    if ip.is_ipv4() {
        pair.0 = ip;
    } else {
        pair.1 = ip;
    }
}

/// Works out the products of a shell's arithmetic: `$((15*1024*1024))`.
fn multiplied(line: &str) -> Result<String, String> {
    let mut done = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("$((") {
        let (product, after) = after.split_once("))").ok_or("`))` is missing")?;
        let factors = product.split('*').map(|factor| read::<u64>("$(( ))", factor.trim()));
        done += before;
        done += &factors.collect::<Result<Vec<_>, _>>()?.iter().product::<u64>().to_string();
        rest = after;
    }
    Ok(done + rest)
}

fn read<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: `{value}` will not do"))
}
