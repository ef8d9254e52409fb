//! What the client makes again, what it does not, and how it finds the service.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::BoxFuture;
use order_core::{
    CancelOrder, CreateOrder, Error, IfMatch, Order, OrderApi, OrderStatus, RequestId, RetryOrder,
    UpdateStatus,
};
use order_rpc::{RemoteOrderApi, RpcClientConfig, proto};
use tokio::net::TcpListener;
use tonic_types::StatusExt as _;

use crate::{
    fake::{Act, FakeApi},
    raw::RawClient,
    support::{TestServer, client_of, create, ctx, id, key, remote, server_config, soon},
};

fn unavailable() -> Act {
    Act::Fail(Error::store_unavailable("down"))
}

#[tokio::test]
async fn unavailable_call_is_made_again_as_the_same_request() {
    let server = TestServer::start([unavailable(), Act::Fail(Error::shutting_down())]).await;
    let order = server
        .client()
        .create_order(&ctx(), create(Some(id(5))))
        .await;
    let receipt = order.expect("the third attempt succeeds");
    assert_eq!(receipt.order.id, id(5));
    let ids: Vec<RequestId> = server
        .api
        .calls()
        .into_iter()
        .map(|c| c.request_id)
        .collect();
    assert_eq!(ids, vec![ctx().request_id; 3]);
    server.stop().await;
}

