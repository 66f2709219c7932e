//! Opening, passive and active.

use super::{Script, v4, v6};
use crate::draft::{opt, seg};
use crate::exchange::Exchange;

pub(crate) const ALL: &[Script] = &[
    v4("syn with mss alone", |x| passive(x, opt::MSS.to_vec())),
    v4("syn without options", |x| passive(x, vec![])),
    v4("syn with sack", |x| passive(x, [opt::MSS, opt::SACK].concat())),
    v4("syn with scale", |x| passive(x, [opt::MSS, opt::SCALE].concat())),
    v4("syn with timestamps", |x| {
        (x.clock, x.show_echo) = (Some(1), true);
        passive(x, opt::MSS.to_vec());
    }),
    v4("syn with everything", |x| {
        x.clock = Some(1);
        passive(x, [opt::MSS, opt::SACK, opt::SCALE].concat());
    }),
    v6("syn with everything, IPv6", |x| {
        x.clock = Some(1);
        passive(x, [vec![2, 4, 0x05, 0xa0], opt::SACK.to_vec(), opt::SCALE.to_vec()].concat());
    }),
    v4("syn with an unknown option", |x| {
        passive(x, [&[254, 4, 1, 2][..], &opt::MSS, &opt::SACK].concat());
    }),
    v4("syn with an option of length 0", |x| {
        passive(x, [&opt::MSS[..], &[254, 0, 1, 1], &opt::SACK].concat());
    }),
    v4("syn with an option of length 1", |x| {
        passive(x, [&opt::MSS[..], &[254, 1, 1, 1], &opt::SACK].concat());
    }),
    v4("syn with an option past its end", |x| {
        passive(x, [&opt::SACK[..], &[254, 40, 1, 1]].concat());
    }),
    v4("syn with an mss option of a wrong length", |x| {
        passive(x, [&[2, 3, 5, 1][..], &opt::SACK].concat());
    }),
    v4("syn with the scale 15", |x| passive(x, [&opt::MSS[..], &[1, 3, 3, 15]].concat())),
    v4("syn with two mss options", |x| passive(x, [opt::mss(1_000), opt::mss(500)].concat())),
    v4("syn with a fast-open request", |x| passive(x, [&opt::MSS[..], &[34, 2, 1, 1]].concat())),
    v4("syn that asks for ecn", |x| {
        x.listen();
        x.send(seg("SEC").options(opt::MSS));
        x.see_count(1);
    }),
    v4("syn with data", syn_with_data),
    v4("syn with fin", |x| to_listener(x, "SF")),
    v4("syn with rst", |x| to_listener(x, "SR")),
    v4("syn with psh and urg", |x| to_listener(x, "SPU")),
    v4("syn-ack to a listener", |x| to_listener(x, "SA")),
    v4("ack to a listener", |x| to_listener(x, "A")),
    v4("fin to a listener", |x| to_listener(x, "F")),
    v4("fin-ack to a listener", |x| to_listener(x, "FA")),
    v4("rst to a listener", |x| to_listener(x, "R")),
    v4("no flags to a listener", |x| to_listener(x, "")),
    v4("syn to a closed port", |x| to_nobody(x, "S", 0)),
    v4("syn with data to a closed port", |x| to_nobody(x, "S", 10)),
    v4("ack to a closed port", |x| to_nobody(x, "A", 0)),
    v4("data to a closed port", |x| to_nobody(x, "PA", 20)),
    v4("fin to a closed port", |x| to_nobody(x, "F", 0)),
    v4("rst to a closed port", |x| to_nobody(x, "R", 0)),
    v4("syn-ack to a closed port", |x| to_nobody(x, "SA", 0)),
    v4("no flags to a closed port", |x| to_nobody(x, "", 5)),
    v6("syn to a closed port, IPv6", |x| to_nobody(x, "S", 0)),
    v4("syn with a wrong checksum", |x| {
        x.listen();
        x.send(seg("S").options(opt::MSS).bad_checksum());
        x.see();
    }),
    v4("syn with a ttl of 1", |x| {
        x.listen();
        x.send(seg("S").options(opt::MSS).ttl(1));
        x.see_count(1);
    }),
    v4("syn with a header too short", |x| {
        x.listen();
        x.send(seg("S").options(opt::MSS).offset(4));
        x.see();
    }),
    v4("syn with a header past its end", |x| {
        x.listen();
        x.send(seg("S").options(opt::MSS).offset(15));
        x.see();
    }),
    v4("syn-ack is sent again", |x| {
        x.listen();
        x.send(seg("S").options(opt::MSS));
        x.see_timed(4, 8_500);
    }),
    v4("the syn again before the ack", |x| {
        half_open(x);
        x.send(seg("S").at(0).options(opt::MSS));
        x.see();
    }),
    v4("another syn before the ack", |x| {
        half_open(x);
        x.send(seg("S").at(5_000).options(opt::MSS));
        x.see();
    }),
    v4("an older syn before the ack", |x| {
        half_open(x);
        x.send(seg("S").at(5_000_u32.wrapping_neg()).options(opt::MSS));
        x.see();
    }),
    v4("a wrong ack of the syn-ack", |x| {
        half_open(x);
        x.send(seg("A").ack(5_000));
        x.see();
        x.send(seg("A").ack(0));
        x.see();
        x.send(seg("A").ack(1));
        x.accept();
    }),
    v4("the exact rst before the ack", |x| {
        half_open(x);
        x.send(seg("R"));
        x.see();
        x.send(seg("A"));
        x.see();
        x.accept();
    }),
    v4("a rst within the window before the ack", |x| {
        half_open(x);
        x.send(seg("R").at(100));
        x.see();
        x.send(seg("A"));
        x.see();
        x.accept();
    }),
    v4("a rst outside the window before the ack", |x| {
        half_open(x);
        x.send(seg("R").at(1_000_000));
        x.see();
        x.send(seg("A"));
        x.accept();
    }),
    v4("data with the ack", |x| {
        half_open(x);
        x.send(seg("PA").data(100));
        x.see();
        x.accept();
        x.read();
    }),
    v4("data before the ack", |x| {
        half_open(x);
        x.send(seg("PA").at(101).data(100));
        x.see();
        x.accept();
        x.send(seg("PA").at(1).data(100));
        x.see();
        x.accept();
        x.read();
    }),
    v4("fin with the ack", |x| {
        half_open(x);
        x.send(seg("FA"));
        x.see();
        x.accept();
        x.read();
    }),
    v4("no ack flag on the third segment", |x| {
        half_open(x);
        x.send(seg("P").at(1).data(10));
        x.see();
        x.accept();
    }),
    v4("connect", |x| active(x, "SA", opt::MSS.to_vec())),
    v6("connect, IPv6", |x| active(x, "SA", opt::MSS.to_vec())),
    v4("connect with everything", |x| {
        x.clock = Some(1);
        active(x, "SA", [opt::MSS, opt::SACK, opt::SCALE].concat());
    }),
    v4("connect, answered with data", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("SA").options(opt::MSS).data(50));
        x.see();
        x.finish(&name, &told);
        x.read();
    }),
    v4("connect is refused", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("RA").at(0));
        x.finish(&name, &told);
        x.see();
    }),
    v6("connect is refused, IPv6", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("RA").at(0));
        x.finish(&name, &told);
        x.see();
    }),
    v4("connect, a rst that acknowledges another", |x| in_syn_sent(x, "RA", Some(77))),
    v4("connect, a rst without an ack", |x| in_syn_sent(x, "R", None)),
    v4("connect, a syn-ack that acknowledges another", |x| in_syn_sent(x, "SA", Some(77))),
    v4("connect, a syn-ack that acknowledges nothing", |x| in_syn_sent(x, "SA", Some(0))),
    v4("connect, an ack alone", |x| in_syn_sent(x, "A", Some(1))),
    v4("connect, an ack of another", |x| in_syn_sent(x, "A", Some(77))),
    v4("connect, a fin alone", |x| in_syn_sent(x, "F", None)),
    v4("connect, data alone", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("PA").at(0).data(10));
        x.see();
        x.send(seg("SA").options(opt::MSS));
        x.see_count(1);
        x.finish(&name, &told);
    }),
    v4("connect, the syn-ack twice", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("SA").options(opt::MSS));
        x.see_count(1);
        x.finish(&name, &told);
        x.send(seg("SA").at(0).options(opt::MSS));
        x.see();
    }),
    v4("simultaneous open", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("S").options(opt::MSS));
        x.see();
        x.send(seg("SA").at(0).options(opt::MSS));
        x.see();
        x.finish(&name, &told);
        x.send(seg("PA").data(10));
        x.see();
        x.read();
    }),
    v4("simultaneous open, ended with an ack", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("S").options(opt::MSS));
        x.see();
        x.send(seg("A"));
        x.see();
        x.finish(&name, &told);
    }),
    v4("simultaneous open, ended with a rst", |x| {
        let (name, told) = x.connect();
        x.see_count(1);
        x.send(seg("S").options(opt::MSS));
        x.see();
        x.send(seg("RA"));
        x.see();
        x.finish(&name, &told);
    }),
    v4("the syn is sent again", |x| {
        let _connecting = x.connect();
        x.see_count(1);
        x.see_timed(2, 4_500);
    }),
    v4("connect, host unreachable", |x| connect_icmp(x, 3, 1)),
    v4("connect, port unreachable", |x| connect_icmp(x, 3, 3)),
    v4("connect, network unreachable", |x| connect_icmp(x, 3, 0)),
    v4("connect, protocol unreachable", |x| connect_icmp(x, 3, 2)),
    v4("connect, forbidden by a filter", |x| connect_icmp(x, 3, 13)),
    v4("connect, time exceeded", |x| connect_icmp(x, 11, 0)),
    v6("connect, port unreachable, IPv6", |x| connect_icmp(x, 1, 4)),
    v6("connect, no route, IPv6", |x| connect_icmp(x, 1, 0)),
    v4("connect to an mss of 0", |x| small_mss(x, 0)),
    v4("connect to an mss of 20", |x| small_mss(x, 20)),
    v4("connect to an mss of 100", |x| small_mss(x, 100)),
    v4("connect to an mss of 9000", |x| small_mss(x, 9_000)),
];

