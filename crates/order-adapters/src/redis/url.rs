//! Where a Redis is, valid from the moment it exists.
//!
//! Invariant: neither an error nor the text of a URL ever shows a user or a password.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, TlsCertificates};
use reqwest::Url;

use super::connect::Server;

/// What keys and channels begin with if the URL does not say.
const PREFIX_DEFAULT: &str = "orders";

/// A URL of Redis that breaks a rule. Never repeats the URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a url of redis {rule}")]
pub struct RedisUrlError {
    /// The rule it broke.
    pub rule: String,
}

impl RedisUrlError {
    fn new(rule: impl Into<String>) -> Self {
        Self { rule: rule.into() }
    }
}

/// A Redis that carries hints and events:
/// `redis://[[user]:password@]host[:port][/database]`, or `rediss://` for TLS.
///
/// Parameters: `prefix`, what all keys and channels begin with (`orders`); `ca`, a PEM file
/// with the certificates to trust with `rediss://`, instead of the public authorities.
#[derive(Clone)]
pub struct RedisUrl {
    pub(super) server: Server,
    pub(super) prefix: String,
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Parts { url, parameters } = Parts::read(text)?;
        let (mut prefix, mut ca) = (PREFIX_DEFAULT.to_owned(), None);
        for (name, value) in parameters {
            match name.as_str() {
                "prefix" if value.is_empty() => {
                    return Err(RedisUrlError::new("must not have an empty prefix"));
                }
                "prefix" => prefix = value,
                "ca" => ca = Some(value),
                _ => return Err(unknown("prefix and ca")),
            }
        }
        let server = server(url, ca.as_deref())?;
        Ok(Self { server, prefix })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.server.name())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl")
            .field("server", &self.server.name())
            .field("prefix", &self.prefix)
            .finish()
    }
}

/// A stream that systems outside read events from:
/// `redis://[[user]:password@]host[:port]/stream`, or `rediss://` for TLS. The whole path
/// is the key of the stream.
///
/// Parameters: `db`, the database (0); `maxlen`, about how many events the stream keeps
/// (all); `ca` as in [`RedisUrl`].
#[derive(Clone)]
pub struct RedisStreamUrl {
    pub(super) server: Server,
    pub(super) key: String,
    pub(super) maxlen: Option<u64>,
}

impl FromStr for RedisStreamUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Parts {
            mut url,
            parameters,
        } = Parts::read(text)?;
        // A key with spaces or other letters would arrive here in another spelling.
        let key = url.path().trim_start_matches('/').to_owned();
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
        if key.is_empty() || !key.bytes().all(is_plain) {
            return Err(RedisUrlError::new(
                "must name the stream in plain ascii, like redis://host/order-events",
            ));
        }
        let (mut database, mut maxlen, mut ca) = (0_u32, None, None);
        for (name, value) in parameters {
            match name.as_str() {
                "db" => database = number(&name, &value)?,
                "maxlen" => maxlen = Some(number::<u64>(&name, &value)?.max(1)),
                "ca" => ca = Some(value),
                _ => return Err(unknown("db, maxlen and ca")),
            }
        }
        url.set_path(&format!("/{database}"));
        let server = server(url, ca.as_deref())?;
        Ok(Self {
            server,
            key,
            maxlen,
        })
    }
}

impl fmt::Display for RedisStreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server.name(), self.key)
    }
}

impl fmt::Debug for RedisStreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreamUrl")
            .field("server", &self.server.name())
            .field("key", &self.key)
            .field("maxlen", &self.maxlen)
            .finish()
    }
}

