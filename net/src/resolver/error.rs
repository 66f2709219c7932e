//! Why a name has no addresses.

use std::io;

/// Why a lookup failed. As an [`io::Error`] it is the inner error, to be found by
/// `error.get_ref()` and `downcast_ref`, and its kind is the one named here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a host name: empty, longer than 253 bytes, a label longer than 63, a character
    /// other than letters, digits, `-` and `_`, or digits alone in the last label (an address
    /// that is none). `InvalidInput`.
    #[error("{name:?} is not a host name: {why}")]
    BadName {
        /// What was asked for.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name does not exist (NXDOMAIN). `NotFound`.
    #[error("{0}: there is no such name")]
    NoSuchName(String),
    /// The name exists, but has no address of a family we can use (NODATA).
    /// `AddrNotAvailable`.
    #[error("{0}: the name has no address")]
    NoAddress(String),
    /// No server answered in time. `TimedOut`.
    #[error("{0}: no name server answered")]
    TimedOut(String),
    /// The servers answered with errors, or with messages that make no sense. `Other`.
    #[error("{name}: the name servers failed: {why}")]
    ServerFailure {
        /// The name asked for.
        name: String,
        /// What the last server said.
        why: String,
    },
    /// Aliases (CNAME) lead in a circle, or over more than 16 steps. `InvalidData`.
    #[error("{0}: too many aliases")]
    TooManyAliases(String),
    /// There is no name server to ask. `NetworkUnreachable`.
    #[error("{0}: no name server is configured")]
    NoServer(String),
    /// More than 1,024 questions of this shard wait for an answer. `QuotaExceeded`.
    #[error("{0}: too many lookups at once")]
    Busy(String),
}

impl Error {
    /// Which of several errors says most about a lookup.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Error::NoSuchName(_) => 0,
            Error::NoAddress(_) => 1,
            Error::NoServer(_) => 2,
            Error::TooManyAliases(_) => 3,
            Error::ServerFailure { .. } => 4,
            Error::Busy(_) | Error::TimedOut(_) | Error::BadName { .. } => 5,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::BadName { .. } => io::ErrorKind::InvalidInput,
            Error::NoSuchName(_) => io::ErrorKind::NotFound,
            Error::NoAddress(_) => io::ErrorKind::AddrNotAvailable,
            Error::TimedOut(_) => io::ErrorKind::TimedOut,
            Error::ServerFailure { .. } => io::ErrorKind::Other,
            Error::TooManyAliases(_) => io::ErrorKind::InvalidData,
            Error::NoServer(_) => io::ErrorKind::NetworkUnreachable,
            Error::Busy(_) => io::ErrorKind::QuotaExceeded,
        };
        io::Error::new(kind, error)
    }
}
