//! What each operation reads of a request is what the document says it reads. Every input that
//! any operation has is tried on all of them: it is read where it changes the answer.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request};
use serde_json::Value;

use crate::{
    document::Document,
    schema::{check, follow},
    support::{JSON, KNOWN, post_batch, render, request, send, with},
};

/// A value of each header that changes the answer of whoever reads it.
const HEADERS: &[(&str, &str)] = &[
    ("Idempotency-Key", ""),
    ("If-Match", ""),
    ("If-None-Match", "*"),
    ("Last-Event-ID", "x"),
    ("Prefer", "wait=0"),
];

/// Headers that are read around every handler. The operations about orders document them.
const AROUND: &[&str] = &["X-Request-Id", "traceparent", "tracestate"];

struct Operation<'a> {
    method: String,
    path: &'a str,
    /// As in the document.
    description: &'a Value,
}

fn operations(document: &Document) -> Vec<Operation<'_>> {
    let items = document.root["paths"].as_object().expect("paths").iter();
    let operations = items.flat_map(|(path, item)| {
        let item = item.as_object().expect("operations").iter();
        item.map(move |(method, description)| Operation {
            method: method.to_uppercase(),
            path,
            description,
        })
    });
    operations.collect()
}

impl Operation<'_> {
    /// A request that succeeds.
    fn request(&self, query: &str) -> Request<Body> {
        let path = self.path.replace("{order_id}", KNOWN);
        let path = path.replace("{slug}", "order-not-found");
        let body = match self.path {
            "/orders" if self.method == "POST" => r#"{"user_id":"u","amount":1}"#,
            "/orders:batch" => r#"{"orders":[{"user_id":"u","amount":1}]}"#,
            "/stream-tickets" => r#"{"user_id":"u"}"#,
            _ => "",
        };
        let request = request(&self.method, &format!("{path}{query}"), body);
        with(request, "content-type", JSON)
    }

    /// The names of the inputs in this part of a request.
    fn documented<'a>(&'a self, document: &'a Document, part: &str) -> BTreeSet<&'a str> {
        let parameters = self.description["parameters"]
            .as_array()
            .into_iter()
            .flatten();
        parameters
            .map(|parameter| follow(&document.root, parameter))
            .filter(|parameter| parameter["in"] == part)
            .map(|parameter| parameter["name"].as_str().expect("a name"))
            .collect()
    }
}

async fn answer(request: Request<Body>) -> String {
    render(send(request).await).await
}

#[tokio::test]
async fn headers_that_are_read_are_those_that_are_documented() {
    let document = Document::read().await;
    let mut all = BTreeSet::new();
    for operation in operations(&document) {
        let plain = answer(operation.request("")).await;
        let mut read = BTreeSet::new();
        for (name, value) in HEADERS {
            let mut request = operation.request("");
            let name_in_lower_case = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(name_in_lower_case, value);
            let answer = answer(request).await;
            if answer != plain && !answer.contains("is not supported by this operation") {
                read.insert(*name);
            }
        }
        if matches!(
            operation.description["tags"][0].as_str(),
            Some("orders" | "streams")
        ) {
            read.extend(AROUND);
        }
        let documented = operation.documented(&document, "header");
        assert_eq!(read, documented, "{} {}", operation.method, operation.path);
        all.extend(read);
    }
    let known = HEADERS.iter().map(|(name, _)| *name);
    assert_eq!(all, known.chain(AROUND.iter().copied()).collect());
}

