//! The fields of a head as they lie in its bytes, to be read, changed and written again.

use std::ops::Range;

/// Memory for the fields of a head, to be used for one after the other.
#[derive(Debug, Default)]
pub struct Scratch {
    fields: Vec<Field>,
    /// Names and values that were not in the head.
    added: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
    /// It lies in `added`.
    ours: bool,
    removed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    at: u32,
    len: u32,
}

impl Span {
    fn of<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let at = self.at as usize;
        bytes.get(at..at + self.len as usize).unwrap_or_default()
    }

    fn end(&self) -> usize {
        (self.at + self.len) as usize
    }
}

/// The fields of one head, in their order. Names are compared without regard to case, and what
/// is asked for is in small letters.
#[derive(Debug)]
pub struct Fields<'b> {
    bytes: &'b [u8],
    scratch: &'b mut Scratch,
    /// A bit for each kind of name there has been: see [`kind`].
    kinds: u64,
}

/// One of 64 bits, by length and first letter: most questions are for a field that is not there.
fn kind(name: &[u8]) -> u64 {
    let first = name.first().map_or(0, |first| first | 0x20);
    1 << ((name.len() as u64 * 7 + u64::from(first)) & 63)
}

impl<'b> Fields<'b> {
    /// Of the parsed fields of `bytes`, which they lie in.
    pub(super) fn new(
        bytes: &'b [u8],
        parsed: &[httparse::Header<'b>],
        scratch: &'b mut Scratch,
    ) -> Fields<'b> {
        scratch.fields.clear();
        scratch.added.clear();
        let mut kinds = 0;
        let start = bytes.as_ptr().addr();
        let span = |text: &[u8]| Span {
            // An empty value may lie anywhere.
            at: text.as_ptr().addr().saturating_sub(start).min(bytes.len()) as u32,
            len: text.len() as u32,
        };
        scratch.fields.extend(parsed.iter().map(|field| {
            kinds |= kind(field.name.as_bytes());
            Field {
                name: span(field.name.as_bytes()),
                value: span(field.value),
                ours: false,
                removed: false,
            }
        }));
        Fields { bytes, scratch, kinds }
    }

