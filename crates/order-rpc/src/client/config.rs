//! Where the service is and how it is called.

use std::time::Duration;

use http::{Uri, uri::Scheme};

/// Where the service is and how it is called.
#[derive(Clone, Debug)]
pub struct RpcClientConfig {
    /// Where the service is, each like `http://host:50051`; a name may stand for several
    /// replicas, and calls go to all of them in turn. From `ORDER_SERVICE_URL`.
    pub urls: Vec<String>,
    /// HTTP/2 connections over all addresses, at least one for each address. One connection
    /// is driven by one task, so a single one would leave the other cores idle.
    pub connections: usize,
    /// How long making a connection may take, and how long looking up a name.
    pub connect_timeout: Duration,
    /// How often names are looked up again, more or less; up to five times as often while
    /// calls fail.
    pub resolve_interval: Duration,
    /// The time of a call whose context has no deadline.
    pub deadline_default: Duration,
    /// Calls under way at the same time; one more fails with `OVERLOADED`.
    pub in_flight_max: usize,
    /// The name of this process, if it takes requests from clients: it is recorded with the orders
    /// that it creates. At most 128 printable ASCII characters; any other name is not sent.
    pub gateway: Option<String>,
}

impl RpcClientConfig {
    /// The defaults for the service at `urls`.
    pub fn new(urls: Vec<String>) -> Self {
        Self {
            urls,
            connections: 4,
            connect_timeout: Duration::from_secs(2),
            resolve_interval: Duration::from_secs(5),
            deadline_default: Duration::from_secs(5),
            in_flight_max: 8192,
            gateway: None,
        }
    }
}

/// An address cannot be one of the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no address.
    #[error("ORDER_SERVICE_URL must have at least one URL like http://host:50051")]
    NoUrl,
    /// One address is not valid. Its text is left out: it may hold a password.
    #[error("ORDER_SERVICE_URL: URL {position} {rule}, like http://host:50051")]
    InvalidUrl {
        /// Which one, counted from 1.
        position: usize,
        /// The rule it breaks.
        rule: &'static str,
    },
}

/// A valid address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// For the `:authority` of requests.
    pub(super) origin: Uri,
    /// A name or an IP address, the latter without brackets.
    pub(super) host: String,
    /// The TCP port.
    pub(super) port: u16,
}

/// Reads all addresses.
pub(super) fn targets(urls: &[String]) -> Result<Vec<Target>, ConfigError> {
    if urls.is_empty() {
        return Err(ConfigError::NoUrl);
    }
    let target = |(n, url): (usize, &String)| {
        target(url).map_err(|rule| ConfigError::InvalidUrl {
            position: n + 1,
            rule,
        })
    };
    urls.iter().enumerate().map(target).collect()
}

fn target(url: &str) -> Result<Target, &'static str> {
    let origin: Uri = url.trim().parse().map_err(|_| "must be a URL")?;
    if origin.scheme() != Some(&Scheme::HTTP) {
        return Err("must begin with http://");
    }
    let authority = origin.authority().ok_or("must have a host")?;
    if authority.as_str().contains('@') {
        return Err("must not have a user");
    }
    if !matches!(origin.path(), "" | "/") || origin.query().is_some() {
        return Err("must not have a path");
    }
    let host = authority.host().trim_matches(['[', ']']);
    if host.is_empty() {
        return Err("must have a host");
    }
    let port = authority.port_u16().ok_or("must have a port")?;
    Ok(Target {
        host: host.to_owned(),
        port,
        origin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (url, host, port) in [
            ("http://order-service:50051", "order-service", 50051),
            (" http://127.0.0.1:1/ ", "127.0.0.1", 1),
            ("http://[::1]:50051", "::1", 50051),
        ] {
            let targets = targets(&[url.to_owned()]).expect(url);
            let found: Vec<_> = targets.iter().map(|t| (t.host.as_str(), t.port)).collect();
            assert_eq!(found, [(host, port)]);
        }
    }

    #[test]
    fn error_names_the_setting_the_url_and_the_rule() {
        assert_eq!(targets(&[]), Err(ConfigError::NoUrl));
        for (bad, rule) in [
            ("", "must be a URL"),
            ("order-service:50051", "must begin with http://"),
            ("https://order-service:50051", "must begin with http://"),
            ("postgres://order-service:50051", "must begin with http://"),
            ("http://order-service", "must have a port"),
            ("http://order-service:port", "must have a port"),
            ("http://u:secret@order-service:1", "must not have a user"),
            ("http://order-service:1/v1", "must not have a path"),
            ("http://order-service:1?a=b", "must not have a path"),
        ] {
            let error = targets(&["http://a:1".to_owned(), bad.to_owned()])
                .expect_err(bad)
                .to_string();
            let start = format!("ORDER_SERVICE_URL: URL 2 {rule}");
            assert!(error.starts_with(&start), "{bad}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
