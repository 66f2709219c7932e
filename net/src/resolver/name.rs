//! A host name, checked.

use std::fmt;
use std::rc::Rc;

use super::Error;

/// Longest name without its final dot, in bytes (RFC 1035 2.3.4: 255 on the wire).
const MAX_NAME: usize = 253;
/// Longest label, in bytes.
const MAX_LABEL: usize = 63;

/// A name in lower case, without the final dot.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct HostName(Rc<str>);

impl HostName {
    /// Reads a name; a final dot is accepted and dropped.
    ///
    /// # Errors
    /// [`Error::BadName`].
    pub(super) fn parse(text: &str) -> Result<HostName, Error> {
        match HostName::check(text.strip_suffix('.').unwrap_or(text)) {
            Ok(name) => Ok(name),
            // Long enough to be recognised.
            Err(why) => Err(Error::BadName { name: text.chars().take(300).collect(), why }),
        }
    }

    fn check(text: &str) -> Result<HostName, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        if text.len() > MAX_NAME {
            return Err("it has more than 253 bytes");
        }
        for label in text.split('.') {
            if label.is_empty() {
                return Err("a label is empty");
            }
            if label.len() > MAX_LABEL {
                return Err("a label has more than 63 bytes");
            }
            // Underscores are in use, whatever RFC 952 says.
            if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
                return Err("only ASCII letters, digits, - and _ are (xn-- for the others)");
            }
        }
        // RFC 3696 2: no top-level domain is all digits; this is a mistyped address.
        let last = text.rsplit('.').next().unwrap_or(text);
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("the last label is a number");
        }
        Ok(HostName(text.to_ascii_lowercase().into()))
    }

    /// The name within `domain`; `None` where it gets too long.
    pub(super) fn within(&self, domain: &HostName) -> Option<HostName> {
        let len = self.0.len() + 1 + domain.0.len();
        (len <= MAX_NAME).then(|| HostName(format!("{}.{}", self.0, domain.0).into()))
    }

    /// The name as it is written.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// How many dots are in it.
    pub(super) fn dots(&self) -> usize {
        self.0.matches('.').count()
    }

    /// Whether it is `domain` or lies in it.
    pub(super) fn is_in(&self, domain: &str) -> bool {
        let rest = self.0.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// As it is in a message: each label behind its length, then the root (RFC 1035 3.1).
    pub(super) fn wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.0.len() + 2);
        for label in self.0.split('.') {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        wire
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_bounds() {
        let name = |text: &str| HostName::parse(text).map(|name| name.as_str().to_owned());
        assert_eq!(name("Www.Example.COM.").unwrap(), "www.example.com");
        assert_eq!(name("_x-1.a").unwrap(), "_x-1.a");
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(name(&longest).is_ok() && name(&format!("{longest}.")).is_ok());
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a b",
            "ü.de",
            "a/b",
            "10.0.0",
            "127.1",
            &"a".repeat(64),
            &format!("{longest}a"),
        ] {
            assert!(matches!(name(bad), Err(Error::BadName { .. })), "{bad}");
        }
    }

    #[test]
    fn a_domain_is_joined_and_found() {
        let name = HostName::parse("www").unwrap();
        let domain = HostName::parse("example.com").unwrap();
        let whole = name.within(&domain).unwrap();
        assert_eq!(whole.as_str(), "www.example.com");
        assert!(whole.is_in("example.com") && domain.is_in("example.com"));
        assert!(!HostName::parse("notexample.com").unwrap().is_in("example.com"));
        assert_eq!(whole.wire(), b"\x03www\x07example\x03com\0");
        let long = HostName::parse(&["a".repeat(63), "b".repeat(63), "c".repeat(63)].join("."));
        assert!(long.as_ref().unwrap().within(&long.clone().unwrap()).is_none());
    }
}
