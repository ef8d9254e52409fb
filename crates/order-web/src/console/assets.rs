//! The files that pages load: they are in this binary.

use std::sync::Arc;

use axum::{Router, response::Response, routing::get};
use bytes::Bytes;
use http::HeaderValue;

use crate::http::{
    HttpDeps,
    operation::{Call, Frame, Operation},
    pages::Document,
    problem::Problem,
};

/// The path, the type and the text of each file.
const FILES: [(&str, &str, &str); 3] = [
    (
        "/console/console.css",
        "text/css; charset=utf-8",
        include_str!("assets/console.css"),
    ),
    (
        "/console/console.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/console.js"),
    ),
    (
        "/console/icon.svg",
        "image/svg+xml",
        include_str!("assets/icon.svg"),
    ),
];

/// The routes of the files.
pub(super) fn routes(deps: &HttpDeps) -> Router {
    let frame = Frame::unlimited(deps);
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            let bytes = Bytes::from_static(text.as_bytes());
            let file = Arc::new(Document::new(bytes, HeaderValue::from_static(kind)));
            router.route(
                path,
                get(Operation::new(("console_file", path), &frame, &file, serve)),
            )
        })
}

async fn serve(file: Arc<Document>, call: Call) -> Result<Response, Problem> {
    Ok(file.respond(&call.parts.headers))
}