/// Does not name the parameter: part of a password that was not encoded may reach as far as this.
fn unknown(known: &str) -> RedisUrlError {
    RedisUrlError::new(format!(
        "has a parameter that does not exist; its parameters are {known}, and in a password \
         write ? as %3F"
    ))
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, RedisUrlError> {
    value
        .parse()
        .map_err(|_| RedisUrlError::new(format!("needs a number for {name}")))
}

/// A URL without its parameters, and these.
struct Parts {
    url: Url,
    parameters: Vec<(String, String)>,
}

impl Parts {
    fn read(text: &str) -> Result<Self, RedisUrlError> {
        let mut url =
            Url::parse(text).map_err(|_| RedisUrlError::new("must look like redis://host:6379"))?;
        if !matches!(url.scheme(), "redis" | "rediss") {
            return Err(RedisUrlError::new(
                "must begin with redis:// or, for TLS, rediss://",
            ));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(RedisUrlError::new("must name a host"));
        }
        if url.fragment().is_some() {
            return Err(RedisUrlError::new(
                "must have no fragment; in a password write # as %23",
            ));
        }
        if !url.username().is_empty() && url.password().is_none() {
            return Err(RedisUrlError::new(
                "names a user without a password; a password alone is written :password@",
            ));
        }
        let parameters = url.query_pairs().into_owned().collect();
        url.set_query(None);
        Ok(Self { url, parameters })
    }
}

fn server(url: Url, ca: Option<&str>) -> Result<Server, RedisUrlError> {
    // What the driver says about a URL is about its form and repeats none of it.
    let driver = |error: redis::RedisError| RedisUrlError::new(format!("is not valid: {error}"));
    let is_tls = url.scheme() == "rediss";
    let info = url.into_connection_info().map_err(driver)?;
    // Version 3 can tell messages of channels from answers, so one kind of connection serves
    // for all.
    let settings = info.redis_settings().clone();
    let info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3));
    let name = match info.addr() {
        ConnectionAddr::Tcp(host, port) => format!("redis://{}:{port}", bracketed(host)),
        ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{}:{port}", bracketed(host)),
        _ => return Err(RedisUrlError::new("must name a host")),
    };
    let client = match ca {
        None => redis::Client::open(info),
        Some(_) if !is_tls => return Err(RedisUrlError::new("has ca only with rediss://")),
        Some(path) => {
            let pem = std::fs::read(path)
                .map_err(|error| RedisUrlError::new(format!("names a ca file: {error}")))?;
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(pem),
            };
            redis::Client::build_with_tls(info, certificates)
        }
    };
    Ok(Server::new(client.map_err(driver)?, name))
}

/// A host as a URL spells it.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_shown_without_user_and_password() {
        for (text, shown) in [
            ("redis://db", "redis://db:6379"),
            ("redis://:hunter2@db:1/3", "redis://db:1"),
            ("redis://u:hunter2@[::1]", "redis://[::1]:6379"),
            ("rediss://u:hunter%402@db?prefix=x", "rediss://db:6379"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown, "{text}");
            assert!(!format!("{url:?}").contains("hunter"), "{url:?}");
        }
    }

    #[test]
    fn prefix_has_a_default() {
        let prefix = |text: &str| text.parse::<RedisUrl>().unwrap().prefix;
        assert_eq!(prefix("redis://db"), "orders");
        assert_eq!(prefix("redis://db/1?prefix=shop%3A1"), "shop:1");
    }

    #[test]
    fn bad_url_is_named_by_its_rule_and_never_quoted() {
        for (text, expected) in [
            ("", "redis://"),
            ("db:6379", "redis://"),
            ("http://u:hunter2@db", "rediss://"),
            ("redis+unix:///hunter2", "rediss://"),
            ("redis://", "host"),
            ("redis://u:hunter2@db:port", "redis://host:6379"),
            ("redis://u:hunter2@db/zero", "database"),
            ("redis://hunter2@db", "user without a password"),
            ("redis://u:hunter2@db#insecure", "fragment"),
            ("redis://u:hunter2@db?prefix=", "prefix"),
            ("redis://u:hunter2@db?prefex=x", "parameters are prefix"),
            ("redis://u:12?hunter2@db", "parameters are prefix"),
            ("redis://u:hunter2@db?ca=/x", "only with rediss"),
            ("rediss://u:hunter2@db?ca=/no/such/file", "ca file"),
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter"), "{error}");
        }
    }

    #[test]
    fn path_of_a_stream_url_is_its_key() {
        let url: RedisStreamUrl = "redis://u:hunter2@db/shop:events/1?db=2&maxlen=1000"
            .parse()
            .unwrap();
        assert_eq!(url.to_string(), "redis://db:6379/shop:events/1");
        assert_eq!(
            (url.key.as_str(), url.maxlen),
            ("shop:events/1", Some(1000))
        );
        assert_eq!(url.server.database(), 2);
        for (text, expected) in [
            ("redis://db", "name the stream"),
            ("redis://db/", "name the stream"),
            ("redis://db/two words", "name the stream"),
            ("redis://db/x?db=one", "number for db"),
            ("redis://db/x?maxlen=", "number for maxlen"),
            ("redis://db/x?prefix=y", "parameters are db"),
        ] {
            let error = text.parse::<RedisStreamUrl>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
