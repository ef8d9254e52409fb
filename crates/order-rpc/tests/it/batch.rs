//! Many orders in one call: those that come together and those that come at the same time.

use std::sync::Arc;

use order_core::{CreateOrder, Error, Metadata, OrderApi};
use order_rpc::{REQUEST_BYTES_MAX, proto};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    fake::Act,
    raw::RawClient,
    support::{TestServer, create, ctx, id, key, text},
};

#[tokio::test]
async fn batch_answers_each_request_for_itself() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let create = |n: u128, user_id: &str| proto::CreateOrderRequest {
        order_id: id(n).to_string(),
        user_id: user_id.to_owned(),
        money: Some(proto::Money {
            currency: String::new(),
            minor_units: 1,
            ..proto::Money::default()
        }),
        ..proto::CreateOrderRequest::default()
    };
    // The api refuses its second valid order; the second request never reaches it.
    let requests = vec![
        create(0, "u"),
        create(1, ""),
        create(2, "u"),
        create(3, "u"),
    ];
    let answer = raw
        .call(
            "BatchCreateOrders",
            &[],
            &proto::BatchCreateOrdersRequest { requests },
        )
        .await;
    let response: proto::BatchCreateOrdersResponse = answer.message();
    let results: Vec<String> = response.results.into_iter().map(describe).collect();
    assert_eq!(
        results,
        [
            id(0).to_string(),
            "3 the request is not valid: requests/1/user_id: must not be empty".to_owned(),
            format!("6 order {} already exists with other content", id(2)),
            id(3).to_string(),
        ]
    );
    server.stop().await;
}

fn describe(result: proto::batch_create_orders_response::Result) -> String {
    use proto::batch_create_orders_response::result::Result::{Error, Order};
    match result.result.expect("never empty") {
        Order(order) => order.order_id,
        Error(status) => format!("{} {}", status.code, status.message),
    }
}

#[tokio::test]
async fn concurrent_creates_share_calls_and_get_their_own_answers() {
    let (open, gate) = oneshot::channel();
    let server = TestServer::start([Act::AnswerAfter(gate)]).await;
    let remote = Arc::new(server.client());
    let mut creating = JoinSet::new();
    // The first is on its way alone; the others gather while it is answered.
    for n in 0..40 {
        let remote = Arc::clone(&remote);
        creating.spawn(async move { (n, remote.create_order(&ctx(), create(Some(id(n)))).await) });
    }
    server.api.wait_for_calls(1).await;
    open.send(()).expect("the server waits");
    while let Some(created) = creating.join_next().await {
        let (n, answer) = created.expect("no panic");
        // The fake refuses some items of a batch, each by its own id.
        let order_id = match answer {
            Ok(receipt) => receipt.order.id,
            Err(Error::OrderAlreadyExists { order_id }) => order_id,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(order_id, id(n));
    }
    let n_calls = server.api.calls().len();
    assert!(n_calls < 20, "40 orders took {n_calls} calls");
    server.stop().await;
}

#[tokio::test]
async fn keyed_creates_share_calls_of_their_own() {
    let (open, gate) = oneshot::channel();
    let (open_keyed, gate_keyed) = oneshot::channel();
    let script = [Act::AnswerAfter(gate), Act::AnswerAfter(gate_keyed)];
    let server = TestServer::start(script).await;
    let remote = Arc::new(server.client());
    let mut creating = JoinSet::new();
    let mut spawn = |n: u128, is_keyed: bool| {
        let remote = Arc::clone(&remote);
        creating.spawn(async move {
            let request = CreateOrder {
                idempotency_key: is_keyed.then(|| key(&format!("key-{n}"))),
                ..create((!is_keyed).then(|| id(n)))
            };
            remote.create_order(&ctx(), request).await
        });
    };
    spawn(0, false);
    server.api.wait_for_calls(1).await;
    spawn(1, true);
    server.api.wait_for_calls(2).await;
    for n in 2..42 {
        spawn(n, n % 2 == 0);
    }
    open.send(()).expect("the server waits");
    open_keyed.send(()).expect("the server waits");
    while let Some(created) = creating.join_next().await {
        let answer = created.expect("no panic");
        let is_refused = matches!(answer, Err(Error::OrderAlreadyExists { .. }));
        assert!(answer.is_ok() || is_refused, "{answer:?}");
    }
    let n_calls = server.api.calls().len();
    assert!(n_calls < 20, "42 orders took {n_calls} calls");
    for batch in server.api.batches.lock().expect("not poisoned").iter() {
        let n_keyed = batch.iter().filter(|c| c.idempotency_key.is_some()).count();
        assert!(n_keyed == 0 || n_keyed == batch.len(), "a mixed batch");
    }
    server.stop().await;
}

#[tokio::test]
async fn vector_is_sent_in_as_few_calls_as_the_limits_allow() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let requests = (0..2_001).map(|n| create(Some(id(n)))).collect();
    let answers = remote.create_orders(&ctx(), requests).await;
    assert_eq!(answers.expect("a batch").len(), 2_001);
    let lens = || -> Vec<usize> {
        let batches = server.api.batches.lock().expect("not poisoned");
        batches.iter().map(Vec::len).collect()
    };
    assert_eq!(lens(), [1_000, 1_000, 1]);

    let entries = (0..50).map(|n| (format!("{n}"), "\u{10ffff}".repeat(500)));
    let large = CreateOrder {
        metadata: Metadata::new(entries).expect("valid"),
        ..create(None)
    };
    let n_large = 40;
    assert!(n_large * 100_000 > REQUEST_BYTES_MAX);
    let answers = remote.create_orders(&ctx(), vec![large; n_large]).await;
    assert_eq!(answers.expect("a batch").len(), n_large);
    let lens = lens();
    assert_eq!(lens.iter().skip(3).sum::<usize>(), n_large);
    assert!(lens.len() <= 3 + 5, "{lens:?}");
    server.stop().await;
}

#[tokio::test]
async fn failed_call_of_a_long_vector_leaves_the_answers_before_it() {
    let script = [Act::Answer, Act::Fail(Error::overloaded())];
    let server = TestServer::start(script).await;
    let requests = (0..2_500).map(|n| create(Some(id(n)))).collect();
    let answers = server.client().create_orders(&ctx(), requests).await;
    let answers = answers.expect("the first call was answered");
    assert_eq!(answers.len(), 2_500);
    assert!(answers[999].is_ok());
    let overloaded = text::<()>(&Err(Error::overloaded()));
    for answer in answers.iter().skip(1_000) {
        assert_eq!(text(answer), overloaded);
    }
    // What would have followed was not sent.
    assert_eq!(server.api.calls().len(), 2);
    server.stop().await;
}

/// The client waits for a concurrent duplicate, and no call to the service does: it sends a batch,
/// which is answered at once.
#[tokio::test]
async fn create_whose_duplicate_is_in_progress_is_sent_again() {
    let in_progress = || Act::Fail(Error::request_in_progress());
    let server = TestServer::start([in_progress(), in_progress()]).await;
    let request = CreateOrder {
        idempotency_key: Some(key("key-1")),
        ..create(None)
    };

    let created = server.client().create_order(&ctx(), request).await;

    assert!(created.is_ok(), "{created:?}");
    assert_eq!(server.api.calls().len(), 3);
    assert_eq!(*server.api.created.lock().expect("not poisoned"), []);
    server.stop().await;
}
