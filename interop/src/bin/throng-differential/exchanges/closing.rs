//! Closing, from both ends and in every state.

use std::time::Duration;

use super::{Script, v4, v6};
use crate::draft::{Draft, opt, seg};
use crate::exchange::Exchange;
use crate::subject::Call;

pub(crate) const ALL: &[Script] = &[
    v4("the peer closes", peer_closes),
    v6("the peer closes, IPv6", peer_closes),
    v4("fin with data", |x| {
        x.open();
        x.send(seg("PFA").data(50));
        x.see_count(1);
        x.read();
    }),
    v4("fin out of order", |x| {
        x.open_sack();
        x.send(seg("FA").at(101));
        x.see_count(1);
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.read();
    }),
    v4("fin beyond the window", |x| {
        x.open();
        x.send(seg("FA").at(1_000_000));
        x.see();
        x.read();
    }),
    v4("the fin again in close-wait", |x| in_close_wait(x, seg("FA").at(1))),
    v4("data in close-wait", |x| in_close_wait(x, seg("PA").data(20))),
    v4("a rst in close-wait", |x| in_close_wait(x, seg("R"))),
    v4("a rst within the window in close-wait", |x| in_close_wait(x, seg("R").at(50))),
    v4("a syn in close-wait", |x| in_close_wait(x, seg("S").at(50).options(opt::MSS))),
    v4("half-close by the peer", |x| {
        x.open();
        x.send(seg("FA"));
        x.see_count(1);
        x.read();
        x.write(100);
        x.see_count(1);
        x.send(seg("A"));
        x.close();
        x.see_count(1);
        x.send(seg("A"));
        x.see();
        x.send(seg("A"));
        x.see();
    }),
    v4("half-close by the subject", |x| {
        x.open();
        x.call(Call::ShutdownWrite);
        x.see_count(1);
        x.send(seg("A"));
        x.send(seg("PA").data(100));
        x.see_count(1);
        x.read();
        x.send(seg("FA"));
        x.see_count(1);
        x.read();
    }),
    v4("the subject closes", |x| {
        time_wait(x);
        x.send(seg("A"));
        x.see();
    }),
    v4("the subject closes with data out", |x| {
        x.open();
        x.write(100);
        x.close();
        x.see();
        x.send(seg("A"));
        x.send(seg("FA"));
        x.see_count(1);
    }),
    v4("the fin is sent again", |x| {
        x.open();
        x.close();
        x.see_count(1);
        x.see_timed(3, 3_000);
    }),
    v4("data after close", |x| {
        x.open();
        x.close();
        x.see_count(1);
        x.send(seg("A"));
        x.send(seg("PA").data(10));
        x.see();
        x.send(seg("PA").data(10));
        x.see();
    }),
    v4("data after close, before the fin's ack", |x| {
        x.open();
        x.close();
        x.see_count(1);
        x.send(seg("PA").ack(1).data(10));
        x.see();
    }),
    v4("data and fin after close", |x| {
        x.open();
        x.close();
        x.see_count(1);
        x.send(seg("PFA").data(10));
        x.see();
    }),
    v4("close with unread data", |x| {
        x.open();
        x.send(seg("PA").data(10));
        x.see_count(1);
        x.close();
        x.see();
    }),
    v4("close with unread data and a fin", |x| {
        x.open();
        x.send(seg("PFA").data(10));
        x.see_count(1);
        x.close();
        x.see();
    }),
    v4("abort", |x| {
        x.open();
        x.call(Call::Abort);
        x.see();
        x.send(seg("PA").data(10));
        x.see();
    }),
    v4("abort with data out", |x| {
        x.open();
        x.write(100);
        x.see_count(1);
        x.call(Call::Abort);
        x.see();
    }),
    v4("abort after the peer's fin", |x| {
        x.open();
        x.send(seg("FA"));
        x.see_count(1);
        x.call(Call::Abort);
        x.see();
    }),
    v4("linger of no time", |x| {
        x.open();
        x.call(Call::Linger(Duration::ZERO));
        x.close();
        x.see();
    }),
    v4("simultaneous close", |x| {
        x.open();
        x.close();
        x.see_count(1);
        x.send(seg("FA").ack(1));
        x.see();
        x.send(seg("A").ack(2));
        x.see();
        x.send(seg("A"));
        x.see();
    }),
    v4("a rst in fin-wait-1", |x| in_fin_wait(x, false, seg("R"))),
    v4("a rst in fin-wait-2", |x| in_fin_wait(x, true, seg("R"))),
    v4("a rst within the window in fin-wait-2", |x| in_fin_wait(x, true, seg("R").at(90))),
    v4("a syn in fin-wait-2", |x| in_fin_wait(x, true, seg("S").at(90).options(opt::MSS))),
    v4("data beyond the window in fin-wait-2", |x| {
        in_fin_wait(x, true, seg("PA").at(1_000_000).data(10));
    }),
    v4("an ack of what was not sent in fin-wait-1", |x| in_fin_wait(x, false, seg("A").ack(900))),
    v4("a fin in fin-wait-2", |x| in_fin_wait(x, true, seg("FA"))),
    v4("a rst in last-ack", |x| in_last_ack(x, seg("R"))),
    v4("a rst within the window in last-ack", |x| in_last_ack(x, seg("R").at(90))),
    v4("the fin again in last-ack", |x| in_last_ack(x, seg("FA").at(1).ack(1))),
    v4("data in last-ack", |x| in_last_ack(x, seg("PA").ack(1).data(10))),
    v4("an ack of what was not sent in last-ack", |x| in_last_ack(x, seg("A").ack(900))),
    v4("the fin again in time-wait", |x| in_time_wait(x, seg("FA").at(1))),
    v4("an ack in time-wait", |x| in_time_wait(x, seg("A"))),
    v4("data in time-wait", |x| in_time_wait(x, seg("PA").data(10))),
    v4("data beyond the window in time-wait", |x| {
        in_time_wait(x, seg("PA").at(1_000_000).data(10));
    }),
    v4("a rst in time-wait", |x| in_time_wait(x, seg("R"))),
    v4("an old syn in time-wait", |x| in_time_wait(x, seg("S").at(0).options(opt::MSS))),
    v4("a new syn in time-wait", |x| {
        time_wait(x);
        again(x, 1_000);
    }),
    v4("a new syn in time-wait, with timestamps", |x| {
        x.clock = Some(1);
        x.open_with([opt::MSS, opt::SACK, opt::SCALE].concat());
        shut(x);
        // Numbers that went back, and a clock that went on (RFC 6191).
        x.clock = Some(100_000);
        again(x, 5_000_u32.wrapping_neg());
    }),
    v4("a fin while data is unread", |x| {
        x.open();
        x.send(seg("PA").data(10));
        x.see_count(1);
        x.send(seg("FA"));
        x.see_count(1);
        x.read();
    }),
    v4("data after the peer's fin", |x| {
        x.open();
        x.send(seg("FA"));
        x.see_count(1);
        x.send(seg("PA").data(20));
        x.see();
        x.read();
        x.write(10);
        x.see();
    }),
    v4("a write after the peer's rst", |x| {
        x.open();
        x.send(seg("R"));
        // So that it has come before the program writes.
        x.see();
        x.write(10);
        x.see();
        x.read();
    }),
    v4("a rst after data that is unread", |x| {
        x.open();
        x.send(seg("PA").data(20));
        x.see_count(1);
        x.send(seg("R"));
        x.see();
        x.read();
    }),
    v4("the listener closes before the ack", |x| {
        x.listen();
        x.send(seg("S").options(opt::MSS));
        x.see_count(1);
        x.call(Call::Unlisten);
        x.see();
        x.send(seg("A"));
        x.see();
    }),
    v4("the listener closes before accept", |x| {
        x.listen();
        x.shake(opt::MSS);
        x.swallow(30);
        x.call(Call::Unlisten);
        x.see();
    }),
];

