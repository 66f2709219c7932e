//! What is sent to be echoed: everything needed to check it when it comes back lies in it.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the pattern: the connection's number and the time it was due.
pub(crate) const LEAST: usize = 12;

/// A message of `size` bytes (at least [`LEAST`]) for connection `number`, due at `at`
/// nanoseconds.
pub(crate) fn make(number: u32, at: u64, size: usize) -> Bytes {
    let size = size.max(LEAST);
    let mut bytes = BytesMut::with_capacity(size);
    bytes.put_u32(number);
    bytes.put_u64(at);
    let mut pattern = pattern(number, at);
    while bytes.len() < size {
        let word = pattern().to_le_bytes();
        let part = word.len().min(size - bytes.len());
        bytes.put_slice(&word[..part]);
    }
    bytes.freeze()
}

/// When an echo of connection `number` was due; `None` where it is not what was sent.
pub(crate) fn check(number: u32, echo: &[u8], size: usize) -> Option<u64> {
    let (head, rest) = echo.split_at_checked(LEAST)?;
    let (sender, at) = head.split_at(4);
    let at = u64::from_be_bytes(at.try_into().ok()?);
    if echo.len() != size.max(LEAST) || sender != number.to_be_bytes() {
        return None;
    }
    let mut pattern = pattern(number, at);
    let whole = rest.chunks(8).all(|chunk| chunk == &pattern().to_le_bytes()[..chunk.len()]);
    whole.then_some(at)
}

/// Words that no other message has (xorshift64*).
fn pattern(number: u32, at: u64) -> impl FnMut() -> u64 {
    let mut state = ((at ^ (u64::from(number) << 40)) << 1) | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_message_is_its_echo() {
        for size in [0, 12, 13, 20, 64, 1_001] {
            let sent = make(7, 123_456_789, size);
            assert_eq!(check(7, &sent, size), Some(123_456_789));
            assert_eq!(check(8, &sent, size), None, "another connection's");
            assert_eq!(check(7, &sent, size + 13), None, "cut short");
            for at in 0..sent.len() {
                let mut wrong = sent.to_vec();
                wrong[at] ^= 1;
                // A wrong time makes another pattern, of which there must be something.
                assert!(check(7, &wrong, size).is_none() || size < 20, "{size}: byte {at}");
            }
        }
    }
}
