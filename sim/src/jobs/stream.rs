//! Streams with a small protocol of their own: the client's first bytes say what will happen,
//! so that both ends know what has to come.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select, try_join};
use futures::pin_mut;
use throng_net::TcpStream;

use super::line::Pace;
use super::{Line, STREAM_PORT, address, connect, keep_alive, rest};
use crate::dice::Dice;
use crate::ledger::{Ledger, Ticket, Trouble};
use crate::plan::{JobPlan, Side};
use crate::switch::{Set, Switch};

const HEAD: usize = 24;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// `up` bytes one way and `down` bytes the other, at the same time; each side closes when
    /// it has sent its own.
    Duplex,
    /// What the client sends comes back.
    Echo,
    /// `rounds` times a request and its response.
    Ask,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    kind: Kind,
    /// The server is the one that closes first, after the last response.
    server_ends: bool,
    /// The client will end it with a reset.
    doomed: bool,
    /// How long the server's reader rests, in milliseconds.
    rest: u16,
    rounds: u16,
    up: u32,
    down: u32,
    seed: u64,
}

impl Head {
    fn write(&self) -> Vec<u8> {
        let flags = u8::from(self.server_ends) | u8::from(self.doomed) << 1;
        let mut out = vec![self.kind as u8, flags, 0x5a, 0xa5];
        out.extend(self.rest.to_be_bytes());
        out.extend(self.rounds.to_be_bytes());
        out.extend(self.up.to_be_bytes());
        out.extend(self.down.to_be_bytes());
        out.extend(self.seed.to_be_bytes());
        out
    }

    fn read(bytes: &[u8]) -> Option<Head> {
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let kind = match bytes[0] {
            0 => Kind::Duplex,
            1 => Kind::Echo,
            2 => Kind::Ask,
            _ => return None,
        };
        (bytes[2..4] == [0x5a, 0xa5]).then(|| Head {
            kind,
            server_ends: bytes[1] & 1 != 0,
            doomed: bytes[1] & 2 != 0,
            rest: u16::from_be_bytes([bytes[4], bytes[5]]),
            rounds: u16::from_be_bytes([bytes[6], bytes[7]]),
            up: word(8),
            down: word(12),
            seed: u64::from(word(16)) << 32 | u64::from(word(20)),
        })
    }

    /// What the server sends is another stream than what the client sends.
    fn seeds(&self) -> (u64, u64) {
        (self.seed, !self.seed)
    }

    fn round(&self, round: u16) -> (u64, u64) {
        let mut dice = Dice::new(self.seed, "round").clone();
        let skip = dice.number().wrapping_add(round.into());
        let mut dice = Dice::new(skip, "lengths");
        (dice.scaled(1, self.up.max(2).into()), dice.scaled(1, self.down.max(2).into()))
    }
}

fn draw(kind: Switch, dice: &mut Dice) -> Head {
    let mut head = Head {
        kind: Kind::Duplex,
        server_ends: false,
        doomed: false,
        rest: 0,
        rounds: 0,
        up: 0,
        down: 0,
        seed: dice.number(),
    };
    let large = |dice: &mut Dice| dice.scaled(1_000, 400_000) as u32;
    match kind {
        Switch::Echo => {
            head.kind = Kind::Echo;
            head.up = dice.scaled(1, 60_000) as u32;
        }
        Switch::Bulk => match dice.within(0, 2) {
            0 => head.up = large(dice),
            1 => head.down = large(dice),
            _ => (head.up, head.down) = (large(dice), large(dice)),
        },
        Switch::HalfClose => {
            let (little, much) = (dice.within(0, 10) as u32, large(dice) / 2);
            (head.up, head.down) = if dice.chance(0.5) { (little, much) } else { (much, little) };
        }
        Switch::Slow => {
            (head.up, head.down) = (large(dice) / 3, large(dice) / 3);
            head.rest = dice.scaled(1, 400) as u16;
        }
        Switch::Abort => {
            (head.up, head.down) = (large(dice), large(dice));
            head.doomed = true;
        }
        _ => {
            head.kind = Kind::Ask;
            head.rounds = match kind {
                Switch::Short => 1,
                Switch::Idle => dice.within(2, 4) as u16,
                _ => dice.within(1, 20) as u16,
            };
            head.up = dice.scaled(10, 20_000) as u32;
            head.down = dice.scaled(10, 20_000) as u32;
            head.server_ends = dice.chance(0.5);
        }
    }
    head
}

/// A client of the stream server.
pub(crate) async fn stream(
    job: &JobPlan,
    on: Set,
    dice: &mut Dice,
    ledger: &Rc<Ledger>,
) -> Result<(), Trouble> {
    let times = if job.kind == Switch::Short { dice.within(3, 15) } else { 1 };
    for _ in 0..times {
        let head = draw(job.kind, dice);
        let to = address(1 - job.from, job.v6, STREAM_PORT);
        let stream = connect(to, dice, ledger).await?;
        keep_alive(&stream, dice)?;
        stream.set_nodelay(dice.chance(0.5))?;
        if on.has(Switch::UserTimeout) {
            stream.set_user_timeout(Some(dice.millis(2_000, 60_000)))?;
        }
        let name = format!("client of host {}, {:?}, {head:?}", job.from, job.kind);
        let line = Line::new(stream, ledger, name);
        let outcome = talk(&line, &head, job.kind, dice).await;
        // Of many short connections each is one of its own.
        match outcome.map_err(Trouble::from) {
            Err(trouble) if times > 1 && ledger.excuses(&trouble) => {}
            other => other?,
        }
        if times > 1 {
            rest(dice.millis(1, 300)).await;
        }
    }
    Ok(())
}

