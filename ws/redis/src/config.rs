//! Where the engine is, and the bounds of what is kept for it.

use std::time::Duration;

use http::Uri;
use percent_encoding::percent_decode_str;
#[cfg(feature = "tls")]
use throng_tls::Connector;

use crate::CHANNEL;

/// Settings of a [`Redis`](crate::Redis).
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    #[cfg(feature = "tls")]
    pub(crate) connector: Option<Connector>,
    /// What stands before a topic's name in that of its channel, so that several applications
    /// can share an engine. Default `throng:`.
    pub prefix: String,
    /// Bytes of messages that may wait for the engine, with what keeping them costs; beyond it
    /// the oldest are dropped. Default 16 MiB.
    pub max_waiting: usize,
    /// Largest message sent or taken, in bytes. A larger one is not sent; the engine's
    /// connection is given up where one comes. Default 1 MiB.
    pub max_message: usize,
    /// How long the engine may take to be connected to, to let us in, and to answer. One that
    /// has nothing to say is asked when it has been silent for as long. Default 5 s.
    pub timeout: Duration,
    /// How long to wait after the first failure, on average three quarters of it; after each
    /// further one twice as long. Default 100 ms.
    pub first_backoff: Duration,
    /// The longest wait. Default 10 s.
    pub max_backoff: Duration,
    /// Whether the engine is reached by the host's own sockets, whatever the shard's device is.
    /// Default false.
    pub kernel: bool,
}

/// Why an URL is none of ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS.
    #[error("'{url}': {why}; expected redis://[[user]:password@]host[:port], or rediss:// for TLS")]
    Url {
        /// The URL, without its password.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The roots that servers are to be trusted by cannot be read.
    #[cfg(feature = "tls")]
    #[error("rediss://: {0}")]
    Tls(#[from] throng_tls::ConfigError),
}

impl Config {
    /// From `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, with everything special in user
    /// and password percent-encoded; the port is 6379 by default. Channels belong to no
    /// database, so that it does not matter. `rediss://` is TLS (feature `tls`) with the
    /// platform's roots, whose files are read before this returns.
    ///
    /// # Errors
    /// [`ConfigError::Url`]; [`ConfigError::Tls`] where the platform has no roots.
    pub fn from_url(url: &str) -> Result<Config, ConfigError> {
        let (config, tls) = Config::parse(url)?;
        #[cfg(feature = "tls")]
        if tls {
            return Ok(config.connector(Connector::platform()?));
        }
        match tls {
            true => Err(wrong(url, "TLS needs the feature tls")),
            false => Ok(config),
        }
    }

    /// As [`from_url`](Self::from_url), for `rediss://` only, with a connector of one's own.
    ///
    /// # Errors
    /// [`ConfigError::Url`], also for `redis://`.
    #[cfg(feature = "tls")]
    pub fn from_url_with(url: &str, connector: Connector) -> Result<Config, ConfigError> {
        match Config::parse(url)? {
            (config, true) => Ok(config.connector(connector)),
            _ => Err(wrong(url, "not rediss://")),
        }
    }

    #[cfg(feature = "tls")]
    fn connector(mut self, connector: Connector) -> Config {
        self.connector = Some(connector);
        self
    }

    /// The settings, and whether they are for TLS.
    fn parse(url: &str) -> Result<(Config, bool), ConfigError> {
        let uri: Uri = url.parse().map_err(|_| wrong(url, "not an URL"))?;
        let tls = match uri.scheme_str() {
            Some("redis" | "valkey") => false,
            Some("rediss" | "valkeys") => true,
            _ => return Err(wrong(url, "another scheme")),
        };
        let authority = uri.authority().ok_or_else(|| wrong(url, "no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong(url, "no host"));
        }
        if authority.port_u16().is_none() && !authority.as_str().ends_with(authority.host()) {
            return Err(wrong(url, "no port"));
        }
        let database = uri.path().trim_start_matches('/');
        if uri.query().is_some() || !database.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong(url, "more than a database behind the host"));
        }
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(|text| text.into_owned()).map_err(|_| wrong(url, "no UTF-8"))
        };
        let (mut user, mut password) = (None, None);
        if let Some((login, _)) = authority.as_str().rsplit_once('@') {
            let (name, secret) =
                login.split_once(':').ok_or_else(|| wrong(url, "a user without a password"))?;
            user = Some(decoded(name)?).filter(|name| !name.is_empty());
            password = Some(decoded(secret)?);
        }
        let config = Config {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(6379),
            user,
            password,
            #[cfg(feature = "tls")]
            connector: None,
            prefix: "throng:".to_owned(),
            max_waiting: 16 << 20,
            max_message: 1 << 20,
            timeout: Duration::from_secs(5),
            first_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            kernel: false,
        };
        Ok((config, tls))
    }

    /// Sets [`Config::prefix`].
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets [`Config::max_waiting`], in bytes.
    #[must_use]
    pub fn max_waiting(mut self, bytes: usize) -> Self {
        self.max_waiting = bytes;
        self
    }

    /// Sets [`Config::max_message`], in bytes.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Sets [`Config::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`Config::first_backoff`] and [`Config::max_backoff`].
    #[must_use]
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        (self.first_backoff, self.max_backoff) = (first, max);
        self
    }

    /// Sets [`Config::kernel`].
    #[must_use]
    pub fn kernel(mut self, kernel: bool) -> Self {
        self.kernel = kernel;
        self
    }

    /// The channel of a topic.
    pub(crate) fn channel(&self, topic: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), topic.as_bytes()].concat()
    }

    /// Whether the name of a topic's channel is not too long.
    pub(crate) fn has_channel(&self, topic: &str) -> bool {
        self.prefix.len() + topic.len() <= CHANNEL
    }

    /// The longest wait after `failures` of them, at least one.
    pub(crate) fn backoff_after(&self, failures: u32) -> Duration {
        let doubled = self.first_backoff.saturating_mul(1 << (failures - 1).min(20));
        doubled.min(self.max_backoff)
    }
}

impl std::fmt::Debug for Config {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

fn wrong(url: &str, why: &'static str) -> ConfigError {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let shown = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    ConfigError::Url { url: format!("{scheme}://{shown}"), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_who() {
        let config = |url| Config::parse(url).unwrap();
        let (plain, tls) = config("redis://localhost");
        assert_eq!((plain.host.as_str(), plain.port, tls), ("localhost", 6379, false));
        assert_eq!((plain.user, plain.password), (None, None));
        let (login, tls) = config("rediss://me:p%40s%2Fs@[::1]:7000/3");
        assert_eq!((login.host.as_str(), login.port, tls), ("::1", 7000, true));
        assert_eq!((login.user.as_deref(), login.password.as_deref()), (Some("me"), Some("p@s/s")));
        let (secret, _) = config("redis://:word@h");
        assert_eq!((secret.user, secret.password.as_deref()), (None, Some("word")));
        assert!(!format!("{:?}", config("redis://a:hidden@h").0).contains("hidden"));
    }

    #[test]
    fn what_is_no_url_of_ours_is_said_without_its_password() {
        for url in [
            "localhost:6379",
            "http://localhost",
            "redis://",
            "redis://me@host",
            "redis://a:hidden@host/x",
            "redis://a:hidden@host/0?db=1",
            "redis://a:hidden@host:port",
        ] {
            let error = Config::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hidden") && error.contains("expected redis://"), "{error}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let config = Config::parse("redis://h").unwrap().0;
        let waits = [1, 2, 3, 7, 8, 1_000].map(|n| config.backoff_after(n).as_millis());
        assert_eq!(waits, [100, 200, 400, 6_400, 10_000, 10_000]);
    }
}
