//! Captures on the kernel's side of the link, and what tshark says about them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::checks;
use super::counters::Counters;
use super::expert::{self, Side};
use super::inside::Run;
use super::link::Link;
use crate::process::{Background, Cmd};

/// Bytes kept of each frame: all headers with all options, and a little payload.
const SNAP: &str = "192";

/// Warnings that the other side causes: who sent the frame they stand at, how they begin, how
/// many may be in one capture, why. Everything else of severity warning or error fails the
/// run. `docs/TESTING.md` gives the reasons at length.
const TOLERATED: &[(Side, &str, u64, &str)] = &[
    (Side::Kernel, RESET, u64::MAX, "a client that ends with answers under way"),
    (Side::Server, LATE_RESET, u64::MAX, "to a segment that another queue had held up"),
    (Side::Kernel, WINDOW_FULL, u64::MAX, "its load"),
    (Side::Server, WINDOW_FULL, u64::MAX, "its window"),
    (Side::Kernel, ZERO_WINDOW, u64::MAX, "a client that reads slower than we send"),
    (Side::Server, ZERO_WINDOW, u64::MAX, "a client that sends faster than a digest is made"),
];

const WINDOW_FULL: &str = "TCP window specified by the receiver is now completely full";
const ZERO_WINDOW: &str = "TCP Zero Window segment";
const RESET: &str = "Connection reset (RST)";
/// What we make of [`RESET`] where it answers a segment that came after both sides had closed.
const LATE_RESET: &str = "Late connection reset (RST)";

/// A capture under way.
pub(crate) struct Capture {
    dumpcap: Background,
    /// When it began.
    before: Losses,
    file: PathBuf,
    log: PathBuf,
}

