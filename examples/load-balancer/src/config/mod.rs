//! The configuration: one TOML file, understood whole or refused.

mod check;
mod schema;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use schema::*;
pub(crate) use values::*;

/// Every key with its default, as `--print-default` shows it.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// What is wrong with a file.
#[derive(Debug)]
pub(crate) struct ConfigError {
    file: PathBuf,
    /// From 1; 0 where it is about the file.
    line: usize,
    /// The line, which has key and value.
    text: String,
    message: String,
}

impl ConfigError {
    fn at(file: &Path, source: &str, offset: usize, message: impl Into<String>) -> ConfigError {
        if offset == check::FILE {
            let (file, message) = (file.to_owned(), message.into());
            return ConfigError { file, line: 0, text: String::new(), message };
        }
        let before = &source.as_bytes()[..offset.min(source.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let text = source.lines().nth(line - 1).unwrap_or_default().trim().to_owned();
        ConfigError { file: file.to_owned(), line, text, message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}: {}", self.file.display(), self.text, self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads and checks a file.
///
/// # Errors
/// What is wrong first, with file, line, key, value and what is accepted.
pub(crate) fn load(file: &Path) -> Result<Config, ConfigError> {
    let source = std::fs::read_to_string(file).map_err(|error| ConfigError {
        file: file.to_owned(),
        line: 0,
        text: String::new(),
        message: error.to_string(),
    })?;
    parse(file, &source)
}

/// Understands the text of a file.
///
/// # Errors
/// As for [`load`].
pub(crate) fn parse(file: &Path, source: &str) -> Result<Config, ConfigError> {
    let config: Config = toml::from_str(source).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        ConfigError::at(file, source, offset, error.message().trim())
    })?;
    match check::problem(&config) {
        Some((offset, message)) => Err(ConfigError::at(file, source, offset, message)),
        None => Ok(config),
    }
}

#[cfg(test)]
mod tests;
