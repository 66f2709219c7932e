//! Heads of answers, byte for byte what hyper would write.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::response::Parts;
use http::{StatusCode, Version, header};
use throng_runtime::Instant;

/// Bytes of a date (RFC 9110 5.6.7).
const DATE: usize = 29;

/// Writes a head in front of a body of `length` bytes. `None`: it says more than that; then nothing
/// of what was written is of use.
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    parts: &Parts,
    length: u64,
    close: bool,
    date: bool,
) -> Option<()> {
    let status = parts.status;
    // hyper finds reasons and spellings in extensions, and has these without a body.
    let odd = parts.version != Version::HTTP_11 || !parts.extensions.is_empty();
    if odd || matches!(status.as_u16(), 0..200 | 204 | 304) {
        return None;
    }
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let (mut measured, mut dated) = (false, !date);
    let mut digits = [0; 20];
    let digits = decimal(length, &mut digits);
    for (name, value) in &parts.headers {
        match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::TRAILER => return None,
            header::CONTENT_LENGTH if measured || length == 0 || value.as_bytes() != digits => {
                return None;
            }
            header::CONTENT_LENGTH => measured = true,
            header::DATE => dated = true,
            _ => {}
        }
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        out.reserve(name.len() + value.len() + 4);
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    if !measured {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(digits);
        out.extend_from_slice(b"\r\n");
    }
    if !dated {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(&now());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Some(())
}

/// A number's digits, at the end of `space`.
fn decimal(mut number: u64, space: &mut [u8; 20]) -> &[u8] {
    let mut at = space.len();
    loop {
        at -= 1;
        space[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &space[at..];
        }
    }
}

thread_local! {
    /// The date, and until when it is true by the shard's clock: it is made once a second.
    static LAST: Cell<(Instant, [u8; DATE])> = const { Cell::new((Instant::ZERO, [0; DATE])) };
}

/// What time it is.
fn now() -> [u8; DATE] {
    let (until, text) = LAST.get();
    let now = throng_runtime::now();
    // A clock that has gone back is another one: a test's.
    if now < until && until <= now + Duration::from_secs(1) {
        return text;
    }
    let time = SystemTime::now();
    let said = httpdate::fmt_http_date(time);
    let Ok(text) = <[u8; DATE]>::try_from(said.as_bytes()) else { return text };
    let into = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    LAST.set((now + Duration::from_nanos(1_000_000_000 - u64::from(into)), text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_digits() {
        for number in [0, 1, 9, 10, 99, 100, 1_234_567_890, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