    /// The head they were read from.
    pub(crate) fn head(&self) -> &'b [u8] {
        self.bytes
    }

    /// The lines of that head: each one's name, and where in it its value lies.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&[u8], Range<usize>)> {
        let lines = self.scratch.fields.iter().filter(|field| !field.ours && !field.removed);
        lines.map(|field| (field.name.of(self.bytes), field.value.at as usize..field.value.end()))
    }

    fn text(&self, field: &Field, span: Span) -> &[u8] {
        span.of(if field.ours { &self.scratch.added } else { self.bytes })
    }

    fn is(&self, field: &Field, name: &[u8]) -> bool {
        field.name.len as usize == name.len()
            && !field.removed
            && self.text(field, field.name).eq_ignore_ascii_case(name)
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.scratch.fields.iter().filter(|field| !field.removed).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of all lines of a field, in their order.
    pub fn all<'s>(&'s self, name: &'s str) -> impl DoubleEndedIterator<Item = &'s [u8]> {
        let name = name.as_bytes();
        let there = self.kinds & kind(name) != 0;
        let lines = if there { &self.scratch.fields[..] } else { &[] };
        lines
            .iter()
            .filter(move |field| self.is(field, name))
            .map(|field| self.text(field, field.value))
    }

    /// Names and values of all lines.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.scratch.fields.iter().filter(|field| !field.removed);
        lines.map(|field| (self.text(field, field.name), self.text(field, field.value)))
    }

    /// The value of a field's first line.
    pub fn get<'s>(&'s self, name: &'s str) -> Option<&'s [u8]> {
        self.all(name).next()
    }

    /// Takes a field away, all its lines.
    pub fn remove(&mut self, name: &str) {
        let name = name.as_bytes();
        if self.kinds & kind(name) == 0 {
            return;
        }
        for at in 0..self.scratch.fields.len() {
            if self.is(&self.scratch.fields[at], name) {
                self.scratch.fields[at].removed = true;
            }
        }
    }

    /// Adds a line. Name and value that cannot be ones (RFC 9110 5.1, 5.5) are left out.
    pub fn append(&mut self, name: &str, value: &[u8]) {
        // To the end in any case, so that many are looked at together.
        let bad_name = name
            .bytes()
            .fold(name.is_empty(), |bad, byte| bad | !byte.is_ascii_graphic() | (byte == b':'));
        let bad_value = value
            .iter()
            .fold(false, |bad, byte| bad | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f));
        if bad_name || bad_value {
            return;
        }
        self.kinds |= kind(name.as_bytes());
        let added = &mut self.scratch.added;
        added.reserve(name.len() + value.len() + 4);
        let mut span = |text: &[u8]| {
            let at = added.len() as u32;
            added.extend_from_slice(text);
            Span { at, len: text.len() as u32 }
        };
        let name = span(name.as_bytes());
        // As it is written, so that lines are copied whole.
        span(b": ");
        let value = span(value);
        span(b"\r\n");
        self.scratch.fields.push(Field { name, value, ours: true, removed: false });
    }

    /// Makes a field this one line.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Writes the lines, without the empty one that ends a head.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Neighbours are copied together.
        let (mut from, mut to, mut of) = (0, 0, false);
        let flush = |out: &mut Vec<u8>, from: usize, to: usize, ours: bool| {
            let bytes = if ours { &self.scratch.added[..] } else { self.bytes };
            out.extend_from_slice(bytes.get(from..to).unwrap_or_default());
        };
        for field in self.scratch.fields.iter().filter(|field| !field.removed) {
            let bytes = if field.ours { &self.scratch.added[..] } else { self.bytes };
            let (start, end) = (field.name.at as usize, field.value.end());
            let separated = bytes.get(field.name.end()..field.value.at as usize) == Some(b": ");
            if separated && bytes.get(end..end + 2) == Some(b"\r\n") {
                if field.ours != of || start != to {
                    flush(out, from, to, of);
                    (from, of) = (start, field.ours);
                }
                to = end + 2;
                continue;
            }
            // Other white space than ours (RFC 9112 5.1) goes no further.
            flush(out, from, to, of);
            (from, to) = (0, 0);
            for part in [field.name.of(bytes), b": ", field.value.of(bytes), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        flush(out, from, to, of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX-One:1\r\nx-two: \t2 \r\nAccept: */*\r\n\
        x-one: 3\r\nx-empty:\r\n\r\n";

    fn with(check: impl FnOnce(&mut Fields<'_>)) {
        let mut scratch = Scratch::default();
        let mut space = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut space);
        request.parse(HEAD).unwrap();
        check(&mut Fields::new(HEAD, request.headers, &mut scratch));
    }

    fn written(fields: &Fields<'_>) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_are_found_changed_and_written() {
        with(|fields| {
            assert_eq!(
                written(fields),
                "Host: a\r\nX-One: 1\r\nx-two: 2\r\nAccept: */*\r\nx-one: 3\r\nx-empty: \r\n"
            );
            assert_eq!(fields.all("x-one").collect::<Vec<_>>(), [b"1", b"3"]);
            assert_eq!(fields.all("x-one").next_back(), Some(&b"3"[..]));
            assert_eq!((fields.get("host"), fields.get("hos")), (Some(&b"a"[..]), None));
            assert_eq!(fields.get("x-empty"), Some(&b""[..]));
            fields.remove("x-one");
            fields.set("host", b"b");
            fields.append("x-two", b"4");
            fields.append("bad name", b"4");
            fields.append("x-bad", b"4\r\nx: 5");
            assert_eq!(fields.get("x-one"), None);
            assert_eq!(fields.all("x-two").collect::<Vec<_>>(), [b"2", b"4"]);
            assert_eq!(
                written(fields),
                "x-two: 2\r\nAccept: */*\r\nx-empty: \r\nhost: b\r\nx-two: 4\r\n"
            );
            assert_eq!(fields.len(), 5);
            assert_eq!(fields.iter().last(), Some((&b"x-two"[..], &b"4"[..])));
        });
    }
}
