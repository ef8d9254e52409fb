//! `/docs/`: Swagger UI over `/openapi.json`, from files inside this binary.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use axum::{RequestPartsExt as _, extract::Path, response::Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::LOCATION};
use utoipa_swagger_ui::Config;

use super::Document;
use crate::http::{
    operation::Call,
    problem::{Problem, ProtocolError},
};

/// The page and what it loads. The distribution has more, for other ways to use it.
const FILES: [&str; 8] = [
    INDEX,
    "favicon-16x16.png",
    "favicon-32x32.png",
    "index.css",
    "swagger-initializer.js",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-ui.css",
];

const INDEX: &str = "index.html";

/// Scripts only from here, requests only to here. Swagger UI sets styles of single elements
/// and has its icons inside its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

static DOCUMENTS: LazyLock<Vec<(&str, Document)>> = LazyLock::new(|| {
    // Relative, so that the page also works where a proxy adds a prefix to the path.
    let config = Arc::new(
        Config::from("../openapi.json")
            .use_base_layout()
            .deep_linking(true)
            .display_operation_id(true)
            .display_request_duration(true)
            .try_it_out_enabled(true)
            // The default sends the address of the document to a public validator.
            .validator_url("none"),
    );
    FILES
        .into_iter()
        .filter_map(|name| Some((name, load(name, &config)?)))
        .collect()
});

fn load(name: &'static str, config: &Arc<Config<'static>>) -> Option<Document> {
    let file = utoipa_swagger_ui::serve(name, Arc::clone(config)).ok()??;
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let content_type = HeaderValue::try_from(file.content_type).ok()?;
    Some(Document {
        policy: Some(POLICY),
        ..Document::new(bytes, content_type)
    })
}

/// Sends `/docs` to `/docs/`, where relative links lead to the files.
pub(in crate::http) async fn root(_: Arc<()>, _: Call) -> Result<Response, Problem> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("docs/"));
    Ok(response)
}

/// The page.
pub(in crate::http) async fn index(_: Arc<()>, call: Call) -> Result<Response, Problem> {
    respond(INDEX, &call)
}

/// A file that the page loads.
pub(in crate::http) async fn file(_: Arc<()>, mut call: Call) -> Result<Response, Problem> {
    let name = call.parts.extract::<Path<String>>().await;
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    respond(&name, &call)
}

fn respond(name: &str, call: &Call) -> Result<Response, Problem> {
    DOCUMENTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, document)| document.respond(&call.parts.headers))
        .ok_or_else(|| ProtocolError::RouteNotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_the_binary() {
        let names: Vec<&str> = DOCUMENTS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, FILES);
        for (name, document) in DOCUMENTS.iter() {
            assert!(document.bytes.len() > 100, "{name}");
        }
    }

    #[test]
    fn page_loads_only_files_that_are_served() {
        let index = &DOCUMENTS[0].1.bytes;
        let index = std::str::from_utf8(index).expect("text");
        for attribute in ["src=\"", "href=\""] {
            for link in index.split(attribute).skip(1) {
                let link = link.split('"').next().expect("a quote");
                let name = link.trim_start_matches("./");
                assert!(FILES.contains(&name), "{link}");
            }
        }
    }
}
