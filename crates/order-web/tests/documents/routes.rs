//! The OpenAPI document and the router have the same operations.

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, Request, StatusCode};
use serde_json::Value;

use crate::support::{app, get_json, header, send};

/// Pages for people; they are no part of the API.
const UNDOCUMENTED: &[&str] = &["/docs", "/docs/", "/docs/{file}"];

/// The methods of each path in the document.
async fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let document = get_json("/openapi.json").await;
    let paths = document["paths"].as_object().expect("paths");
    let methods = |item: &Value| {
        let item = item.as_object().expect("a path item");
        item.keys().map(|method| method.to_uppercase()).collect()
    };
    paths
        .iter()
        .map(|(path, item)| (path.clone(), methods(item)))
        .collect()
}

/// The paths of the router. It lists them nowhere but in its debug text.
fn served() -> BTreeSet<String> {
    let router = format!("{:?}", app());
    let (router, _) = router.split_once("fallback_router").expect("a fallback");
    let quoted = router.split('"').skip(1).step_by(2);
    let paths: BTreeSet<String> = quoted
        .filter(|text| text.starts_with('/'))
        .map(str::to_owned)
        .collect();
    assert!(paths.contains("/orders/{order_id}"), "{router}");
    paths
}

/// A path with a value for each parameter.
fn filled(path: &str) -> String {
    path.replace("{order_id}", "01980d0e-6c3c-7f3e-9a43-6c1f0a52a0d4")
        .replace("{slug}", "order-not-found")
}

#[tokio::test]
async fn document_has_every_path_that_is_served_and_no_other() {
    let mut served = served();
    for path in UNDOCUMENTED {
        assert!(served.remove(*path), "{path} is not served");
    }
    let documented: BTreeSet<String> = documented().await.into_keys().collect();
    assert_eq!(documented, served);
}

#[tokio::test]
async fn document_has_every_method_that_is_served_and_no_other() {
    for (path, methods) in documented().await {
        let request = Request::builder().method("FROBNICATE").uri(filled(&path));
        let response = send(request).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed: BTreeSet<String> = header(&response, "allow")
            .split(',')
            .map(|method| method.trim().to_owned())
            // Whatever has GET has HEAD (RFC 9110 §9.1), and nobody writes it down.
            .filter(|method| method != Method::HEAD.as_str())
            .collect();
        assert_eq!(methods, allowed, "{path}");
    }
}

#[tokio::test]
async fn operations_have_names_of_their_own_and_known_tags() {
    let document = get_json("/openapi.json").await;
    let tags = document["tags"].as_array().expect("tags");
    let tags: BTreeSet<&str> = tags.iter().filter_map(|tag| tag["name"].as_str()).collect();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for operation in item.as_object().expect("operations").values() {
            let name = operation["operationId"].as_str().expect(path);
            assert!(names.insert(name), "{name} is the name of two operations");
            let tag = operation["tags"][0].as_str().expect(path);
            assert!(tags.contains(tag), "{path} has the unknown tag {tag}");
            assert!(operation["summary"].is_string(), "{path} has no summary");
        }
    }
}
