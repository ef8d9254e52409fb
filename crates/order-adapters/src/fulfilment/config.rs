//! Settings of the fulfilment endpoint, each valid from the moment it exists.

use std::{net::IpAddr, str::FromStr, time::Duration};

use order_core::IpNetwork;
use reqwest::Url;

use super::{FulfilmentConfigError, signature::FulfilmentSecrets};

/// Where orders are posted: an `http` or `https` URL without a user name, a password or a
/// fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct FulfilmentUrl(Url);

impl FulfilmentUrl {
    pub(super) const fn as_url(&self) -> &Url {
        &self.0
    }

    /// The address, if the host is one. The URL parser has brought all its spellings into
    /// one form.
    pub(super) fn literal_address(&self) -> Option<IpAddr> {
        let host = self.0.host_str()?;
        let inner = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or(host).parse().ok()
    }
}

impl FromStr for FulfilmentUrl {
    type Err = FulfilmentConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |rule: &str| FulfilmentConfigError::new("FULFILMENT_URL", rule);
        let url = Url::parse(text)
            .map_err(|_| error("must be a URL like https://shop.example/fulfilment"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(error("must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(error(
                "must have no user name and no password; requests are signed",
            ));
        }
        if url.fragment().is_some() {
            return Err(error("must have no fragment"));
        }
        Ok(Self(url))
    }
}

/// Shows where the endpoint is, without a path and a query that may be somebody's secret.
impl std::fmt::Debug for FulfilmentUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let origin = self.0.origin().ascii_serialization();
        f.debug_tuple("FulfilmentUrl").field(&origin).finish()
    }
}

/// How orders are handed to the fulfilment endpoint.
#[derive(Clone, Debug)]
pub struct FulfilmentConfig {
    /// Where orders are posted.
    pub url: FulfilmentUrl,
    /// What signs the requests.
    pub secrets: FulfilmentSecrets,
    /// How long one request may take, from the lookup of the name to the end of the answer;
    /// 1 s to 60 s.
    pub timeout: Duration,
    /// Networks in which the endpoint may be although they are not public.
    pub allowed_networks: Vec<IpNetwork>,
}

impl FulfilmentConfig {
    /// The time a request has if nobody says otherwise.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
    /// The least time a request can be given.
    pub const TIMEOUT_MIN: Duration = Duration::from_secs(1);
    /// The most time a request can be given.
    pub const TIMEOUT_MAX: Duration = Duration::from_mins(1);

    /// Checks what no field can know alone.
    pub(super) fn check(&self) -> Result<(), FulfilmentConfigError> {
        if !(Self::TIMEOUT_MIN..=Self::TIMEOUT_MAX).contains(&self.timeout) {
            let rule = "must be between 1s and 60s";
            return Err(FulfilmentConfigError::new("FULFILMENT_TIMEOUT", rule));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> String {
        text.parse::<FulfilmentUrl>().unwrap_err().to_string()
    }

    #[test]
    fn url_needs_a_scheme_that_is_spoken_and_no_credentials() {
        assert!(
            "https://shop.example/orders?tenant=1"
                .parse::<FulfilmentUrl>()
                .is_ok()
        );
        assert!(rule("shop.example").starts_with("FULFILMENT_URL must be a URL"));
        assert!(rule("https://").starts_with("FULFILMENT_URL must be a URL"));
        assert!(rule("ftp://shop.example").contains("http:// or https://"));
        assert!(rule("https://user:hunter2@shop.example").contains("no user name"));
        assert!(rule("https://:hunter2@shop.example").contains("no password"));
        assert!(rule("https://shop.example#part").contains("no fragment"));
        assert!(!rule("https://user:hunter2@shop.example").contains("hunter2"));
    }

    #[test]
    fn every_spelling_of_an_address_is_seen() {
        for (text, address) in [
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://0x7f.1/", "127.0.0.1"),
            ("http://127.0.0.1./", "127.0.0.1"),
            ("http://[::ffff:7f00:1]:8080/", "::ffff:127.0.0.1"),
        ] {
            let url: FulfilmentUrl = text.parse().unwrap();
            assert_eq!(
                url.literal_address(),
                Some(address.parse().unwrap()),
                "{text}"
            );
        }
        let url: FulfilmentUrl = "http://localhost/".parse().unwrap();
        assert_eq!(url.literal_address(), None);
    }

    #[test]
    fn path_and_query_are_not_shown() {
        let url: FulfilmentUrl = "https://shop.example/hooks/hunter2?key=hunter2"
            .parse()
            .unwrap();
        assert_eq!(
            format!("{url:?}"),
            "FulfilmentUrl(\"https://shop.example\")"
        );
    }
}