#[tokio::test]
async fn parameters_that_are_read_are_those_that_are_documented() {
    let document = Document::read().await;
    let operations = operations(&document);
    let names: BTreeSet<&str> = operations
        .iter()
        .flat_map(|operation| operation.documented(&document, "query"))
        .collect();
    for operation in &operations {
        let place = format!("{} {}", operation.method, operation.path);
        let plain = answer(operation.request("")).await;
        let mut read = BTreeSet::new();
        for name in &names {
            let answer = answer(operation.request(&format!("?{name}=x"))).await;
            if answer != plain && !answer.contains("unknown query parameter") {
                read.insert(*name);
            }
        }
        assert_eq!(read, operation.documented(&document, "query"), "{place}");
        let in_path = operation
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{'));
        let in_path: BTreeSet<&str> = in_path.map(|part| part.trim_end_matches('}')).collect();
        assert_eq!(in_path, operation.documented(&document, "path"), "{place}");
    }
}

/// The schemas of a body: the alternatives, if there are any.
fn body_schemas<'a>(document: &'a Document, operation: &'a Operation<'_>) -> Vec<&'a Value> {
    let content = &operation.description["requestBody"]["content"][JSON];
    let Some(schema) = content.get("schema") else {
        return Vec::new();
    };
    let schema = follow(&document.root, schema);
    match schema["anyOf"].as_array() {
        Some(alternatives) => alternatives.iter().collect(),
        None => vec![schema],
    }
}

#[tokio::test]
async fn fields_that_are_read_are_those_that_are_documented() {
    let document = Document::read().await;
    let operations = operations(&document);
    let fields = |schema: &'_ Value| -> BTreeSet<String> {
        let fields = schema["properties"].as_object().into_iter().flatten();
        fields.map(|(name, _)| name.clone()).collect()
    };
    let all: BTreeSet<String> = operations
        .iter()
        .flat_map(|operation| body_schemas(&document, operation))
        .flat_map(fields)
        .collect();
    for operation in &operations {
        let schemas = body_schemas(&document, operation);
        if schemas.is_empty() {
            continue;
        }
        let mut read = BTreeSet::new();
        for name in &all {
            let mut request = operation.request("");
            *request.body_mut() = Body::from(format!("{{\"{name}\":[]}}"));
            let answer = answer(request).await;
            let unknown = format!(r#"{{"pointer":"/{name}","detail":"unknown field"}}"#);
            if !answer.contains(&unknown) {
                read.insert(name.clone());
            }
        }
        for schema in schemas {
            assert_eq!(
                fields(schema),
                read,
                "{} {}",
                operation.method,
                operation.path
            );
        }
    }
}

/// The orders of a batch have the fields of an order alone and a key, and there are as many of them
/// as the document says.
#[tokio::test]
async fn batches_that_are_read_are_those_that_are_documented() {
    let document = Document::read().await;
    let schemas = &document.root["components"]["schemas"];
    let batch = &schemas["CreateOrdersRequest"];
    let orders = &batch["properties"]["orders"];
    let alternatives = |schema: &Value| {
        let schemas = schema["anyOf"].as_array().expect("alternatives");
        schemas.clone().into_iter()
    };
    let alone = alternatives(&schemas["CreateOrderRequest"]);
    let key = &schemas["IdempotencyKey"];
    for (mut alone, together) in alone.zip(alternatives(&orders["items"])) {
        alone["properties"]["idempotency_key"] =
            serde_json::json!({"$ref": "#/components/schemas/IdempotencyKey"});
        assert_eq!(together, alone);
    }
    for n in [0, 1, 100, 101] {
        let order = r#"{"user_id":"u","amount":1}"#;
        let body = serde_json::json!({ "orders": vec![serde_json::from_str::<Value>(order).expect("JSON"); n] });
        let is_read = send(post_batch(&vec![order; n]))
            .await
            .status()
            .is_success();
        assert_eq!(check(&document.root, batch, &body).is_ok(), is_read, "{n}");
    }
    for text in [
        "",
        "k",
        "\"k\"",
        "a b",
        "é",
        &"k".repeat(255),
        &"k".repeat(256),
    ] {
        let text = Value::from(text);
        let order = format!(r#"{{"user_id":"u","amount":1,"idempotency_key":{text}}}"#);
        let is_read = !answer(post_batch(&[&order])).await.contains("\"problem\"");
        assert_eq!(check(&document.root, key, &text).is_ok(), is_read, "{text}");
    }
}
