//! What the API says about itself against the answers of the other tests.

use axum::body::Body;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::support::{request, send};

/// Answers to other requests than those of the document: no such path, no such method.
const OUTSIDE: [u16; 2] = [404, 405];

/// The document as a client gets it.
pub(crate) struct Document(Value);

impl Document {
    pub(crate) async fn read() -> Self {
        let response = send(request("GET", "/openapi.json", "")).await;
        let body = response.into_body().collect().await.expect("a body");
        Self(serde_json::from_slice(&body.to_bytes()).expect("JSON"))
    }

    /// Asserts that the document announces the status and the media type of an answer. An
    /// answer to `HEAD` is one to `GET`.
    pub(crate) fn assert_has(&self, method: &Method, path: &str, response: &Response<Body>) {
        let method = if *method == Method::HEAD {
            "get"
        } else {
            method.as_str()
        };
        let status = response.status();
        let operation = self.find_operation(&method.to_ascii_lowercase(), path);
        let Some(operation) = operation else {
            let is_outside = OUTSIDE.contains(&status.as_u16());
            assert!(
                is_outside,
                "{method} {path} answers {status} and is not documented"
            );
            return;
        };
        let announced = &operation["responses"][status.as_str()];
        assert!(
            announced.is_object(),
            "{method} {path}: {status} is not documented"
        );
        let kind = response.headers().get("content-type");
        let kind = kind.map(|kind| kind.to_str().expect("text"));
        let kind = kind.and_then(|kind| kind.split(';').next());
        match (kind, announced["content"].as_object()) {
            (Some(kind), Some(content)) => {
                assert!(
                    content.contains_key(kind),
                    "{method} {path} {status}: {kind}"
                );
            }
            (None, None) => {}
            (kind, content) => panic!("{method} {path} {status}: {kind:?}, not {content:?}"),
        }
    }

    fn find_operation(&self, method: &str, path: &str) -> Option<&Value> {
        let matches = |template: &str| {
            let (given, wanted) = (path.split('/'), template.split('/'));
            let mut parts = given.clone().zip(wanted.clone());
            given.count() == wanted.count()
                && parts.all(|(given, wanted)| given == wanted || wanted.starts_with('{'))
        };
        let paths = self.0["paths"].as_object().expect("paths");
        let (_, item) = paths.iter().find(|(template, _)| matches(template))?;
        item.get(method)
    }
}