impl Capture {
    /// Captures on the kernel's interface into `name.pcapng`, at most `packets` if given.
    pub(crate) fn start(
        run: &Run,
        link: &Link,
        name: &str,
        packets: Option<u32>,
    ) -> Result<Capture, String> {
        let before = Losses::so_far(link)?;
        let file = run.logs.join(format!("{name}.pcapng"));
        let log = run.logs.join(format!("{name}-dumpcap.log"));
        let mut command = Cmd::new("dumpcap")
            .args(["-q", "-i", link.interface, "-s", SNAP, "-B", "256", "-w"])
            .arg(&file)
            .log(&log);
        if let Some(packets) = packets {
            command = command.arg("-c").arg(packets.to_string());
        }
        let mut dumpcap = command.background().map_err(|error| format!("dumpcap: {error}"))?;
        let start = Instant::now();
        // It says "File:" once the socket is open.
        while !std::fs::read_to_string(&log).unwrap_or_default().contains("File:") {
            if !dumpcap.alive() || start.elapsed() > Duration::from_secs(10) {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("dumpcap did not start: {said}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Capture { dumpcap, before, file, log })
    }

    /// Ends the capture and reads it with tshark. An error says what was not tolerated.
    pub(crate) fn judge(self, link: &Link) -> Result<String, String> {
        let Capture { mut dumpcap, before, file, log } = self;
        let (file, log) = (&file, &log);
        if dumpcap.alive() {
            // What is in flight gets into the file.
            thread::sleep(Duration::from_millis(500));
        }
        dumpcap
            .stop(Signal::SIGINT, Duration::from_secs(20))
            .map_err(|error| format!("dumpcap: {error}"))?;
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let dropped = dropped(&said).ok_or(format!("dumpcap said no counts: {said}"))?;
        let losses = Losses { capture: dropped, ..Losses::so_far(link)?.since(before) };

        let packets = captured(&said);
        if packets == 0 {
            return Err(format!("nothing was captured, so nothing was judged: {said}"));
        }
        let output = tshark(file)?;
        // The expert table follows the fields of single frames.
        let table = ["Errors (", "Warns (", "Notes (", "Chats ("]
            .iter()
            .filter_map(|title| output.find(&format!("\n{title}")))
            .min()
            .unwrap_or(output.len());
        let (items, summary) = output.split_at(table);
        let _ = std::fs::write(file.with_extension("expert.txt"), summary);
        let mut counted = expert::count(items);
        if let Some(resets) = counted.remove(&(Side::Server, RESET.to_owned())) {
            let late = late_resets(file)?;
            if late < resets.0 {
                let rest = (resets.0 - late, resets.1.clone());
                counted.insert((Side::Server, RESET.to_owned()), rest);
            }
            if late > 0 {
                counted.insert((Side::Server, LATE_RESET.to_owned()), (late, resets.1));
            }
        }
        let mut lines = Vec::new();
        let mut bad = Vec::new();
        for ((side, message), (count, first)) in &counted {
            let why = tolerated(*side, message, *count, losses);
            let line = format!("{count} x {side:?}: {message} (first in frame {first})");
            match why {
                Some(why) => lines.push(format!("{line}: tolerated, {why}")),
                None => bad.push(line),
            }
        }
        let _ = std::fs::write(
            file.with_extension("judgement.txt"),
            format!(
                "{losses:?}\n\nnot tolerated:\n{}\n\ntolerated:\n{}\n",
                bad.join("\n"),
                lines.join("\n")
            ),
        );
        if !bad.is_empty() {
            return Err(format!("{}\n{losses:?}\ncapture: {}", bad.join("\n"), file.display()));
        }
        // Good captures are large and say nothing more.
        if std::env::var_os("THRONG_KEEP_CAPTURES").is_none() {
            let _ = std::fs::remove_file(file);
        }
        Ok(format!(
            "{packets} packets, {dropped} lost by the capture, {} by the kernel, {} kinds of \
             warnings by the peer",
            losses.ours + losses.theirs,
            lines.len()
        ))
    }
}

/// What tshark prints about the capture: frames with an item of severity warning or error,
/// then the table of `-z expert`.
fn tshark(file: &Path) -> Result<String, String> {
    let done = reading(file)
        // Only the start of each frame was kept: TCP is judged, not what it carries.
        .args(["-d", "tcp.port==80,data", "-d", "tcp.port==9001,data"])
        .args(["-d", "tcp.port==7,data", "-d", "udp.port==7,data"])
        .args(["-o", "tcp.desegment_tcp_streams:FALSE"])
        .args(["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"])
        .args(["-z", "expert", "-Y", "_ws.expert.severity >= 0x600000", "-T", "fields"])
        .args(["-E", "separator=|", "-E", "aggregator=;"])
        .args(expert::FIELDS.iter().flat_map(|field| ["-e", field]))
        .stdout_only()
        .limit(Duration::from_secs(150))
        .run()
        .map_err(|error| format!("tshark: {error}"))?;
    if done.ok() { Ok(done.output) } else { Err(format!("tshark: {}", done.how())) }
}

/// tshark on a capture, with preferences of nobody's.
fn reading(file: &Path) -> Cmd {
    Cmd::new("tshark")
        .env("WIRESHARK_CONFIG_DIR", file.with_extension("preferences"))
        .arg("-n")
        .arg("-r")
        .arg(file)
}

/// How many resets of ours answer a segment of a connection that was over: closed by both sides,
/// or reset by the kernel (RFC 9293 3.10.7.1: no ACK, its sequence number is the segment's
/// acknowledgement). When the kernel moves a flow to another queue, a segment of the old queue
/// can come that late.
fn late_resets(file: &Path) -> Result<u64, String> {
    let fields =
        ["tcp.stream", "ip.src", "ipv6.src", "tcp.flags.fin", "tcp.flags.reset", "tcp.flags.ack"];
    let done = reading(file)
        .args(["-Y", "tcp.flags.fin == 1 || tcp.flags.reset == 1", "-T", "fields"])
        .args(["-E", "separator=|"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .stdout_only()
        .limit(Duration::from_secs(150))
        .run()
        .map_err(|error| format!("tshark: {error}"))?;
    if !done.ok() {
        return Err(format!("tshark: {}", done.how()));
    }
    Ok(count_late(&done.output))
}

/// Of [`late_resets`]' frames; the kernel's own reset ends a connection, too.
fn count_late(frames: &str) -> u64 {
    let mut ended = BTreeSet::new();
    let mut late = 0;
    for line in frames.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [stream, v4, v6, fin, reset, ack] = fields[..] else { continue };
        let side = Side::of(v4, v6);
        let over = [Side::Kernel, Side::Server].iter().all(|side| ended.contains(&(stream, *side)));
        if reset == "1" && ack == "0" && side == Side::Server && over {
            late += 1;
        }
        if fin == "1" {
            ended.insert((stream, side));
        }
        if reset == "1" && side == Side::Kernel {
            ended.extend([(stream, Side::Kernel), (stream, Side::Server)]);
        }
    }
    late
}

/// `Packets received/dropped on interface 'x': 123/0 (...)`: the second number.
fn dropped(said: &str) -> Option<u64> {
    let (_, after) = said.rsplit_once("received/dropped on interface")?;
    let (_, counts) = after.split_once(": ")?;
    counts.split(['/', ' ']).nth(1)?.parse().ok()
}

/// `Packets captured: 123`.
fn captured(said: &str) -> u64 {
    said.rsplit_once("Packets captured: ")
        .and_then(|(_, after)| after.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// What was lost on the way, and what was sent again. How much may be sent again is bounded
/// for the whole run: [`checks::retransmissions`].
#[derive(Clone, Copy, Debug)]
struct Losses {
    /// By the capture: the receiver had them.
    capture: u64,
    /// Frames of ours, by the kernel, before the capture and the receiver: [`Link::lost`].
    ours: u64,
    /// Frames of the kernel's, after the capture: [`Link::overrun`].
    theirs: u64,
    /// Segments that we sent again.
    we_again: u64,
    /// Segments that the kernel sent again.
    kernel_again: u64,
}

impl Losses {
    fn so_far(link: &Link) -> Result<Losses, String> {
        let kernel_again = checks::kernel_counters().get("Tcp.RetransSegs").copied();
        let kernel_again = kernel_again.ok_or("/proc/net/snmp has no Tcp.RetransSegs")?;
        let counters = Counters::read()?;
        let (ours, theirs) = (link.lost(&counters)?, link.overrun()?);
        Ok(Losses { capture: 0, ours, theirs, we_again: counters.sent_again()?, kernel_again })
    }

    fn since(self, before: Losses) -> Losses {
        Losses {
            capture: self.capture,
            // Frames that were on their way at the beginning have arrived.
            ours: self.ours.saturating_sub(before.ours),
            theirs: self.theirs - before.theirs,
            we_again: self.we_again - before.we_again,
            kernel_again: self.kernel_again - before.kernel_again,
        }
    }
}

/// Why so many of this item are tolerated, if they are.
fn tolerated(side: Side, message: &str, count: u64, losses: Losses) -> Option<&'static str> {
    let gap = message.contains("not captured") || message.contains("wasn't captured");
    if gap && losses.capture > 0 {
        return Some("the capture itself lost packets");
    }
    if side == Side::Server && gap && count <= losses.ours {
        return Some("the kernel lost frames, which were sent again");
    }
    let (again, by_other) = match side {
        Side::Server => (losses.we_again, losses.kernel_again),
        Side::Kernel => (losses.kernel_again, losses.we_again),
    };
    if message.contains("out-of-order") && count <= again {
        return Some("it was sent again");
    }
    // RFC 2883: a receiver owes the report. Where frames are missing, parts of one cut segment
    // may look like reports of their own.
    if message.starts_with(expert::TWICE) && count <= by_other + losses.capture {
        return Some("the other side sent it twice");
    }
    TOLERATED
        .iter()
        .find(|(by, start, most, _)| *by == side && message.starts_with(start) && count <= *most)
        .map(|(.., why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSSES: Losses = Losses { capture: 0, ours: 0, theirs: 0, we_again: 3, kernel_again: 2 };

    #[test]
    fn nobody_reports_more_than_was_sent_twice() {
        let reported = |side, count| tolerated(side, "D-SACK Sequence", count, LOSSES).is_some();
        assert!(reported(Side::Kernel, 3) && !reported(Side::Kernel, 4));
        assert!(reported(Side::Server, 2) && !reported(Side::Server, 3));
    }

    #[test]
    fn a_late_reset_answers_what_was_over() {
        // Stream, addresses, then FIN, RST and ACK.
        let (kernel, server) = ("10.77.0.1|", "10.77.0.2|");
        let (fin, reset, bare) = ("1|0|1", "0|1|1", "0|1|0");
        let late = |frames: &[(u32, &str, &str)]| {
            let line =
                |(stream, from, flags): &(u32, &str, &str)| format!("{stream}|{from}|{flags}");
            count_late(&frames.iter().map(line).collect::<Vec<_>>().join("\n"))
        };
        let closed = [(1, kernel, fin), (1, server, fin)];
        assert_eq!(late(&[closed[0], closed[1], (1, server, bare), (1, server, bare)]), 2);
        assert_eq!(late(&[(1, kernel, bare), (1, server, bare)]), 1);
        // The server's end alone is none, nor the kernel's, nor another connection's, nor a reset
        // that the server sends of its own accord.
        assert_eq!(late(&[closed[1], (1, server, bare)]), 0);
        assert_eq!(late(&[closed[0], (1, server, bare)]), 0);
        assert_eq!(late(&[(1, server, bare), (1, server, bare)]), 0);
        assert_eq!(late(&[(2, kernel, bare), (1, server, bare)]), 0);
        assert_eq!(late(&[closed[0], closed[1], (1, server, reset)]), 0);
    }
}
