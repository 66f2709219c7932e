//! A WebSocket of either side, fed with frames: whole ones, fragments, control frames between
//! them, wrong ones and anything, in any pieces, with any end. What it hands out, answers and
//! ends with is what a tungstenite context does that is kept all the time.

use throng_ws::Role;

use crate::draw::Draw;
use crate::plain::{CLOSE_NOW, Case, Last, compare};
use crate::raw::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, frame_with};
use crate::support::Pace;

/// Most frames of a run.
const FRAMES: u32 = 24;
const LIMIT: usize = 3_000;

/// Runs one input.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data, FRAMES);
    let bits = draw.byte();
    let client = bits & 1 != 0;
    let last = draw.of(&[Last::Fin, Last::FinAtOnce, Last::Gone, Last::Reset]);
    let slow = bits & 2 != 0;
    let mut bytes = Vec::new();
    let mut cuts = Vec::new();
    while draw.another() {
        let start = bytes.len();
        bytes.extend(piece(&mut draw, client));
        let len = (bytes.len() - start) as u32;
        match draw.below(4) {
            0 => cuts.push(bytes.len()),
            1 if len > 0 => cuts.push(start + draw.below(len) as usize),
            2 if len > 0 => {
                let mut two = [draw.below(len), draw.below(len)].map(|at| start + at as usize);
                two.sort_unstable();
                cuts.extend(two);
            }
            _ => {}
        }
    }
    let early = if bits & 4 != 0 { draw.below(bytes.len() as u32 + 1) as usize } else { 0 };
    compare(&Case {
        role: if client { Role::Client } else { Role::Server },
        early,
        pace: if slow { Pace { chunk: 17, stutter: true } } else { Pace::FAST },
        max_message: LIMIT,
        max_frame: LIMIT / 2,
        // How far a slow stream has taken an answer when the end comes at once is chance.
        last: if slow && last == Last::FinAtOnce { Last::Fin } else { last },
        ..Case::new(bytes).cut(&cuts)
    });
}

/// A frame, or what is none.
fn piece(draw: &mut Draw<'_>, client: bool) -> Vec<u8> {
    let kind = draw.byte();
    if kind >= 250 {
        return draw.bytes(12).to_vec();
    }
    let kinds = [
        FIN | TEXT,
        FIN | BINARY,
        FIN | PING,
        TEXT,
        BINARY,
        CONTINUE,
        FIN | CONTINUE,
        FIN | PONG,
        FIN | CLOSE,
    ];
    let first = match usize::from(kind) {
        kind if kind < 10 * kinds.len() => kinds[kind / 10],
        _ if kind & 1 == 0 => FIN | BINARY,
        _ => draw.byte(),
    };
    let payload = match draw.below(8) {
        0 => Vec::new(),
        1 => CLOSE_NOW.as_bytes().to_vec(),
        2 => "z\u{f6}\u{20ac}\u{1f680}".as_bytes()[draw.below(5) as usize..].to_vec(),
        3 => vec![b'a'; draw.of(&[124, 125, 126, 127, 300])],
        4 => vec![b'b'; draw.of(&[1_400, 1_500, 1_501, 2_040, 65_536])],
        5 => {
            let code = draw.of(&[1_000_u16, 1_001, 1_005, 3_000, 999, 0]);
            [&code.to_be_bytes(), draw.bytes(4)].concat()
        }
        _ => {
            let most = draw.below(40) as usize;
            draw.bytes(most).to_vec()
        }
    };
    let masked = client == draw.one_in(40);
    let mask = masked.then(|| draw.long().to_be_bytes());
    frame_with(mask, first, &payload)
}
