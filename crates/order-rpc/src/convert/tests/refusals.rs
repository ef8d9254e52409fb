//! What requests are refused for, and what makes an answer a defect.

use order_core::{Error, OrderStatus, TicketGrant, UserId};

use super::{super::request::WATCHES_MAX, *};
use crate::proto;

fn create(
    order_id: &str,
    user_id: &str,
    minor_units: i64,
    currency: &str,
) -> proto::CreateOrderRequest {
    proto::CreateOrderRequest {
        order_id: order_id.to_owned(),
        user_id: user_id.to_owned(),
        money: Some(proto::Money {
            currency: currency.to_owned(),
            minor_units,
            ..proto::Money::default()
        }),
        ..proto::CreateOrderRequest::default()
    }
}

#[test]
fn create_reports_every_broken_field() {
    let bad = create("x", "", 0, "USD");
    assert_eq!(
        fields(create_from_proto(bad)),
        ["order_id", "user_id", "money/minor_units"]
    );
    let bad = create("", "u", 1, "usd");
    assert_eq!(fields(create_from_proto(bad)), ["money/currency"]);
    let bad = proto::CreateOrderRequest {
        money: None,
        metadata: [("", "x"), ("ok", "x")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        external_id: "\t".to_owned(),
        idempotency_key: "a b".to_owned(),
        ..create("", "u", 1, "USD")
    };
    assert_eq!(
        fields(create_from_proto(bad)),
        ["money", "external_id", "metadata/", "idempotency_key"]
    );
}

#[test]
fn missing_currency_is_the_default_one() {
    let request = create_from_proto(create("", "u", 5, "")).expect("valid");
    assert_eq!(
        (request.money.minor_units(), request.money.currency()),
        (5, "USD")
    );
    assert_eq!(request.order_id, None);
}

#[test]
fn batch_names_fields_by_position_and_has_limits() {
    let mut bad = create("", "", -1, "");
    bad.metadata.insert("a/b".to_owned(), "\n".to_owned());
    let requests = vec![create("", "u", 1, ""), bad];
    let mut results = creates_from_proto(requests).expect("a valid length");
    assert_eq!(
        fields(results.remove(1)),
        [
            "requests/1/user_id",
            "requests/1/money/minor_units",
            "requests/1/metadata/a~1b",
        ]
    );
    assert!(results.remove(0).is_ok());
    assert_eq!(fields(creates_from_proto(vec![])), ["requests"]);
    let many = vec![create("", "u", 1, ""); CREATES_MAX];
    assert!(creates_from_proto(many).is_ok());
    let too_many = vec![create("", "u", 1, ""); CREATES_MAX + 1];
    assert_eq!(fields(creates_from_proto(too_many)), ["requests"]);
}

#[test]
fn list_reports_every_broken_field() {
    let bad = proto::ListOrdersRequest {
        user_id: "\u{7}".to_owned(),
        statuses: vec![1, 0],
        page_size: -1,
        page_token: String::new(),
        created_after: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
        created_before: Some(prost_types::Timestamp {
            seconds: 0,
            nanos: -1_000_000_000,
        }),
        external_id: "x".repeat(129),
    };
    assert_eq!(
        fields(list_from_proto(bad)),
        [
            "user_id",
            "page_size",
            "statuses/1",
            "external_id",
            "created_after",
            "created_before",
        ]
    );
    let repeated = proto::ListOrdersRequest {
        statuses: vec![1; 10_000],
        ..Default::default()
    };
    let request = list_from_proto(repeated).expect("valid");
    assert_eq!(request.statuses, [OrderStatus::Pending]);
}

#[test]
fn changes_report_every_broken_field() {
    let bad = proto::UpdateStatusRequest {
        order_id: "x".to_owned(),
        status: 99,
        cause: Some(proto::Cause {
            code: "NOT OK".to_owned(),
            message: "x".repeat(501),
        }),
        etag: "x".to_owned(),
        ..proto::UpdateStatusRequest::default()
    };
    assert_eq!(
        fields(update_from_proto(&bad)),
        ["order_id", "status", "cause/code", "cause/message", "etag"]
    );
    let bad = proto::CancelOrderRequest {
        order_id: String::new(),
        reason: "\n".to_owned(),
        etag: "W/3".to_owned(),
        idempotency_key: "\u{e4}".to_owned(),
        ..proto::CancelOrderRequest::default()
    };
    assert_eq!(
        fields(cancel_from_proto(bad)),
        ["order_id", "reason", "etag", "idempotency_key"]
    );
    let bad = proto::RetryOrderRequest {
        order_id: "x".to_owned(),
        etag: "\"\"".to_owned(),
        ..proto::RetryOrderRequest::default()
    };
    assert_eq!(fields(retry_from_proto(&bad)), ["order_id", "etag"]);
    let bad = proto::ListOrderEventsRequest {
        order_id: "x".to_owned(),
        after_version: 0,
        page_size: -1,
    };
    assert_eq!(fields(events_from_proto(&bad)), ["order_id", "page_size"]);
}

#[test]
fn watch_reports_every_broken_field_and_has_limits() {
    let watch = |id: &str| proto::watch_orders_request::Watch {
        order_id: id.to_owned(),
        since_version: None,
    };
    let request = |orders| proto::WatchOrdersRequest { orders };
    assert_eq!(
        fields(watches_from_proto(&request(vec![watch("x"), watch("y")]))),
        ["orders/0/order_id", "orders/1/order_id"]
    );
    assert_eq!(fields(watches_from_proto(&request(vec![]))), ["orders"]);
    let id = "0198c5a0-5d5c-7abc-8def-0123456789ab";
    let too_many = request(vec![watch(id); WATCHES_MAX + 1]);
    assert_eq!(fields(watches_from_proto(&too_many)), ["orders"]);
}

#[test]
fn broken_answer_is_an_internal_error() {
    assert!(matches!(
        order_from_proto(None),
        Err(Error::Internal { source: Some(_) })
    ));
    let mut order = proto::Order {
        order_id: "0198c5a0-5d5c-7abc-8def-0123456789ab".to_owned(),
        ..proto::Order::default()
    };
    order.metadata.insert(String::new(), String::new());
    assert!(matches!(
        order_from_proto(Some(order)),
        Err(Error::Internal { source: Some(_) })
    ));
    let ticket = proto::CreateStreamTicketResponse {
        ticket: "short".to_owned(),
        expires_at: Some(prost_types::Timestamp::default()),
    };
    let grant = TicketGrant {
        user_id: UserId::parse("u").expect("valid"),
    };
    assert!(matches!(
        ticket_from_proto(&ticket, grant),
        Err(Error::Internal { source: Some(_) })
    ));
    let event = proto::OrderEvent::default();
    assert!(matches!(
        event_from_proto(event),
        Err(Error::Internal { source: Some(_) })
    ));
}

/// A service of another version may accept currencies that are unknown here, and orders that
/// cannot be read at all.
#[test]
fn orders_of_another_version_do_not_cost_the_page() {
    let order = |currency: &str, minor_digits| proto::Order {
        order_id: "0198c5a0-5d5c-7abc-8def-0123456789ab".to_owned(),
        user_id: " ".to_owned(),
        money: Some(proto::Money {
            currency: currency.to_owned(),
            minor_units: 1_500,
            minor_digits,
        }),
        status: proto::OrderStatus::Pending.into(),
        version: 1,
        created_at: Some(prost_types::Timestamp::default()),
        updated_at: Some(prost_types::Timestamp::default()),
        ..proto::Order::default()
    };
    let page = page_from_proto(vec![
        order("ZZZ", Some(3)),
        order("ZZZ", None),
        order("ZZZ", Some(300)),
        order("USD", None),
    ]);
    let amounts: Vec<_> = page.iter().map(|order| order.money.to_string()).collect();
    assert_eq!(amounts, ["1.5", "15"]);
}
