//! A place in a script's text.

use crate::script::Wrong;

pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    pub line: usize,
}

pub type Parsed<T> = Result<T, Wrong>;

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0, line: 1 }
    }

    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn wrong<T>(&self, what: impl Into<String>) -> Parsed<T> {
        Err(Wrong { line: self.line, what: what.into() })
    }

    /// What stands here, for an error message.
    pub fn here(&self) -> String {
        let line = self.rest().lines().next().unwrap_or("");
        if line.is_empty() {
            "the end of the line".into()
        } else {
            format!("`{}`", line.chars().take(30).collect::<String>())
        }
    }

    pub fn skip(&mut self, bytes: usize) {
        self.line += self.rest()[..bytes].matches('\n').count();
        self.at += bytes;
    }

    /// Skips white space and comments: `#`, `//` and `/* */`.
    pub fn space(&mut self) -> Parsed<()> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            if blank > 0 {
                self.skip(blank);
            } else if rest.starts_with("//") || rest.starts_with('#') {
                self.skip(rest.find('\n').unwrap_or(rest.len()));
            } else if rest.starts_with("/*") {
                match rest.find("*/") {
                    Some(end) => self.skip(end + 2),
                    None => return self.wrong("a comment without an end"),
                }
            } else {
                return Ok(());
            }
        }
    }

    /// Takes `token`, and the space before it, if it is next.
    pub fn eat(&mut self, token: &str) -> Parsed<bool> {
        self.space()?;
        let found = self.rest().starts_with(token);
        if found {
            self.skip(token.len());
        }
        Ok(found)
    }

    pub fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token)? {
            return Ok(());
        }
        self.wrong(format!("expected `{token}`, found {}", self.here()))
    }

    /// Takes `word` where it is a word of its own.
    pub fn eat_word(&mut self, word: &str) -> Parsed<bool> {
        self.space()?;
        let found = self.peek_word() == word;
        if found {
            self.skip(word.len());
        }
        Ok(found)
    }

    pub fn peek_word(&self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    }

    pub fn word(&mut self) -> Parsed<&'a str> {
        self.space()?;
        let word = self.peek_word();
        if word.is_empty() || word.starts_with(|c: char| c.is_ascii_digit()) {
            return self.wrong(format!("expected a word, found {}", self.here()));
        }
        self.skip(word.len());
        Ok(word)
    }

    /// An unsigned number, decimal or with `0x`.
    pub fn number(&mut self) -> Parsed<u64> {
        self.space()?;
        let word = self.peek_word();
        let number = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        match number {
            Ok(number) => {
                self.skip(word.len());
                Ok(number)
            }
            Err(_) => self.wrong(format!("expected a number, found {}", self.here())),
        }
    }

    /// A number that the field `name` can hold.
    pub fn field<T: TryFrom<u64>>(&mut self, name: &str) -> Parsed<T> {
        let number = self.number()?;
        match T::try_from(number) {
            Ok(value) => Ok(value),
            Err(_) => self.wrong(format!("{number} is too much for {name}")),
        }
    }

    /// Seconds with a fraction, in microseconds.
    pub fn seconds(&mut self) -> Parsed<i64> {
        self.space()?;
        let rest = self.rest();
        // `0...0.2` is a time, an ellipsis and a time.
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let end = rest[..end].find("...").unwrap_or(end);
        let (whole, fraction) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
        let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
        let micros = match (whole, fraction) {
            ("", "") => None,
            ("", _) => Some(0),
            _ => whole.parse::<i64>().ok(),
        };
        match (micros, digits.parse::<i64>()) {
            (Some(seconds), Ok(micros)) if seconds < 1 << 40 => {
                self.skip(end);
                Ok(seconds * 1_000_000 + micros)
            }
            _ => self.wrong(format!("expected a time in seconds, found {}", self.here())),
        }
    }

    /// Text up to `end`, which is taken, too.
    pub fn until(&mut self, end: &str) -> Parsed<&'a str> {
        match self.rest().find(end) {
            Some(at) => {
                let text = &self.rest()[..at];
                self.skip(at + end.len());
                Ok(text)
            }
            None => self.wrong(format!("`{end}` is missing")),
        }
    }
}
