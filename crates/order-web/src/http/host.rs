//! The host by which a client calls a listener.
//!
//! A listener on a loopback address has no login: only programs of this machine reach it. A browser
//! among them also shows pages of others, so such a listener answers to local names only.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{Router, extract::Request, handler::Handler, response::Response};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    header::{HOST, LOCATION},
    request::Parts,
    uri::Authority,
};
use order_core::Error;
use tower::{ServiceExt as _, service_fn};

use super::{
    CONSOLE_PATH, HttpDeps,
    media::{self, HTML, JSON},
    operation::{Frame, OTHER, Operation},
    problem::{Problem, ProtocolError},
};

/// Whether all names by which the request calls this host are local. A page of others can make a name
/// of its own lead to a loopback address, and would then be of the same origin; it cannot have these.
fn is_host_allowed(request: &Request) -> bool {
    let authority = request.uri().authority().cloned();
    let named = request.headers().get_all(HOST).iter().map(|value| {
        let text = value.to_str().ok()?;
        text.parse::<Authority>().ok()
    });
    let mut all = authority.map(Some).into_iter().chain(named);
    all.all(|authority| authority.is_some_and(|authority| is_local_name(authority.host())))
}

/// The host by which the request calls this one.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<Authority> {
    let named = || headers.get(HOST)?.to_str().ok()?.parse().ok();
    uri.authority().cloned().or_else(named)
}

/// The console, as the client of this request reaches it; `None` if it does not.
fn console_address(headers: &HeaderMap, uri: &Uri, console: SocketAddr) -> Option<String> {
    let authority = host_of(headers, uri)?;
    let host = authority.host();
    let is_here =
        is_local_name(host) && address_of(host).is_none_or(|address| address.is_loopback());
    let is_reached = console.ip().is_unspecified() || (console.ip().is_loopback() && is_here);
    is_reached.then(|| format!("http://{host}:{}{CONSOLE_PATH}", console.port()))
}

/// The answer to a path that nothing serves, where a browser is sent from `/` to the console.
pub(super) fn console_or_not_found(
    frame: &Arc<Frame>,
    console: SocketAddr,
) -> impl Handler<(), ()> {
    let (name, state) = (("route_not_found", OTHER), Arc::new(console));
    Operation::new(name, frame, &state, |console, call| async move {
        let Parts {
            method,
            uri,
            headers,
            ..
        } = &call.parts;
        let is_browser = media::negotiate(headers, &[JSON, HTML]).is_ok_and(|kind| kind == HTML);
        if *method != Method::GET || uri.path() != "/" || !is_browser {
            return Err(ProtocolError::RouteNotFound.into());
        }
        let address =
            console_address(headers, uri, *console).ok_or(ProtocolError::RouteNotFound)?;
        see_other(&address)
    })
}

/// Sends a browser to another page.
pub(crate) fn see_other(address: &str) -> Result<Response, Problem> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SEE_OTHER;
    let address = HeaderValue::try_from(address).map_err(Error::internal)?;
    response.headers_mut().insert(LOCATION, address);
    Ok(response)
}

/// Whether a host is `localhost`, a name below it, or an address.
fn is_local_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || address_of(&host).is_some()
}

/// The address that a host is, if it is no name.
fn address_of(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

/// Guards what a listener serves: on a loopback address it answers to local names only.
pub fn guarded(router: Router, deps: &HttpDeps, listener: SocketAddr) -> Router {
    if !listener.ip().is_loopback() {
        return router;
    }
    let refuse = |_, _| async { Err(ProtocolError::HostNotAllowed.into()) };
    let (frame, state) = (Frame::unlimited(deps), Arc::new(()));
    let refused = Router::new().fallback(Operation::new(
        ("refuse_host", OTHER),
        &frame,
        &state,
        refuse,
    ));
    Router::new().fallback_service(service_fn(move |request: Request| {
        let chosen = if is_host_allowed(&request) {
            &router
        } else {
            &refused
        };
        chosen.clone().oneshot(request)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_else_has_are_local() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("console.localhost", true),
            ("127.0.0.1", true),
            ("192.168.1.7", true),
            ("[::1]", true),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1.nip.io", false),
            ("", false),
        ] {
            assert_eq!(is_local_name(host), expected, "{host}");
        }
    }

    #[test]
    fn console_is_named_where_the_client_reaches_it() {
        for (host, console, expected) in [
            (
                "localhost:8080",
                "127.0.0.1:9090",
                Some("http://localhost:9090/console/"),
            ),
            (
                "127.0.0.1:8080",
                "127.0.0.1:9090",
                Some("http://127.0.0.1:9090/console/"),
            ),
            ("[::1]", "0.0.0.0:9090", Some("http://[::1]:9090/console/")),
            (
                "shop.example",
                "0.0.0.0:9090",
                Some("http://shop.example:9090/console/"),
            ),
            ("shop.example", "127.0.0.1:9090", None),
            ("10.0.0.1:8080", "127.0.0.1:9090", None),
            ("10.0.0.1:8080", "10.0.0.2:9090", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().expect("a header value"));
            let console = console.parse().expect("an address");
            let found = console_address(&headers, &Uri::from_static("/"), console);
            assert_eq!(found.as_deref(), expected, "{host}");
        }
    }
}
