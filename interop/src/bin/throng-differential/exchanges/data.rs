//! An open connection: data in and out, acknowledgements, windows, timers, and what is not
//! acceptable.

use std::time::Duration;

use throng::net::Keepalive;

use super::{Script, v4, v6};
use crate::draft::{Draft, opt, seg};
use crate::exchange::Exchange;
use crate::frame::Segment;
use crate::subject::Call;

pub(crate) const ALL: &[Script] = &[
    v4("data in order", in_order),
    v6("data in order, IPv6", in_order),
    v4("acknowledgements of ten segments", |x| {
        x.open();
        for _ in 0..10 {
            x.send_silently(seg("A").data(1_460));
        }
        let seen = x.swallow(300);
        x.note(if seen.len() < 10 { "fewer than one each" } else { "one each or more" });
        let all = seen.last().is_some_and(|last| last.ack == x.segment(&seg("A")).seq);
        x.note(format!("all acknowledged: {all}"));
    }),
    v4("a late acknowledgement", |x| {
        x.open();
        // Past the beginning, where Linux acknowledges everything at once.
        for _ in 0..40 {
            x.send_silently(seg("PA").data(100));
            x.swallow(5);
        }
        x.swallow(300);
        x.read();
        x.send(seg("PA").data(100));
        x.see_timed(1, 500);
    }),
    v4("out of order, with sack", |x| {
        x.open_sack();
        x.send(seg("PA").at(101).data(100));
        x.see_count(1);
        x.send(seg("PA").at(301).data(100));
        x.see_count(1);
        x.send(seg("PA").at(501).data(100));
        x.see_count(1);
        x.send(seg("PA").at(201).data(100));
        x.see_count(1);
        x.send(seg("PA").at(1).data(100));
        x.see_count(1);
        x.send(seg("PA").at(401).data(100));
        x.see_count(1);
        x.read();
    }),
    v4("out of order, without sack", |x| {
        x.open();
        x.send(seg("PA").at(101).data(100));
        x.see_count(1);
        x.send(seg("PA").at(1).data(100));
        x.see_count(1);
        x.read();
    }),
    v4("five holes", |x| {
        x.open_sack();
        for block in 0..5 {
            x.send(seg("PA").at(101 + 200 * block).data(100));
            x.see_count(1);
        }
        x.send(seg("PA").at(501).data(100));
        x.see_count(1);
    }),
    v4("five holes, with timestamps", |x| {
        x.open_full();
        for block in 0..5 {
            x.send(seg("PA").at(101 + 200 * block).data(100));
            x.see_count(1);
        }
    }),
    v4("a hole filled by more than was missing", |x| {
        x.open_sack();
        x.send(seg("PA").at(101).data(100));
        x.see_count(1);
        x.send(seg("PA").at(51).data(200));
        x.see_count(1);
        x.send(seg("PA").at(1).data(80));
        x.see_count(1);
        x.read();
    }),
    v4("the same data again", |x| {
        x.open_sack();
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.send(seg("PA").at(1).data(100));
        x.see_count(1);
        x.send(seg("PA").at(1).data(50));
        x.see_count(1);
    }),
    v4("the same data again, without sack", |x| {
        x.open();
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.send(seg("PA").at(1).data(100));
        x.see_count(1);
    }),
    v4("old and new data in one segment", |x| {
        x.open_sack();
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.send(seg("PA").at(51).data(100));
        x.see_count(1);
        x.read();
    }),
    v4("the same data out of order again", |x| {
        x.open_sack();
        x.send(seg("PA").at(101).data(100));
        x.see_count(1);
        x.send(seg("PA").at(101).data(100));
        x.see_count(1);
        x.send(seg("PA").at(151).data(100));
        x.see_count(1);
        x.send(seg("PA").at(301).data(100));
        x.see_count(1);
        x.send(seg("PA").at(131).data(20));
        x.see_count(1);
    }),
    v4("data beyond the window", |x| established(x, seg("PA").at(1_000_001).data(100))),
    v4("data before the window", |x| {
        established(x, seg("PA").at(1_000_000_u32.wrapping_neg()).data(100));
    }),
    v4("a pure ack beyond the window", |x| established(x, seg("A").at(1_000_001))),
    v4("a pure ack one before the window", |x| established(x, seg("A").at(0))),
    v4("two segments beyond the window", |x| {
        x.open();
        // Whether two that are sent at once come in one turn is chance.
        x.send(seg("PA").at(1_000_001).data(100));
        x.see_count(1);
        x.send(seg("PA").at(1_000_001).data(100));
        x.see();
    }),
    v4("an ack of what was not sent", |x| established(x, seg("A").ack(5_000))),
    v4("data with an ack of what was not sent", |x| established(x, seg("PA").ack(5_000).data(10))),
    v4("an ack older than the window", |x| {
        established(x, seg("A").ack(1_000_000_u32.wrapping_neg()));
    }),
    v4("data with a slightly old ack", |x| {
        x.open();
        x.write(100);
        x.see_count(1);
        x.send(seg("A"));
        x.send(seg("PA").ack(51).data(10));
        x.see();
        x.read();
    }),
    v4("data with a very old ack", |x| {
        established(x, seg("PA").ack(1_000_000_u32.wrapping_neg()).data(10));
    }),
    v4("data without an ack flag", |x| established(x, seg("P").at(1).data(10))),
    v4("no flags", |x| established(x, seg("").at(1).data(10))),
    v4("the exact rst", |x| established(x, seg("R"))),
    v4("the exact rst with an ack", |x| established(x, seg("RA"))),
    v4("the exact rst with a wrong ack", |x| established(x, seg("RA").ack(5_000))),
    v4("the exact rst with data", |x| established(x, seg("R").data(20))),
    v4("a rst within the window", |x| established(x, seg("R").at(101))),
    v4("a rst at the end of out-of-order data", |x| {
        x.open_sack();
        x.send(seg("PA").at(101).data(100));
        x.see_count(1);
        x.send(seg("R").at(201));
        x.see();
        x.read();
    }),
    v4("a rst beyond the window", |x| established(x, seg("R").at(1_000_000))),
    v4("a rst before the window", |x| established(x, seg("R").at(0))),
    v4("a syn at the next number", |x| established(x, seg("S").at(1).options(opt::MSS))),
    v4("a syn within the window", |x| established(x, seg("S").at(101).options(opt::MSS))),
    v4("a syn beyond the window", |x| established(x, seg("S").at(1_000_000).options(opt::MSS))),
    v4("the first syn again", |x| established(x, seg("S").at(0).options(opt::MSS))),
    v4("a syn-ack within the window", |x| established(x, seg("SA").at(101).options(opt::MSS))),
    v4("challenge acks are limited", |x| {
        x.open();
        for _ in 0..5 {
            x.send_silently(seg("S").at(101).options(opt::MSS));
        }
        let seen = x.swallow(150);
        x.note(format!("{} for 5 at once", seen.len()));
        x.swallow(600);
        x.send(seg("S").at(101).options(opt::MSS));
        x.see();
    }),
    v4("a wrong checksum", |x| established(x, seg("PA").at(1).data(10).bad_checksum())),
    v4("a header past the end", |x| established(x, seg("PA").at(1).data(10).offset(15))),
    v4("options cut off", |x| established(x, seg("PA").options([1, 1, 1, 8]).data(10))),
    v4("an unknown option", |x| established(x, seg("PA").options([254, 4, 1, 1]).data(10))),
    v4("a timestamp nobody agreed on", |x| {
        established(x, seg("PA").options(opt::timestamps(7, 0)).data(10));
    }),
    v4("an old timestamp", |x| {
        x.open_full();
        x.clock = Some(1_000);
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.send(seg("PA").at(101).clock(Some(500)).data(100));
        x.see();
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.read();
    }),
    v4("a pure ack with an old timestamp", |x| {
        x.open_full();
        x.clock = Some(1_000);
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.send(seg("A").clock(Some(500)));
        x.see();
    }),
    v4("a rst with an old timestamp", |x| {
        x.open_full();
        x.clock = Some(1_000);
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.send(seg("R").clock(Some(500)));
        x.see();
        x.read();
    }),
    v4("a rst without a timestamp", |x| {
        x.open_full();
        x.send(seg("R").clock(None));
        x.see();
        x.read();
    }),
    v4("data without a timestamp", |x| {
        x.open_full();
        x.send(seg("PA").clock(None).data(100));
        x.see();
        x.read();
    }),
    v4("which timestamp is echoed", |x| {
        x.show_echo = true;
        x.open_full();
        x.clock = Some(100);
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.clock = Some(200);
        x.send(seg("PA").at(201).data(100));
        x.see_count(1);
        x.clock = Some(300);
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.clock = Some(400);
        x.send(seg("PA").at(1).data(100));
        x.see_count(1);
    }),
    v4("urgent data", |x| {
        x.open();
        x.send(seg("PAU").urgent(10).data(20));
        x.see_count(1);
        x.read();
    }),
    v4("an urgent pointer past the data", |x| {
        x.open();
        x.send(seg("PAU").urgent(1_000).data(20));
        x.see_count(1);
        x.send(seg("PA").data(20));
        x.see_count(1);
        x.read();
    }),
    v4("an urgent pointer without the flag", |x| {
        x.open();
        x.send(seg("PA").urgent(10).data(20));
        x.see_count(1);
        x.read();
    }),
    v4("an answer carries the acknowledgement", |x| {
        x.open();
        x.send_silently(seg("PA").data(100));
        x.read();
        x.swallow(100);
        x.write(50);
        x.see_count(1);
    }),
    v4("the first flight", |x| {
        x.open();
        x.write(40_000);
        let seen = x.swallow(60);
        let new = new_bytes(&seen);
        x.note(format!("{new} bytes before an acknowledgement"));
    }),
    v4("slow start", |x| {
        x.open();
        x.write(60_000);
        let first = x.swallow(30);
        let edge = new_bytes(&first);
        x.ack = 1 + edge;
        x.send_silently(seg("A"));
        let next = x.swallow(150);
        x.note(format!("{} bytes, then {} more", edge, new_bytes(&next)));
    }),
    v4("nagle", |x| {
        x.open();
        x.write(10);
        x.see_count(1);
        x.write(10);
        x.write(10);
        x.see_for(100);
        x.send(seg("A"));
        x.see_count(1);
    }),
    v4("no nagle", |x| {
        x.open();
        x.call(Call::Nodelay);
        x.write(10);
        x.see_count(1);
        x.write(10);
        x.see_count(1);
    }),
    v4("data is sent again", |x| {
        x.open();
        x.write(100);
        x.see_count(1);
        x.see_timed(4, 6_000);
    }),
    v4("data is sent again, after a probe", |x| {
        x.open_sack();
        x.write(5 * 1_460);
        x.see_count(5);
        x.see_timed(3, 3_000);
    }),
    v4("three duplicate acks", |x| {
        x.open();
        x.write(10 * 1_460);
        let _ = x.swallow(20);
        x.ack = 1;
        for _ in 0..3 {
            x.send(seg("A"));
        }
        x.see_count(1);
    }),
    v4("two duplicate acks with new data to send", |x| {
        x.open();
        x.write(30 * 1_460);
        x.swallow(20);
        x.ack = 1;
        x.send_silently(seg("A"));
        x.send_silently(seg("A"));
        let more = new_bytes(&x.swallow(30));
        x.note(format!("{} segments more", more / 1_460));
    }),
    v4("three segments selectively acknowledged", |x| {
        x.open_sack();
        x.write(10 * 1_460);
        let _ = x.swallow(20);
        x.ack = 1;
        let block = x.sack(&[(1 + 1_460, 1 + 4 * 1_460)]);
        x.send(seg("A").options(block));
        x.see_count(1);
    }),
    v4("two holes selectively told", |x| {
        x.open_sack();
        x.write(10 * 1_460);
        let _ = x.swallow(20);
        x.ack = 1;
        let m = |n: u32| 1 + n * 1_460;
        let blocks = x.sack(&[(m(6), m(10)), (m(1), m(4))]);
        x.send(seg("A").options(blocks));
        x.see_count(3);
    }),
    v4("a sack block of what was not sent", |x| {
        x.open_sack();
        x.write(3 * 1_460);
        let _ = x.swallow(20);
        x.ack = 1;
        let block = x.sack(&[(100_001, 200_001)]);
        x.send(seg("A").options(block));
        x.see_timed(1, 400);
    }),
    v4("the window is shut", |x| {
        x.window = 0;
        x.open();
        x.write(100);
        x.see_timed(4, 6_000);
        x.send(seg("A").window(5_000));
        x.see_count(1);
    }),
    v4("the window is shut after data", |x| {
        x.open();
        x.write(100);
        x.see_count(1);
        x.send(seg("A").window(0));
        // So that it has come before the program writes.
        x.see();
        x.write(100);
        x.see_timed(1, 1_000);
        x.send(seg("A").window(50));
        x.see_timed(1, 1_000);
    }),
    v4("the window shrinks", |x| {
        x.window = 3_000;
        x.open();
        x.write(6_000);
        x.swallow(20);
        x.ack = 1_461;
        x.send(seg("A").window(500));
        x.see_timed(1, 1_500);
    }),
    v4("a small window", |x| {
        x.window = 500;
        x.open();
        x.write(2_000);
        x.see_timed(1, 1_500);
        x.send(seg("A").window(500));
        x.see_timed(1, 1_500);
    }),
    v4("a scaled window", |x| {
        x.window = 20;
        x.open_with([opt::MSS, opt::SCALE].concat());
        x.write(10_000);
        let seen = x.swallow(100);
        x.note(format!("{} bytes into a window of 20 << 7", new_bytes(&seen)));
    }),
    v4("our window shuts and opens", our_window),
    v4("keepalive", |x| {
        x.open();
        let second = Duration::from_secs(1);
        x.call(Call::Keepalive(Keepalive { idle: second, interval: second, count: 3 }));
        x.see_timed(1, 2_500);
        x.send(seg("A"));
        x.see_timed(4, 6_000);
        x.read();
    }),
    v4("an answer to a keepalive of ours", |x| {
        x.open();
        x.send(seg("A").at(0));
        x.see();
        x.send(seg("A").at(0).data(1));
        x.see();
    }),
    v4("user timeout", |x| {
        x.open();
        x.call(Call::UserTimeout(Duration::from_millis(1_200)));
        x.write(10);
        x.swallow(3_000);
        x.read();
        x.send(seg("A"));
        x.see();
    }),
    v4("fragmentation needed", |x| {
        x.open();
        x.write(3_000);
        x.see_count(1);
        x.icmp(3, 4, 1_000);
        x.swallow(150);
        let longest = x.seen.iter().skip(4).map(|segment| segment.payload.len()).max();
        x.note(format!("longest segment afterwards {longest:?}"));
    }),
    v6("packet too big, IPv6", |x| {
        x.open_with(opt::mss(1_440));
        x.write(2_880);
        x.see_count(1);
        x.icmp(2, 0, 1_300);
        let seen = x.swallow(150);
        let longest = seen.iter().skip(1).map(|segment| segment.payload.len()).max();
        x.note(format!("longest segment afterwards {longest:?}"));
    }),
    v4("host unreachable while data is out", |x| {
        x.open();
        x.write(100);
        x.see_count(1);
        x.icmp(3, 1, 0);
        x.see();
        x.send(seg("A"));
        x.send(seg("PA").data(10));
        x.see_count(1);
        x.read();
    }),
    v4("port unreachable while data is out", |x| {
        x.open();
        x.write(100);
        x.see_count(1);
        x.icmp(3, 3, 0);
        x.see();
        x.send(seg("A"));
        x.send(seg("PA").data(10));
        x.see_count(1);
        x.read();
    }),
    v4("a congestion mark is echoed", |x| {
        x.listen();
        x.send_silently(seg("SEC").options(opt::MSS));
        x.see_count(1);
        x.send_silently(seg("A"));
        x.accept();
        x.send(seg("PA").ecn(3).data(100));
        x.see_count(1);
        x.send(seg("PA").ecn(2).data(100));
        x.see_count(1);
        x.send(seg("PAC").ecn(2).data(100));
        x.see_count(1);
        x.write(100);
        x.see_count(1);
    }),
];

