//! The URL of a Kafka cluster, valid from the moment it exists.

use std::{fmt, str::FromStr};

/// The port of a broker if the URL names none.
const PORT_DEFAULT: u16 = 9092;

/// Partitions of a topic that is created, if the URL does not say. Of one group, that many
/// consumers can be at work at the same time.
const PARTITIONS_DEFAULT: u16 = 12;

/// More partitions than this are a typing error rather than a wish.
const PARTITIONS_MAX: u16 = 1000;

/// The longest topic that Kafka takes; groups are held to the same.
const NAME_LENGTH_MAX: usize = 249;

/// A URL that breaks a rule. Never quotes it, since it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kafka url is not valid: {rule}")]
pub struct KafkaUrlError {
    /// The rule it breaks.
    pub rule: String,
}

fn error(rule: impl Into<String>) -> KafkaUrlError {
    KafkaUrlError { rule: rule.into() }
}

/// What proves to a broker who we are, by SASL PLAIN (RFC 4616).
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaCredentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for KafkaCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaCredentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A Kafka cluster and what to use in it:
/// `kafka://[user:password@]host[:port][,host[:port]…][/topic][?parameter=value&…]`.
///
/// Parameters: `group` of the consumers and `partitions` of a topic that has to be created.
/// `tls` may only be `false` and `sasl` only `PLAIN`: the client is built without OpenSSL,
/// so it speaks neither TLS nor SCRAM. User, password and parameters may be
/// percent-encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaUrl {
    brokers: String,
    topic: Option<String>,
    group: Option<String>,
    partitions: u16,
    credentials: Option<KafkaCredentials>,
}

impl KafkaUrl {
    /// `host:port` of every broker to begin with, separated by commas.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The topic, if the URL names one.
    pub fn topic(&self) -> Option<&str> {
        self.topic.as_deref()
    }

    /// The group of the consumers, if the URL names one.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// How many partitions a topic gets that has to be created.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// User and password, if the URL has them.
    pub fn credentials(&self) -> Option<&KafkaCredentials> {
        self.credentials.as_ref()
    }

