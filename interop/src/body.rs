//! Bodies: a short text, or a long pattern that is made as it is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};

/// Seed of the pattern, which the harness knows, too.
const SEED: u64 = 0x7468_726f_6e67;
/// Bytes made at a time; a multiple of a word.
const CHUNK: u64 = 64 << 10;

/// The body of an answer.
pub(crate) enum Answer {
    /// All of it, or nothing more.
    Text(Option<Bytes>),
    /// This many bytes of the pattern, of which the next one is at `at`, the start of a word.
    Pattern { at: u64, left: u64 },
}

impl Answer {
    pub(crate) fn text(text: impl Into<Bytes>) -> Answer {
        Answer::Text(Some(text.into()))
    }

    pub(crate) fn pattern(length: u64) -> Answer {
        Answer::Pattern { at: 0, left: length }
    }
}

impl Default for Answer {
    fn default() -> Answer {
        Answer::Text(None)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Answer::Text(text) => text.take(),
            Answer::Pattern { left: 0, .. } => None,
            Answer::Pattern { at, left } => {
                let length = CHUNK.min(*left);
                let mut chunk = BytesMut::with_capacity(length as usize + 8);
                for word in 0..length.div_ceil(8) {
                    chunk.put_u64_le(pattern_word(SEED, *at / 8 + word));
                }
                chunk.truncate(length as usize);
                *at += length;
                *left -= length;
                Some(chunk.freeze())
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Text(None) | Answer::Pattern { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Answer::Text(text) => text.as_ref().map_or(0, |text| text.len() as u64),
            Answer::Pattern { left, .. } => *left,
        })
    }
}

/// Word `index` of the pattern with this seed: SplitMix64.
fn pattern_word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
