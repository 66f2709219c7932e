//! The fields of a head, wherever they lie: in a map of hyper's, or in the bytes that came. What is
//! decided by fields and what is made of them is written once, for both.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use throng::http::plain;

pub(crate) trait Fields {
    /// The values of all lines of a field, in their order.
    fn all<'s>(&'s self, name: &'s HeaderName) -> impl DoubleEndedIterator<Item = &'s [u8]>;

    /// Takes all lines of a field away.
    fn remove(&mut self, name: &HeaderName);

    /// Makes a field this one line; a value that cannot be one changes nothing.
    fn set(&mut self, name: &HeaderName, value: &[u8]);

    /// Adds a line.
    fn append(&mut self, name: &HeaderName, value: &[u8]);

    /// The value of the first line.
    fn first<'s>(&'s self, name: &'s HeaderName) -> Option<&'s [u8]> {
        self.all(name).next()
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.first(name).is_some()
    }
}

impl Fields for HeaderMap {
    fn all<'s>(&'s self, name: &'s HeaderName) -> impl DoubleEndedIterator<Item = &'s [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }

    fn set(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            self.insert(name, value);
        }
    }

    fn append(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            HeaderMap::append(self, name, value);
        }
    }
}

impl Fields for plain::Fields<'_> {
    fn all<'s>(&'s self, name: &'s HeaderName) -> impl DoubleEndedIterator<Item = &'s [u8]> {
        plain::Fields::all(self, name.as_str())
    }

    fn remove(&mut self, name: &HeaderName) {
        plain::Fields::remove(self, name.as_str());
    }

    fn set(&mut self, name: &HeaderName, value: &[u8]) {
        plain::Fields::set(self, name.as_str(), value);
    }

    fn append(&mut self, name: &HeaderName, value: &[u8]) {
        plain::Fields::append(self, name.as_str(), value);
    }
}

/// A value that is text.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let plain = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| plain)
}