fn peer_closes(x: &mut Exchange) {
    x.open();
    x.send(seg("FA"));
    x.see_count(1);
    x.read();
    x.close();
    x.see_count(1);
    x.send(seg("A"));
    x.see();
}

/// Takes the connection to TIME-WAIT, by the subject's closing first.
fn time_wait(x: &mut Exchange) {
    x.open();
    shut(x);
}

fn shut(x: &mut Exchange) {
    x.close();
    x.see_count(1);
    x.send(seg("A"));
    x.swallow(20);
    x.send(seg("FA"));
    x.see_count(1);
}

fn in_close_wait(x: &mut Exchange, draft: Draft) {
    x.open();
    x.send(seg("FA"));
    x.see_count(1);
    x.send(draft);
    x.see();
    x.read();
    x.write(10);
    x.see();
}

fn in_fin_wait(x: &mut Exchange, two: bool, draft: Draft) {
    x.open();
    x.call(Call::ShutdownWrite);
    x.see_count(1);
    if two {
        x.send(seg("A"));
    } else {
        // The FIN stays unacknowledged, whatever else is said.
        x.ack = 1;
    }
    x.send(draft);
    x.see();
    x.read();
}

fn in_last_ack(x: &mut Exchange, draft: Draft) {
    x.open();
    x.send(seg("FA"));
    x.see_count(1);
    x.close();
    x.see_count(1);
    x.ack = 1;
    x.send(draft);
    x.see();
    x.ack = 2;
    x.send(seg("A"));
    x.send(seg("A"));
    x.see();
}

fn in_time_wait(x: &mut Exchange, draft: Draft) {
    time_wait(x);
    x.send(draft);
    x.see();
    let end = 2;
    x.send(seg("FA").at(end - 1));
    x.see();
}

/// A new connection in the place of the one in TIME-WAIT, beginning `ahead` of its end.
fn again(x: &mut Exchange, ahead: u32) {
    let begin = x.seq.wrapping_add(ahead);
    x.forget();
    x.seq = begin;
    x.send(seg("S").options([opt::MSS, opt::SACK, opt::SCALE].concat()));
    x.see_count(1);
    x.send(seg("A"));
    x.accept();
    x.send(seg("PA").data(10));
    x.see_count(1);
}