#[tokio::test]
async fn third_failure_is_final() {
    let server = TestServer::start([unavailable(), unavailable(), unavailable()]).await;
    let answer = server.client().get_order(&ctx(), id(1)).await;
    assert!(matches!(answer, Err(Error::StoreUnavailable { .. })));
    assert_eq!(server.api.calls().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn overload_and_unsafe_writes_are_not_repeated() {
    let server = TestServer::start([Act::Fail(Error::overloaded()), unavailable()]).await;
    let remote = server.client();
    let shed = remote.create_order(&ctx(), create(Some(id(5)))).await;
    assert!(matches!(shed, Err(Error::Overloaded { .. })));
    assert_eq!(server.api.calls().len(), 1);
    let unsafe_write = remote
        .create_orders(&ctx(), vec![create(Some(id(1))), create(None)])
        .await;
    assert!(matches!(unsafe_write, Err(Error::StoreUnavailable { .. })));
    assert_eq!(server.api.calls().len(), 2);
    server.stop().await;
}

fn etag_mismatch() -> Act {
    Act::Fail(Error::EtagMismatch {
        order_id: id(1),
        current: 4,
    })
}

type Change = for<'a> fn(&'a RemoteOrderApi) -> BoxFuture<'a, Result<Order, Error>>;

/// Each kind of change, all with a precondition that only holds before the change.
const CHANGES: [Change; 3] = [
    |remote| {
        Box::pin(async {
            let request = CancelOrder {
                order_id: id(1),
                reason: None,
                if_match: Some(IfMatch::Versions(vec![3])),
                idempotency_key: None,
            };
            let receipt = remote.cancel_order(&ctx(), request).await?;
            Ok(receipt.order)
        })
    },
    |remote| {
        Box::pin(async {
            let request = RetryOrder {
                order_id: id(1),
                if_match: Some(IfMatch::Versions(vec![3])),
            };
            remote.retry_order(&ctx(), request).await
        })
    },
    |remote| {
        Box::pin(async {
            let request = UpdateStatus {
                order_id: id(1),
                status: OrderStatus::Processing,
                cause: None,
                if_match: Some(IfMatch::Versions(vec![3])),
            };
            remote.update_status(&ctx(), request).await
        })
    },
];

#[tokio::test]
async fn change_is_made_again_under_the_same_name() {
    let mut names = BTreeSet::new();
    for change in CHANGES {
        let server = TestServer::start([unavailable()]).await;
        let changed = change(&server.client()).await;
        changed.expect("the second attempt succeeds");
        let calls = server.api.calls();
        let [first, second] = &calls[..] else {
            panic!("{calls:?}");
        };
        assert_eq!(first.change_id, second.change_id);
        assert!(names.insert(first.change_id.expect("a name")));
        server.stop().await;
    }
}

/// The first attempt may have been committed, and an older service does not know that the second
/// is the same change.
#[tokio::test]
async fn refusal_of_a_repeated_change_is_not_taken_for_that_of_the_first() {
    for change in CHANGES {
        let server = TestServer::start([unavailable(), etag_mismatch()]).await;
        let changed = change(&server.client()).await;
        assert!(
            matches!(changed, Err(Error::StoreUnavailable { .. })),
            "{changed:?}"
        );
        assert_eq!(server.api.calls().len(), 2);
        // One that did nothing before it refused leaves no doubt.
        let shutting_down = Act::Fail(Error::shutting_down());
        server
            .api
            .then([shutting_down, etag_mismatch(), etag_mismatch()]);
        for _ in 0..2 {
            let changed = change(&server.client()).await;
            assert!(
                matches!(changed, Err(Error::EtagMismatch { .. })),
                "{changed:?}"
            );
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn key_makes_a_write_safe_to_repeat() {
    let server = TestServer::start([unavailable()]).await;
    let request = CreateOrder {
        idempotency_key: Some(key("k")),
        ..create(None)
    };
    let created = server.client().create_order(&ctx(), request).await;
    assert!(created.expect("the second attempt succeeds").is_replayed);
    assert_eq!(server.api.calls().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let server = TestServer::start((0..1_000).map(|_| unavailable())).await;
    let remote = server.client();
    for _ in 0..30 {
        assert!(remote.get_order(&ctx(), id(1)).await.is_err());
    }
    // The bucket begins with 10 and 30 calls fill in 3; the calls that find it full, none
    // after the first retry, add nothing.
    let n_retries = server.api.calls().len() - 30;
    assert!((10..=13).contains(&n_retries), "{n_retries}");
    server.stop().await;
}

#[tokio::test]
async fn client_starts_before_the_service_and_finds_it_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let remote = client_of(address);
    let answer = remote.get_order(&ctx(), id(1)).await;
    let Err(error @ Error::ServiceUnavailable { .. }) = answer else {
        panic!("unexpected {answer:?}");
    };
    let place = format!("cannot connect to {address}");
    assert!(error.chain().contains(&place), "{}", error.chain());

    let listener = TcpListener::bind(address)
        .await
        .expect("the port is still free");
    let server = TestServer::start_on(listener, FakeApi::new([]), server_config());
    wait_for_answer(&remote).await;
    server.stop().await;
}

#[tokio::test]
async fn client_comes_back_after_a_restart_of_the_service() {
    let server = TestServer::start([]).await;
    let address = server.address;
    let remote = server.client();
    remote.get_order(&ctx(), id(1)).await.expect("an order");
    server.stop().await;
    let down = remote.get_order(&ctx(), id(1)).await;
    assert!(
        matches!(down, Err(Error::ServiceUnavailable { .. })),
        "{down:?}"
    );
    let listener = TcpListener::bind(address)
        .await
        .expect("the port is free again");
    let server = TestServer::start_on(listener, FakeApi::new([]), server_config());
    wait_for_answer(&remote).await;
    server.stop().await;
}

async fn wait_for_answer(remote: &RemoteOrderApi) {
    let answered = async {
        while remote.get_order(&ctx(), id(1)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(answered).await;
}

#[tokio::test]
async fn dead_address_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dead = listener.local_addr().expect("bound");
    drop(listener);
    let server = TestServer::start([]).await;
    let config = RpcClientConfig {
        connections: 2,
        connect_timeout: Duration::from_secs(1),
        ..RpcClientConfig::new(vec![
            format!("http://{dead}"),
            format!("http://{}", server.address),
        ])
    };
    let remote = remote(&config);
    for _ in 0..50 {
        remote.get_order(&ctx(), id(1)).await.expect("an order");
    }
    server.stop().await;
}

/// A client that obeys `RetryInfo` repeats the call, so it is sent only where that cannot have the
/// effect twice: nothing was done, or the service recognises the repetition.
#[tokio::test]
async fn only_what_may_be_repeated_says_when() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let create = |order_id: &str, key: &str| proto::CreateOrderRequest {
        order_id: order_id.to_owned(),
        user_id: "u".to_owned(),
        money: Some(proto::Money {
            minor_units: 1,
            ..proto::Money::default()
        }),
        idempotency_key: key.to_owned(),
        ..proto::CreateOrderRequest::default()
    };
    let id = &id(7).to_string();
    let header = ("idempotency-key", "k");
    for (headers, message, is_told) in [
        (&[][..], create("", ""), false),
        (&[], create(id, ""), true),
        (&[], create("", "k"), true),
        (&[header], create("", ""), true),
    ] {
        for (error, is_told) in [
            (Error::store_unavailable("down"), is_told),
            (Error::service_unavailable("down"), is_told),
            (Error::overloaded(), true),
            (Error::shutting_down(), true),
        ] {
            let reason = error.reason();
            server.api.then([Act::Fail(error)]);
            let answer = raw.call("CreateOrder", headers, &message).await;
            let told = answer.status.get_details_retry_info();
            assert_eq!(told.is_some(), is_told, "{reason:?} of {message:?}");
            // Without a time of its own it is the same error all the same.
            assert_eq!(answer.error().reason(), reason);
        }
    }
    for (second, is_told) in [(create("", ""), false), (create("", "k"), true)] {
        server.api.then([unavailable()]);
        let requests = vec![create(id, ""), second];
        let batch = proto::BatchCreateOrdersRequest { requests };
        let answer = raw.call("BatchCreateOrders", &[], &batch).await;
        assert_eq!(answer.status.get_details_retry_info().is_some(), is_told);
    }
    for (change_id, is_told) in [("", false), (id.as_str(), true)] {
        server.api.then([unavailable()]);
        let message = proto::RetryOrderRequest {
            order_id: id.clone(),
            change_id: change_id.to_owned(),
            ..proto::RetryOrderRequest::default()
        };
        let answer = raw.call("RetryOrder", &[], &message).await;
        assert_eq!(answer.status.get_details_retry_info().is_some(), is_told);
    }
    server.stop().await;
}
