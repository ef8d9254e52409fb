//! Amounts: what the document allows, what is accepted, and what comes back.

use http::StatusCode;
use http_body_util::BodyExt as _;
use order_core::Money;
use order_web::http::HttpConfig;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::{
    document::Document,
    schema::check,
    support::{app, post},
};

/// The first amounts and the last ones, each as a number and as text.
#[tokio::test]
async fn amounts_are_valid_by_the_document_and_accepted_and_come_back_unchanged() {
    let document = Document::read().await;
    let schema = &document.root["components"]["schemas"]["CreateOrderRequest"];
    let app = app(HttpConfig::default());
    let last = Money::MINOR_UNITS_MAX - 100..=Money::MINOR_UNITS_MAX;
    for minor_units in (1..=10_000).chain(last) {
        let amount = Money::from_minor_units(minor_units, "USD").expect("an amount");
        for written in [amount.to_string(), format!("\"{amount}\"")] {
            let body = format!(r#"{{"user_id":"u","amount":{written}}}"#);
            let parsed: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(check(&document.root, schema, &parsed), Ok(()));
            let answer = app.clone().oneshot(post(body)).await.expect("infallible");
            assert_eq!(answer.status(), StatusCode::CREATED, "{written}");
            let answer = answer.into_body().collect().await.expect("a body");
            let answer = String::from_utf8(answer.to_bytes().to_vec()).expect("text");
            let expected = format!("\"amount\":{amount},");
            assert!(answer.contains(&expected), "{expected} is not in {answer}");
        }
    }
}