fn passive(x: &mut Exchange, options: Vec<u8>) {
    x.listen();
    x.send(seg("S").options(options));
    x.see_count(1);
    x.send(seg("A"));
    x.see();
    x.accept();
    x.write(10);
    x.see_count(1);
}

fn syn_with_data(x: &mut Exchange) {
    x.listen();
    x.send(seg("S").at(0).options(opt::MSS).data(30));
    x.see_count(1);
    x.seq = 1;
    x.send(seg("A"));
    x.accept();
    x.read();
    x.send(seg("PA").data(30));
    x.see_count(1);
    x.read();
}

fn to_listener(x: &mut Exchange, flags: &str) {
    x.listen();
    to_nobody(x, flags, 0);
}

fn to_nobody(x: &mut Exchange, flags: &str, length: usize) {
    x.send(seg(flags).raw_ack(7_000).data(length));
    x.see();
}

fn half_open(x: &mut Exchange) {
    x.listen();
    x.send(seg("S").options(opt::MSS));
    x.see_count(1);
}

fn active(x: &mut Exchange, flags: &str, options: Vec<u8>) {
    let (name, told) = x.connect();
    x.see_count(1);
    x.send(seg(flags).options(options));
    x.see();
    x.finish(&name, &told);
    x.write(10);
    x.see_count(1);
}

/// Something other than an answer; then the answer.
fn in_syn_sent(x: &mut Exchange, flags: &str, ack: Option<u32>) {
    let (name, told) = x.connect();
    x.see_count(1);
    x.send(seg(flags).at(0).ack(ack.unwrap_or(1)));
    x.see();
    x.send(seg("SA").at(0).options(opt::MSS));
    x.seq = 1;
    x.see();
    x.finish(&name, &told);
}

fn connect_icmp(x: &mut Exchange, kind: u8, code: u8) {
    let (name, told) = x.connect();
    x.see_count(1);
    x.icmp(kind, code, 0);
    x.see_timed(1, 1_800);
    if x.seen.len() > 1 {
        x.send(seg("SA").options(opt::MSS));
    }
    x.finish(&name, &told);
}

fn small_mss(x: &mut Exchange, mss: u16) {
    x.connected_with(opt::mss(mss));
    x.write(2_000);
    let seen = x.swallow(150);
    let longest = seen.iter().map(|segment| segment.payload.len()).max().unwrap_or(0);
    x.note(format!("longest segment {longest}"));
}