    fn set_parameters(&mut self, query: &str) -> Result<(), KafkaUrlError> {
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "group" => self.group = Some(parse_group(&value)?),
                "partitions" => self.partitions = parse_partitions(&value)?,
                "tls" if value == "false" => {}
                "tls" => return Err(error("this program is built without TLS for Kafka")),
                "sasl" if value == "PLAIN" => {}
                "sasl" => return Err(error("sasl can only be PLAIN")),
                // Part of a password that was not encoded may reach as far as this.
                _ => {
                    return Err(error(
                        "it has a parameter that does not exist; its parameters are group, \
                         partitions, tls and sasl",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl FromStr for KafkaUrl {
    type Err = KafkaUrlError;

    fn from_str(text: &str) -> Result<Self, KafkaUrlError> {
        let rest = text
            .strip_prefix("kafka://")
            .ok_or_else(|| error("it must begin with kafka://"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, topic) = match place.split_once('/') {
            Some((authority, topic)) => (authority, (!topic.is_empty()).then_some(topic)),
            None => (place, None),
        };
        let (credentials, brokers) = match authority.rsplit_once('@') {
            Some((credentials, brokers)) => (Some(parse_credentials(credentials)?), brokers),
            None => (None, authority),
        };
        let brokers: Vec<String> = brokers
            .split(',')
            .map(parse_broker)
            .collect::<Result<_, _>>()?;
        let mut url = Self {
            brokers: brokers.join(","),
            topic: topic.map(parse_topic).transpose()?,
            group: None,
            partitions: PARTITIONS_DEFAULT,
            credentials,
        };
        url.set_parameters(query)?;
        Ok(url)
    }
}

fn parse_credentials(text: &str) -> Result<KafkaCredentials, KafkaUrlError> {
    let (user, password) = text
        .split_once(':')
        .ok_or_else(|| error("a user needs a password"))?;
    let (user, password) = (decode(user), decode(password));
    if user.is_empty() || password.is_empty() {
        return Err(error("user and password must not be empty"));
    }
    if user.contains('\0') || password.contains('\0') {
        return Err(error("user and password must not contain a zero byte"));
    }
    Ok(KafkaCredentials { user, password })
}

/// Decodes percent-encoded text.
fn decode(text: &str) -> String {
    // The parser of queries does it, if nothing is left that has a meaning only there.
    let value = text.replace('+', "%2B").replace('&', "%26");
    form_urlencoded::parse(format!("v={value}").as_bytes())
        .map(|(_, value)| value.into_owned())
        .collect()
}

fn parse_broker(text: &str) -> Result<String, KafkaUrlError> {
    let rule = || error("it must name brokers as host or host:port, separated by commas");
    // The colons of an IPv6 address are inside brackets.
    let has_port = text.rfind(':') > text.rfind(']');
    let (host, port) = if has_port {
        text.rsplit_once(':').ok_or_else(rule)?
    } else {
        (text, "")
    };
    let port = match port {
        "" if !has_port => PORT_DEFAULT,
        digits => digits.parse().map_err(|_| rule())?,
    };
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    if !is_host || port == 0 {
        return Err(rule());
    }
    Ok(format!("{host}:{port}"))
}

fn parse_topic(text: &str) -> Result<String, KafkaUrlError> {
    let is_topic = (1..=NAME_LENGTH_MAX).contains(&text.len())
        && ![".", ".."].contains(&text)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_topic {
        Ok(text.to_owned())
    } else {
        Err(error(format!(
            "a topic has 1 to {NAME_LENGTH_MAX} letters, digits, '.', '_' or '-'"
        )))
    }
}

fn parse_group(text: &str) -> Result<String, KafkaUrlError> {
    if (1..=NAME_LENGTH_MAX).contains(&text.len()) && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(error(format!(
            "group must have 1 to {NAME_LENGTH_MAX} bytes without control characters"
        )))
    }
}

fn parse_partitions(text: &str) -> Result<u16, KafkaUrlError> {
    text.parse()
        .ok()
        .filter(|partitions| (1..=PARTITIONS_MAX).contains(partitions))
        .ok_or_else(|| error(format!("partitions must be 1 to {PARTITIONS_MAX}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> KafkaUrl {
        text.parse().expect(text)
    }

    fn rule(text: &str) -> String {
        text.parse::<KafkaUrl>().expect_err(text).rule
    }

    #[test]
    fn everything_but_a_broker_has_a_default() {
        let url = parse("kafka://broker");
        assert_eq!(url.brokers(), "broker:9092");
        assert_eq!((url.topic(), url.group()), (None, None));
        assert_eq!(url.partitions(), 12);
        assert_eq!(url.credentials(), None);
        assert_eq!(parse("kafka://broker/?tls=false&sasl=PLAIN"), url);
    }

    #[test]
    fn everything_can_be_said() {
        let url = parse("kafka://me:p%40ss+%26@a.b:1,[::1]:2,c_d/jobs.v1?group=a%20b&partitions=3");
        assert_eq!(url.brokers(), "a.b:1,[::1]:2,c_d:9092");
        assert_eq!(url.topic(), Some("jobs.v1"));
        assert_eq!(url.group(), Some("a b"));
        assert_eq!(url.partitions(), 3);
        let credentials = url.credentials().expect("credentials");
        assert_eq!(credentials.user, "me");
        assert_eq!(credentials.password, "p@ss+&");
    }

    #[test]
    fn broken_rules_are_named() {
        for (text, part) in [
            ("redis://a", "kafka://"),
            ("kafka://", "host:port"),
            ("kafka://a,,b", "host:port"),
            ("kafka://a:", "host:port"),
            ("kafka://a:0", "host:port"),
            ("kafka://a:99999", "host:port"),
            ("kafka://[::g]:1", "host:port"),
            ("kafka://me@a", "password"),
            ("kafka://:x@a", "empty"),
            ("kafka://a/b/c", "a topic has"),
            ("kafka://a/..", "a topic has"),
            ("kafka://a?group=", "group"),
            ("kafka://a?partitions=0", "partitions"),
            ("kafka://a?partitions=1001", "partitions"),
            ("kafka://a?tls=true", "built without TLS"),
            ("kafka://me:x@a?sasl=SCRAM-SHA-256", "PLAIN"),
            ("kafka://a?groups=b", "parameters are group"),
            ("kafka://me:12?hunter2@a", "parameters are group"),
        ] {
            assert!(rule(text).contains(part), "{text}: {}", rule(text));
        }
    }

    proptest! {
        #[test]
        fn password_is_never_shown(before in "[a:@/?&=,%+]{0,3}", after in "[a:@/?&=,%+]{0,3}") {
            let text = format!("kafka://me:{before}hunter2{after}@host/topic?group=g");
            let shown = match text.parse::<KafkaUrl>() {
                Ok(url) => {
                    // Only what is part of a host, a topic or a group may be seen.
                    prop_assume!(url.credentials().is_some());
                    format!("{url:?}")
                }
                Err(error) => error.to_string(),
            };
            prop_assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
