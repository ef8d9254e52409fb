//! Idempotency keys and preconditions, as clients without our client send them.

use order_core::{Error, IdempotencyKey};
use order_rpc::proto;
use tonic::Code;

use crate::{
    raw::{RawAnswer, RawClient},
    support::{TestServer, id},
};

fn create(key: &str) -> proto::CreateOrderRequest {
    proto::CreateOrderRequest {
        order_id: id(1).to_string(),
        user_id: "user-1".to_owned(),
        money: Some(proto::Money {
            currency: "USD".to_owned(),
            minor_units: 100,
            ..proto::Money::default()
        }),
        idempotency_key: key.to_owned(),
        ..proto::CreateOrderRequest::default()
    }
}

fn cancel(etag: &str) -> proto::CancelOrderRequest {
    proto::CancelOrderRequest {
        order_id: id(1).to_string(),
        reason: "changed my mind".to_owned(),
        etag: etag.to_owned(),
        ..proto::CancelOrderRequest::default()
    }
}

/// The field of the only broken rule.
fn field(answer: RawAnswer) -> String {
    match answer.error() {
        Error::InvalidArgument { violations } if violations.len() == 1 => {
            violations[0].field.clone()
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[tokio::test]
async fn key_in_the_metadata_is_the_field() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    for (header, key) in [
        (Some("k-1"), ""),
        (Some("\"k-1\""), ""),
        (Some("\"k-1\""), "k-1"),
        (None, "k-1"),
    ] {
        let headers: Vec<_> = header
            .map(|key| ("idempotency-key", key))
            .into_iter()
            .collect();
        let answer = raw.call("CreateOrder", &headers, &create(key)).await;
        assert_eq!(answer.headers["idempotent-replayed"], "true");
        let created: proto::CreateOrderResponse = answer.message();
        assert!(created.replayed);
        // The fake tells the key it got.
        let order = created.order.expect("an order");
        assert_eq!(order.failure.expect("a key").message, "k-1");
        assert_eq!(order.etag, "\"3\"");
    }
    let headers = [("idempotency-key", "k-2")];
    let answer = raw.call("CancelOrder", &headers, &cancel("")).await;
    assert_eq!(answer.headers["idempotent-replayed"], "true");
    let cancelled: proto::CancelOrderResponse = answer.message();
    assert!(cancelled.replayed);
    let failure = cancelled.order.and_then(|order| order.failure);
    assert_eq!(failure.expect("a key").code, "k2");
    server.stop().await;
}

#[tokio::test]
async fn first_answer_does_not_claim_to_be_replayed() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let answer = raw.call("CreateOrder", &[], &create("")).await;
    assert!(!answer.headers.contains_key("idempotent-replayed"));
    let created: proto::CreateOrderResponse = answer.message();
    assert!(!created.replayed);
    server.stop().await;
}

#[tokio::test]
async fn keys_that_differ_or_are_malformed_are_refused() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let header = |key| ("idempotency-key", key);
    for (headers, key) in [
        (&[header("k-1")][..], "k-2"),
        (&[header("k-1"), header("k-1")][..], ""),
        (&[header("\"k-1")][..], ""),
        (&[header("a b")][..], ""),
        (&[header("")][..], ""),
        (&[header("\u{e4}")][..], ""),
        (&[][..], "a b"),
    ] {
        let answer = raw.call("CreateOrder", headers, &create(key)).await;
        assert_eq!(field(answer), "idempotency_key", "{headers:?} {key:?}");
        let request = proto::CancelOrderRequest {
            idempotency_key: key.to_owned(),
            ..cancel("")
        };
        let answer = raw.call("CancelOrder", headers, &request).await;
        assert_eq!(field(answer), "idempotency_key", "{headers:?} {key:?}");
    }
    assert!(server.api.calls().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn keys_of_a_batch_belong_to_its_requests() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let requests = vec![create("k-0"), create("a b"), create("k-2"), create("")];
    let batch = proto::BatchCreateOrdersRequest { requests };
    let headers = [("idempotency-key", "of-the-call")];
    let answer = raw.call("BatchCreateOrders", &headers, &batch).await;
    let response: proto::BatchCreateOrdersResponse = answer.message();
    let replayed: Vec<bool> = response.results.iter().map(|r| r.replayed).collect();
    // The fake refuses the second valid one, which is the third.
    assert_eq!(replayed, [true, false, false, false]);
    let batches = server.api.batches.lock().expect("not poisoned").clone();
    let keys = batches[0]
        .iter()
        .map(|create| create.idempotency_key.as_ref().map(IdempotencyKey::as_str));
    assert_eq!(keys.collect::<Vec<_>>(), [Some("k-0"), Some("k-2"), None]);
    let Some(proto::batch_create_orders_response::result::Result::Error(status)) =
        &response.results[1].result
    else {
        panic!("unexpected {response:?}");
    };
    assert!(
        status.message.contains("requests/1/idempotency_key"),
        "{status:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn etag_is_checked_and_a_malformed_one_refused() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    for (etag, code) in [
        ("", Code::Ok),
        ("3", Code::Ok),
        ("\"3\"", Code::Ok),
        ("*", Code::Ok),
        ("\"2\"", Code::Aborted),
        ("W/\"3\"", Code::Aborted),
    ] {
        let answer = raw.call("CancelOrder", &[], &cancel(etag)).await;
        assert_eq!(answer.status.code(), code, "{etag}");
        if code == Code::Aborted {
            let error = answer.error();
            assert!(
                matches!(error, Error::EtagMismatch { current: 3, .. }),
                "{error:?}"
            );
        }
    }
    let n_calls = server.api.calls().len();
    let order_id = id(1).to_string();
    let retry = proto::RetryOrderRequest {
        order_id: order_id.clone(),
        etag: "three".to_owned(),
        change_id: String::new(),
    };
    let update = proto::UpdateStatusRequest {
        order_id,
        status: proto::OrderStatus::Failed.into(),
        etag: "three".to_owned(),
        ..proto::UpdateStatusRequest::default()
    };
    assert_eq!(
        field(raw.call("CancelOrder", &[], &cancel("three")).await),
        "etag"
    );
    assert_eq!(field(raw.call("RetryOrder", &[], &retry).await), "etag");
    assert_eq!(field(raw.call("UpdateStatus", &[], &update).await), "etag");
    assert_eq!(server.api.calls().len(), n_calls);
    server.stop().await;
}

#[tokio::test]
async fn bad_input_of_the_other_methods_is_refused_before_the_api() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let events = proto::ListOrderEventsRequest {
        order_id: id(1).to_string(),
        after_version: 0,
        page_size: -1,
    };
    let answer = raw.call("ListOrderEvents", &[], &events).await;
    assert_eq!(field(answer), "page_size");
    let ticket = proto::CreateStreamTicketRequest::default();
    let answer = raw.call("CreateStreamTicket", &[], &ticket).await;
    assert_eq!(field(answer), "user_id");
    assert!(server.api.calls().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn ticket_is_told_as_text_with_its_end() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let request = proto::CreateStreamTicketRequest {
        user_id: "user-1".to_owned(),
    };
    let answer = raw.call("CreateStreamTicket", &[], &request).await;
    let ticket: proto::CreateStreamTicketResponse = answer.message();
    assert_eq!(ticket.ticket.len(), 43);
    assert_eq!(ticket.expires_at.expect("a time").seconds, 1_700_000_000);
    server.stop().await;
}

#[tokio::test]
async fn size_of_a_page_of_events_follows_aip_158() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    for (page_size, n_events) in [(0, 50), (1, 1), (5_000, 1_000)] {
        let request = proto::ListOrderEventsRequest {
            order_id: id(1).to_string(),
            after_version: 4,
            page_size,
        };
        let answer = raw.call("ListOrderEvents", &[], &request).await;
        let page: proto::ListOrderEventsResponse = answer.message();
        assert_eq!(page.events.len(), n_events);
        assert_eq!(page.events[0].version, 5);
        assert_eq!(page.events[0].user_id, "user-1");
        assert!(!page.has_more);
    }
    server.stop().await;
}
