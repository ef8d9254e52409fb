//! Which web pages may open a socket: the guard against cross-site WebSocket hijacking,
//! because browsers do not apply their same-origin rule here (RFC 6455 §10.2).

use http::{
    HeaderMap, Uri,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Whether the request may become a socket.
///
/// A request without `Origin` comes from no web page and may. Otherwise there must be one
/// `Origin`, and it must be in `allowed` to the byte; if `allowed` is empty, its host must
/// be the one the request was sent to, on any port: the page of the all-in-one server is
/// on another port than its socket. `null`, the origin of sandboxed pages and local files,
/// is never allowed.
pub(super) fn is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    if origins.next().is_some() || origin == "null" {
        return false;
    }
    if allowed.is_empty() {
        return is_same_host(origin, headers);
    }
    allowed.iter().any(|allowed| allowed == origin)
}

fn is_same_host(origin: &str, headers: &HeaderMap) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else {
        return false;
    };
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| host.parse::<Authority>().ok());
    match (origin.scheme_str(), origin.host(), host) {
        (Some("http" | "https"), Some(origin), Some(host)) => {
            origin.eq_ignore_ascii_case(host.host())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(host: &str, origins: &[&str], allowed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).expect("a header value"));
        for origin in origins {
            let origin = HeaderValue::from_str(origin).expect("a header value");
            headers.append(ORIGIN, origin);
        }
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        is_allowed(&headers, &allowed)
    }

    #[test]
    fn listed_origin_is_matched_to_the_byte() {
        let allowed = &["https://shop.example"];
        for (origin, expected) in [
            ("https://shop.example", true),
            ("https://shop.example/", false),
            ("https://shop.example.evil", false),
            ("http://shop.example", false),
            ("https://shop.example:444", false),
            ("https://ws.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(
                check("ws.example", &[origin], allowed),
                expected,
                "{origin}"
            );
        }
        assert!(check("ws.example", &[], allowed), "no web page");
        assert!(!check("ws.example", &["https://shop.example"; 2], allowed));
        assert!(!check("null", &["null"], &["null"]));
    }

    #[test]
    fn without_a_list_the_page_is_on_the_same_host() {
        for (origin, expected) in [
            ("http://localhost:8080", true),
            ("https://LOCALHOST", true),
            ("http://localhost.evil", false),
            ("http://127.0.0.1:8081", false),
            ("null", false),
            ("localhost", false),
            ("file://localhost", false),
            ("http://", false),
        ] {
            assert_eq!(
                check("localhost:8081", &[origin], &[]),
                expected,
                "{origin}"
            );
        }
        assert!(check("[::1]:8081", &["http://[::1]:8080"], &[]));
    }
}
