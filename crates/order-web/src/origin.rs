//! Which web pages of other origins may use the API.
//!
//! Browsers ask for leave to read answers over HTTP (CORS). They ask for none before they open a
//! WebSocket (RFC 6455 §10.2), so the server has to look, or any page could open one.

use std::{fmt, str::FromStr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{
        CONTENT_TYPE, ETAG, HOST, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION, ORIGIN, RETRY_AFTER,
    },
    uri::Authority,
};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what is allowed, in seconds: the most that all of them do.
const MAX_AGE: u64 = 7200;

/// Where a request comes from, as browsers say (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The headers of the API that a page may send besides those that every page may.
const REQUEST_HEADERS: [HeaderName; 9] = [
    CONTENT_TYPE,
    IF_MATCH,
    IF_NONE_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
];

/// The headers of an answer that a page may read besides those that every page may.
const RESPONSE_HEADERS: [HeaderName; 7] = [
    ETAG,
    LINK,
    LOCATION,
    RETRY_AFTER,
    HeaderName::from_static("idempotent-replayed"),
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("x-request-id"),
];

/// The origin of web pages (RFC 6454), as browsers write it: `https://shop.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// The text is not the origin of a web page.
#[derive(Debug, thiserror::Error)]
#[error("must be like https://shop.example or http://localhost:3000, without a path")]
pub struct InvalidOrigin;

impl FromStr for Origin {
    type Err = InvalidOrigin;

    /// Reads an origin as people write it: in any case, and perhaps with the default port or a
    /// slash at the end.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let uri: Uri = text.trim().parse().map_err(|_| InvalidOrigin)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(InvalidOrigin);
        };
        let port_default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(InvalidOrigin),
        };
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(InvalidOrigin);
        }
        let host = authority.host().to_ascii_lowercase();
        let port = authority.port_u16().filter(|port| *port != port_default);
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        Ok(Self(format!("{scheme}://{host}{port}")))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the request may become a WebSocket.
///
/// A request without `Origin` comes from no web page and may. Otherwise there must be one
/// `Origin`. Its host must be the one the request was sent to, on any port (the page of the
/// all-in-one server is on another port than its socket), or it must be one of `allowed`.
/// `null`, the origin of sandboxed pages and local files, is neither.
pub(crate) fn may_upgrade(headers: &HeaderMap, allowed: &[Origin]) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return true;
    };
    if origins.next().is_some() {
        return false;
    }
    is_same_host(origin, headers) || is_listed(origin, allowed)
}

fn is_listed(origin: &HeaderValue, allowed: &[Origin]) -> bool {
    allowed
        .iter()
        .any(|Origin(allowed)| origin == allowed.as_str())
}

fn is_same_host(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let origin = text(origin).and_then(|origin| origin.parse::<Uri>().ok());
    let host = headers.get(HOST).and_then(text);
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let (Some(origin), Some(host)) = (origin, host) else {
        return false;
    };
    matches!(origin.scheme_str(), Some("http" | "https"))
        && origin
            .host()
            .is_some_and(|origin| origin.eq_ignore_ascii_case(host.host()))
}

/// Whether a page of this very origin asks for a change. Browsers say where a request comes from; a
/// client that says nothing has no such page.
pub(crate) fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?;
        value.to_str().ok().filter(|_| values.next().is_none())
    };
    if headers.contains_key(&SEC_FETCH_SITE) {
        return only(SEC_FETCH_SITE) == Some("same-origin");
    }
    let host = uri.authority().map(Authority::as_str);
    let host = host.or_else(|| only(HOST));
    let origin = only(ORIGIN).and_then(|origin| {
        let schemes = ["http://", "https://"];
        schemes
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme))
    });
    host.is_some() && origin == host
}

/// Lets pages of these origins send every request of the API and read every answer.
pub(crate) fn cors(allowed: Vec<Origin>) -> CorsLayer {
    let is_allowed = move |origin: &HeaderValue, _: &_| is_listed(origin, &allowed);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(REQUEST_HEADERS)
        .expose_headers(RESPONSE_HEADERS)
        .max_age(std::time::Duration::from_secs(MAX_AGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().expect("an origin")
    }

    fn check(host: &str, origins: &[&str], allowed: &[Origin]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).expect("a header value"));
        for origin in origins {
            let origin = HeaderValue::from_str(origin).expect("a header value");
            headers.append(ORIGIN, origin);
        }
        may_upgrade(&headers, allowed)
    }

    #[test]
    fn origin_is_read_as_people_write_it() {
        for (text, expected) in [
            ("https://shop.example", "https://shop.example"),
            ("https://shop.example/", "https://shop.example"),
            ("HTTPS://Shop.Example:443", "https://shop.example"),
            (" http://localhost:3000 ", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(origin(text).to_string(), expected, "{text}");
        }
        for text in [
            "",
            "*",
            "null",
            "shop.example",
            "ftp://shop.example",
            "https://shop.example/cart",
            "https://shop.example?",
            "https://user@shop.example",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn socket_is_for_listed_origins_and_for_the_same_host() {
        let allowed = &[origin("https://shop.example/")];
        for (origin, expected) in [
            ("https://shop.example", true),
            ("https://ws.example:8443", true),
            ("http://WS.example", true),
            ("https://shop.example.evil", false),
            ("http://shop.example", false),
            ("https://shop.example:444", false),
            ("http://ws.example.evil", false),
            ("file://ws.example", false),
            ("ws.example", false),
            ("http://", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(
                check("ws.example:8081", &[origin], allowed),
                expected,
                "{origin}"
            );
        }
        assert!(check("ws.example", &[], allowed), "no web page");
        assert!(!check("ws.example", &["https://shop.example"; 2], allowed));
        assert!(check("[::1]:8081", &["http://[::1]:8080"], &[]));
        assert!(!check("localhost:8081", &["http://127.0.0.1:8081"], &[]));
    }

    fn is_of_this_origin(headers: &[(HeaderName, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        is_same_origin(&map, &Uri::from_static("/console/orders"))
    }

    #[test]
    fn changes_are_for_pages_of_this_origin() {
        let host = (HOST, "localhost:9090");
        for (headers, expected) in [
            (vec![(SEC_FETCH_SITE, "same-origin")], true),
            (vec![(SEC_FETCH_SITE, "same-site")], false),
            (vec![(SEC_FETCH_SITE, "cross-site")], false),
            (vec![(SEC_FETCH_SITE, "none")], false),
            (
                vec![
                    (SEC_FETCH_SITE, "same-origin"),
                    (SEC_FETCH_SITE, "same-origin"),
                ],
                false,
            ),
            (
                vec![
                    (SEC_FETCH_SITE, "cross-site"),
                    (ORIGIN, "http://localhost:9090"),
                ],
                false,
            ),
            (vec![(ORIGIN, "http://localhost:9090")], true),
            (vec![(ORIGIN, "https://localhost:9090")], true),
            (vec![(ORIGIN, "http://localhost:9091")], false),
            (vec![(ORIGIN, "http://evil.example")], false),
            (vec![(ORIGIN, "null")], false),
            (vec![], false),
        ] {
            let headers: Vec<_> = headers.into_iter().chain([host.clone()]).collect();
            assert_eq!(is_of_this_origin(&headers), expected, "{headers:?}");
        }
        assert!(!is_of_this_origin(&[(ORIGIN, "http://localhost:9090")]));
    }
}
