//! What the API says about itself against the answers of the other tests.

use std::{cell::RefCell, collections::BTreeSet};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    schema::{check, follow},
    support::{PATIENCE, request, send},
};

/// Answers to other requests than those of the document: no such path, no such method.
const OUTSIDE: [u16; 2] = [404, 405];

/// Headers that mean something in the one answer and not in the other. Those that come with
/// every answer are left out.
const HEADERS: [&str; 9] = [
    "Accept-Encoding",
    "Accept-Post",
    "ETag",
    "Idempotent-Replayed",
    "Link",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "WWW-Authenticate",
];

/// The document as a client gets it.
pub(crate) struct Document {
    pub(crate) root: Value,
    /// The members of each object that has come, as `Order.status`.
    seen: RefCell<BTreeSet<String>>,
}

impl Document {
    pub(crate) async fn read() -> Self {
        let response = send(request("GET", "/openapi.json", "")).await;
        let body = response.into_body().collect().await.expect("a body");
        Self {
            root: serde_json::from_slice(&body.to_bytes()).expect("JSON"),
            seen: RefCell::default(),
        }
    }

    /// Asserts that the document announces an answer: its status, its headers, its media type
    /// and its body. An answer to `HEAD` is one to `GET`. Gives the answer back.
    pub(crate) async fn assert_has(
        &self,
        method: &Method,
        path: &str,
        response: Response<Body>,
    ) -> Response<Body> {
        let is_head = *method == Method::HEAD;
        let method = if is_head { "get" } else { method.as_str() };
        let (parts, body) = response.into_parts();
        let place = format!("{method} {path} {}", parts.status);
        let body = timeout(PATIENCE, body.collect()).await;
        let body = body.expect("the body ends").expect("a body").to_bytes();
        let again = Response::from_parts(parts.clone(), Body::from(body.clone()));
        let Some(operation) = self.find_operation(&method.to_ascii_lowercase(), path) else {
            let is_outside = OUTSIDE.contains(&parts.status.as_u16());
            assert!(is_outside, "{place} is not documented");
            return again;
        };
        let announced = &operation["responses"][parts.status.as_str()];
        assert!(announced.is_object(), "{place} is not documented");
        let announced = follow(&self.root, announced);
        for name in HEADERS {
            let is_announced = announced["headers"][name].is_object();
            assert!(
                is_announced || !parts.headers.contains_key(name),
                "{place}: {name} is not documented"
            );
        }
        let kind = parts.headers.get("content-type");
        let kind = kind.map(|kind| kind.to_str().expect("text"));
        let kind = kind.and_then(|kind| kind.split(';').next());
        match (kind, announced["content"].as_object()) {
            (Some(kind), Some(content)) => {
                let content = content.get(kind);
                let content = content.unwrap_or_else(|| panic!("{place}: {kind}"));
                if !is_head && kind.ends_with("json") {
                    self.assert_describes(&content["schema"], &body, &place);
                }
            }
            (None, None) => {}
            (kind, content) => panic!("{place}: {kind:?}, not {content:?}"),
        }
        if parts.status.is_client_error() && !is_head {
            let code = serde_json::from_slice::<Value>(&body).expect("JSON")["code"].clone();
            let code = format!("`{}`", code.as_str().expect("a code"));
            let words = announced["description"].as_str().expect("text");
            assert!(words.contains(&code), "{place}: {code} is not in {words:?}");
        }
        again
    }

    fn assert_describes(&self, schema: &Value, body: &Bytes, place: &str) {
        let body = serde_json::from_slice(body).expect("JSON");
        if let Err(error) = check(&self.root, schema, &body) {
            panic!("{place}: {error}");
        }
        self.note(schema, &body);
    }

    /// Notes the members of `value` and of what is inside it.
    fn note(&self, schema: &Value, value: &Value) {
        let target = follow(&self.root, schema);
        let name = schema["$ref"]
            .as_str()
            .and_then(|name| name.rsplit('/').next());
        for item in value.as_array().into_iter().flatten() {
            self.note(&target["items"], item);
        }
        for (member, value) in value.as_object().into_iter().flatten() {
            if let (Some(name), Some(inner)) = (name, target["properties"].get(member)) {
                self.seen.borrow_mut().insert(format!("{name}.{member}"));
                self.note(inner, value);
            }
        }
    }

    /// Asserts that every member of these schemas was in some answer: nothing is documented
    /// that is never sent.
    pub(crate) fn assert_seen(&self, names: &[&str]) {
        let seen = self.seen.borrow();
        for name in names {
            let schema = &self.root["components"]["schemas"][*name];
            for member in schema["properties"].as_object().expect("members").keys() {
                let member = format!("{name}.{member}");
                assert!(seen.contains(&member), "{member} was in no answer");
            }
        }
    }

    fn find_operation(&self, method: &str, path: &str) -> Option<&Value> {
        let matches = |template: &str| {
            let (given, wanted) = (path.split('/'), template.split('/'));
            let mut parts = given.clone().zip(wanted.clone());
            given.count() == wanted.count()
                && parts.all(|(given, wanted)| given == wanted || wanted.starts_with('{'))
        };
        let paths = self.root["paths"].as_object().expect("paths");
        let (_, item) = paths.iter().find(|(template, _)| matches(template))?;
        item.get(method)
    }
}
