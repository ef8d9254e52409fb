//! What can be wrong with a request as HTTP, before the system behind hears of it.

use http::StatusCode;

/// What is wrong with a request as HTTP. The texts never repeat the request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// Nothing has this path.
    #[error("nothing is served at this path")]
    RouteNotFound,
    /// The path does not serve this method.
    #[error("this path does not serve this method; the Allow header lists those it serves")]
    MethodNotAllowed,
    /// The client reads nothing that could be the answer.
    #[error("the answer would be {offered}, which the Accept header excludes")]
    NotAcceptable {
        /// The media types there are.
        offered: String,
    },
    /// The body is too long.
    #[error("the body has more than {len_max} bytes")]
    BodyTooLarge {
        /// The limit.
        len_max: usize,
    },
    /// The body says that it is something else.
    #[error("the body must be application/json in UTF-8 without a content encoding")]
    UnsupportedMediaType,
    /// The body is not what it says.
    #[error("the body is not valid JSON: {rule}")]
    InvalidJson {
        /// What is wrong, and where.
        rule: String,
    },
    /// The body took too long.
    #[error("the body did not arrive in time")]
    RequestTimeout,
    /// The web page that asks for a socket or for a change is not allowed to.
    #[error("pages of this origin may not do this here")]
    OriginNotAllowed,
    /// The listener is on a loopback address, and was asked for by a name that others can have.
    #[error("this listener answers to localhost and to addresses only")]
    HostNotAllowed,
    /// The request is not the handshake that RFC 6455 §4.2.1 asks for.
    #[error("this path serves WebSocket version 13 over HTTP/1.1 only")]
    UpgradeRequired,
}

/// What never changes about a [`ProtocolError`], for answers and for the documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProtocolFacts {
    pub(crate) status: StatusCode,
    /// `UPPER_SNAKE_CASE`, like the reasons of the system.
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    /// What a developer who meets the problem should know and do, in sentences.
    pub(crate) advice: &'static str,
}

macro_rules! protocol_facts {
    ($($variant:ident = $status:ident, $code:literal, $title:literal, $advice:literal;)+) => {
        /// Every problem of the protocol, in the order of the documentation.
        pub(crate) const ALL_PROTOCOL: &[ProtocolFacts] = &[$(ProtocolFacts {
            status: StatusCode::$status,
            code: $code,
            title: $title,
            advice: $advice,
        },)+];

        impl ProtocolError {
            pub(crate) const fn facts(&self) -> ProtocolFacts {
                match self {
                    $(Self::$variant { .. } => ProtocolFacts {
                        status: StatusCode::$status,
                        code: $code,
                        title: $title,
                        advice: $advice,
                    },)+
                }
            }
        }
    };
}

protocol_facts! {
    InvalidJson = BAD_REQUEST, "INVALID_JSON", "The body is not valid JSON",
        "`detail` says what is wrong, and where.";
    OriginNotAllowed = FORBIDDEN, "ORIGIN_NOT_ALLOWED", "The origin is not allowed",
        "The operator names the origins of web pages that may open a WebSocket. The console takes \
        changes from its own pages only.";
    HostNotAllowed = MISDIRECTED_REQUEST, "HOST_NOT_ALLOWED", "The host is not allowed",
        "Use `localhost` or an address in the URL: names of others could be led here by a web page.";
    RouteNotFound = NOT_FOUND, "ROUTE_NOT_FOUND", "The path does not exist",
        "Check the address; `/openapi.json` lists what there is.";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "The method is not allowed here",
        "The `Allow` header lists the methods of the path.";
    NotAcceptable = NOT_ACCEPTABLE, "NOT_ACCEPTABLE", "No acceptable representation exists",
        "`detail` names the media types there are; the `Accept` header must allow one of them.";
    RequestTimeout = REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "The request took too long to arrive",
        "Nothing was done. Send the body faster.";
    BodyTooLarge = PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", "The body is too large",
        "Nothing was done. `detail` names the limit.";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE",
        "The media type is not supported",
        "Send `Content-Type: application/json`, in UTF-8 and without a `Content-Encoding`.";
    UpgradeRequired = UPGRADE_REQUIRED, "UPGRADE_REQUIRED", "A WebSocket handshake is required",
        "Open the path with a WebSocket client, over HTTP/1.1.";
}