async fn talk(line: &Line, head: &Head, kind: Switch, dice: &mut Dice) -> io::Result<()> {
    line.send_piece(head.write().into()).await?;
    let (up, down) = head.seeds();
    let (mut one, mut other) = (dice.clone(), Dice::new(dice.number(), "other half"));
    match head.kind {
        Kind::Ask => {
            for round in 0..head.rounds {
                let (asks, answer) = head.round(round);
                if kind == Switch::Idle && round > 0 {
                    rest(one.millis(1_000, 200_000)).await;
                }
                let from = u64::from(round) << 32;
                line.send(up, from, from + asks, &mut one).await?;
                line.receive(down, from, from + answer, Pace::default(), &mut one).await?;
            }
            if head.server_ends {
                line.end(&mut one).await?;
            }
            line.finish()?;
            if !head.server_ends {
                line.end(&mut one).await?;
            }
            Ok(())
        }
        Kind::Echo | Kind::Duplex => {
            let echo = head.kind == Kind::Echo;
            let (seed, len) = if echo { (up, head.up) } else { (down, head.down) };
            let pace = Pace {
                pause: Duration::from_millis(head.rest.into()),
                every: if head.rest > 0 { 4_000 } else { 0 },
            };
            let both = exchange(line, (up, head.up, &mut one), (seed, len, &mut other), pace);
            if !head.doomed {
                return both.await;
            }
            let enough = rest(dice.millis(1, 3_000));
            pin_mut!(both, enough);
            if let Either::Left((outcome, _)) = select(both, enough).await {
                return outcome;
            }
            line.abort();
            Ok(())
        }
    }
}

/// A stream each way at the same time, of a seed and a length each, to the end of both.
async fn exchange(
    line: &Line,
    (up, sent, one): (u64, u32, &mut Dice),
    (down, received, other): (u64, u32, &mut Dice),
    pace: Pace,
) -> io::Result<()> {
    let sending = async {
        line.send(up, 0, sent.into(), one).await?;
        line.finish()
    };
    let receiving = async {
        line.receive(down, 0, received.into(), pace, other).await?;
        line.end(other).await
    };
    try_join(sending, receiving).await.map(|_| ())
}

/// The server's side of a connection.
pub(crate) async fn session(
    stream: TcpStream,
    side: Side,
    number: u64,
    ledger: Rc<Ledger>,
    mut ticket: Ticket,
) {
    let mut dice = Dice::new(number, "session");
    let name = format!("server of host {side}, {:?}", stream.peer_addr().ok());
    let outcome = match keep_alive(&stream, &mut dice) {
        Ok(()) => {
            let line = Line::new(stream, &ledger, name);
            serve(&line, &mut dice, &mut ticket).await
        }
        Err(error) => Err(error),
    };
    ticket.end(outcome.map_err(Trouble::from));
}

async fn serve(line: &Line, dice: &mut Dice, ticket: &mut Ticket) -> io::Result<()> {
    // A reset that overtakes the head may be meant.
    ticket.doomed = true;
    // A client that had to give up its attempt may have been accepted all the same.
    let Some(head) = line.exactly(HEAD, dice).await? else { return Ok(()) };
    let Some(head) = Head::read(&head) else {
        return Err(io::Error::other("the head is none"));
    };
    ticket.doomed = head.doomed;
    let (up, down) = head.seeds();
    let (mut one, mut other) = (dice.clone(), Dice::new(dice.number(), "other half"));
    match head.kind {
        Kind::Ask => {
            for round in 0..head.rounds {
                let (asks, answer) = head.round(round);
                let from = u64::from(round) << 32;
                line.receive(up, from, from + asks, Pace::default(), &mut one).await?;
                line.send(down, from, from + answer, &mut one).await?;
            }
            if head.server_ends {
                line.finish()?;
            }
            line.end(&mut one).await?;
            line.finish()
        }
        Kind::Duplex => {
            let pace = Pace {
                pause: Duration::from_millis(head.rest.into()),
                every: if head.rest > 0 { 6_000 } else { 0 },
            };
            exchange(line, (down, head.down, &mut one), (up, head.up, &mut other), pace).await
        }
        Kind::Echo => loop {
            let piece = line.read(u64::MAX, dice).await?;
            if piece.is_empty() {
                return line.finish();
            }
            line.send_piece(piece).await?;
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let mut dice = Dice::new(1, "test");
        for kind in [Switch::Echo, Switch::Bulk, Switch::Slow, Switch::Abort, Switch::Short] {
            let head = draw(kind, &mut dice);
            let bytes = head.write();
            assert_eq!(bytes.len(), HEAD);
            let read = Head::read(&bytes).expect("a head");
            assert_eq!(format!("{read:?}"), format!("{head:?}"));
        }
        assert!(Head::read(&[0; HEAD]).is_none());
    }
}