fn in_order(x: &mut Exchange) {
    x.open();
    x.send(seg("PA").data(100));
    x.see_timed(1, 400);
    x.read();
    x.write(200);
    x.see_count(1);
    x.send(seg("A"));
    x.see();
}

/// Nobody reads until there is no more room.
fn our_window(x: &mut Exchange) {
    x.open_with([opt::MSS, opt::SCALE].concat());
    let mut shut = false;
    for _ in 0..2_000 {
        let room = x.room().min(1_460) as usize;
        let mut seen = Vec::new();
        if room > 0 {
            x.send_silently(seg("A").data(room));
            seen = x.swallow(1);
        }
        // At the edge the acknowledgement may be a late one.
        if x.room() == 0 {
            seen = x.swallow(100);
        }
        shut = seen.last().is_some_and(|segment| segment.window == 0);
        // Silence at the edge: a busy machine has lost a frame, and all is played once more.
        if shut || room == 0 && seen.is_empty() {
            break;
        }
    }
    x.note(format!("shut: {shut}"));
    x.send_silently(seg("A").at(x.seq).data(1));
    let seen = x.swallow(150);
    let answered = seen.len() == 1 && seen[0].window == 0;
    x.note(format!("a probe is answered with a shut window: {answered}"));
    x.call_silently(Call::Read(Duration::from_millis(100)));
    let seen = x.swallow(300);
    x.note(format!("it opens: {}", seen.iter().any(|segment| segment.window > 0)));
}

/// On an open connection with little past: one segment, and whether all goes on.
fn established(x: &mut Exchange, draft: Draft) {
    x.open();
    x.send(draft);
    x.see();
    x.read();
    let next = x.seq;
    x.send(seg("PA").at(next).data(10));
    x.see();
    x.read();
}

/// How many bytes of sequence space these segments are, from the first's to the last.
fn new_bytes(seen: &[Segment]) -> u32 {
    let data: Vec<&Segment> = seen.iter().filter(|segment| !segment.payload.is_empty()).collect();
    let Some(first) = data.first() else { return 0 };
    let end = |segment: &&Segment| segment.seq.wrapping_sub(first.seq) + segment.span();
    data.iter().map(end).max().unwrap_or(0)
}
