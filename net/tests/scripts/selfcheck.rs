//! That the runner fails what has to fail: scripts that are malformed or wrong, each with the line
//! and the words that it is to be told.

use libtest_mimic::Trial;

use crate::judge_text;

/// What opens a connection in five lines.
const OPEN: &str = "\
0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n\
+0 bind(3, ..., ...) = 0\n\
+0 listen(3, 1) = 0\n\
+0 < S 0:0(0) win 32792 <mss 1000>\n\
+0 > S. 0:0(0) ack 1 <mss 1460>\n\
+.1 < . 1:1(0) ack 1 win 1000\n\
+0 accept(3, ..., ...) = 4\n";

/// Name, what follows the opening (or, from line 1 on, the whole script), line, words.
const WRONG: [(&str, bool, &str, usize, &str); 25] = [
    ("no time", false, "socket() = 3", 1, "expected a time"),
    ("comment without end", false, "\n/* never", 2, "without an end"),
    ("lengths", false, "0 < S 0:5(4) win 1", 1, "not 4 bytes"),
    ("option", false, "0 < S 0:0(0) win 1 <md5 12>", 1, "`md5` is not known"),
    ("flags", false, "0 < X 0:0(0) win 1", 1, "TCP flags"),
    ("no window", false, "0 < S 0:0(0)", 1, "needs its window"),
    ("command", false, "`rm -r /tmp/x`", 1, "only sysctl"),
    ("sysctl", false, "`sysctl net.ipv4.tcp_frto=1`", 1, "not known here"),
    ("arithmetic", false, "`sysctl net.ipv4.tcp_rmem=\"1 2 $((3+4))\"`", 1, "`3+4` will not do"),
    ("late setting", true, "+0 `sysctl net.ipv4.tcp_timestamps=0`", 8, "before the first"),
    (
        "control message",
        true,
        "+0 recvmsg(4, {msg_iov(1)=[{..., 9}], msg_control=[{a=1}]}, 0) = 9",
        8,
        "msg_control",
    ),
    ("script option", false, "--speed=5", 1, "--speed"),
    ("call", false, "0 fork() = 1", 1, "no argument 1"),
    ("back in time", true, "0.05 close(4) = 0", 8, "before the event above"),
    ("no packet", true, "+0 > . 1:1(0) ack 2", 8, "no packet is sent"),
    ("flags differ", true, "+0 write(4, ..., 10) = 10\n+0 > . 1:11(10) ack 1", 9, "(flags)"),
    ("length differs", true, "+0 write(4, ..., 10) = 10\n+0 > P. 1:12(11) ack 1", 9, "(length)"),
    ("time differs", true, "+0 write(4, ..., 10) = 10\n+1 > P. 1:11(10) ack 1", 9, "(time)"),
    (
        "options differ",
        true,
        "+0 write(4, ..., 9) = 9\n+0 > P. 1:10(9) ack 1 <mss 9>",
        9,
        "(options)",
    ),
    (
        "unexpected",
        true,
        "+0 write(4, ..., 10) = 10\n+.1 read(4, ..., 1) = 0",
        9,
        "does not expect",
    ),
    ("result", true, "+0 write(4, ..., 10) = 9", 8, "returns 10, expected 9"),
    ("errno", true, "+0 shutdown(3, SHUT_WR) = -1 EPIPE (Broken pipe)", 8, "-1 ENOTCONN, expected"),
    ("would wait", true, "+0 read(4, ..., 10) = 10", 8, "would wait"),
    ("assertion", true, "+0 %{ assert tcpi_state == TCP_CLOSE }%", 8, "where tcpi_state is 1"),
    ("no such member", true, "+0 %{ assert tcpi_mood > 1 }%", 8, "does not tell tcpi_mood"),
];

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, open, text, line, words) in WRONG {
        let text = if open { format!("{OPEN}{text}") } else { text.into() };
        all.push(Trial::test(format!("selfcheck {name}"), move || match judge_text(&text) {
            Err(wrong) if wrong.line == line && wrong.what.contains(words) => Ok(()),
            Err(wrong) => Err(format!("line {}: {}", wrong.line, wrong.what).into()),
            Ok(()) => Err("it passes".into()),
        }));
    }
    all
}
