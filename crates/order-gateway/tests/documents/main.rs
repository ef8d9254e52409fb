//! What the API says about itself, held against what it does.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod pages;
mod routes;
mod schema;
mod streams;
mod support;

use support::get_json;

#[tokio::test]
async fn openapi_document_changes_only_on_purpose() {
    insta::assert_json_snapshot!("openapi", get_json("/openapi.json").await);
}

#[tokio::test]
async fn asyncapi_document_changes_only_on_purpose() {
    insta::assert_json_snapshot!("asyncapi", get_json("/asyncapi.json").await);
}
