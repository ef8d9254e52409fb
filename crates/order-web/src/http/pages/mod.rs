//! What the API says about itself: its documents, a page for each problem, and a page on
//! which to try it out.
//!
//! The documents are files of `api/`, which the build turns into JSON. A page loads nothing from
//! another host and is told not to by its `Content-Security-Policy`.

pub(super) mod problems;
mod swagger;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, LazyLock},
};

use axum::{Router, body::Body, response::Response, routing::get};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
};

use super::{
    media::{self, JSON},
    operation::{Call, Frame, Operation},
    problem::Problem,
};

static OPENAPI: LazyLock<Document> =
    LazyLock::new(|| Document::json(include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json"))));

static ASYNCAPI: LazyLock<Document> =
    LazyLock::new(|| Document::json(include_bytes!(concat!(env!("OUT_DIR"), "/asyncapi.json"))));

/// The pages of the problems, which every problem document names.
pub(super) fn problem_routes(frame: &Arc<Frame>) -> Router {
    let state = Arc::new(());
    Router::new()
        .route(
            "/problems",
            get(Operation::new(
                ("list_problems", "/problems"),
                frame,
                &state,
                problems::list_problems,
            )),
        )
        .route(
            "/problems/{slug}",
            get(Operation::new(
                ("get_problem", "/problems/{slug}"),
                frame,
                &state,
                problems::get_problem,
            )),
        )
}

/// The documents of the API and the page to try it out with.
pub(super) fn document_routes(frame: &Arc<Frame>) -> Router {
    let state = Arc::new(());
    Router::new()
        .route(
            "/openapi.json",
            get(Operation::new(
                ("get_openapi", "/openapi.json"),
                frame,
                &state,
                get_openapi,
            )),
        )
        .route(
            "/asyncapi.json",
            get(Operation::new(
                ("get_asyncapi", "/asyncapi.json"),
                frame,
                &state,
                get_asyncapi,
            )),
        )
        .route(
            "/docs",
            get(Operation::new(
                ("docs_root", "/docs"),
                frame,
                &state,
                swagger::root,
            )),
        )
        .route(
            "/docs/",
            get(Operation::new(
                ("docs_index", "/docs/"),
                frame,
                &state,
                swagger::index,
            )),
        )
        .route(
            "/docs/{file}",
            get(Operation::new(
                ("docs_file", "/docs/{file}"),
                frame,
                &state,
                swagger::file,
            )),
        )
}

/// The OpenAPI document of this API.
async fn get_openapi(_: Arc<()>, call: Call) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    Ok(OPENAPI.respond(&call.parts.headers))
}

/// The AsyncAPI document of the WebSocket endpoint and of the event streams.
async fn get_asyncapi(_: Arc<()>, call: Call) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    Ok(ASYNCAPI.respond(&call.parts.headers))
}

/// Bytes that stay the same as long as the process runs.
pub(crate) struct Document {
    bytes: Bytes,
    content_type: HeaderValue,
    etag: HeaderValue,
    /// What a page may load; `None` for what is no page.
    policy: Option<&'static str>,
}

impl Document {
    pub(crate) fn new(bytes: Bytes, content_type: HeaderValue) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        // Hexadecimal digits and quotes are always a header value.
        let etag = HeaderValue::try_from(format!("\"{:016x}\"", hasher.finish()))
            .unwrap_or(HeaderValue::from_static("\"\""));
        Self {
            bytes,
            content_type,
            etag,
            policy: None,
        }
    }

    fn json(bytes: &'static [u8]) -> Self {
        Self::new(Bytes::from_static(bytes), HeaderValue::from_static(JSON))
    }

    /// The document, or 304 if the client has it.
    pub(crate) fn respond(&self, headers: &HeaderMap) -> Response {
        let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|value| {
            let value = value.to_str().unwrap_or_default();
            // A weak comparison (RFC 9110 §13.1.2). These tags have no comma inside.
            value.split(',').map(str::trim).any(|tag| {
                tag == "*" || tag.trim_start_matches("W/").as_bytes() == self.etag.as_bytes()
            })
        });
        let mut response = Response::default();
        let answer = response.headers_mut();
        answer.insert(ETAG, self.etag.clone());
        // Kept, and asked about before each use: a new version of the process shows at once.
        answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        answer.insert(CONTENT_TYPE, self.content_type.clone());
        if let Some(policy) = self.policy {
            answer.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        }
        *response.body_mut() = Body::from(self.bytes.clone());
        response
    }
}
