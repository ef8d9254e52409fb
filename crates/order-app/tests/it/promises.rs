//! What the HTTP API promises to those who build on it, on both databases and however the
//! system is cut.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future;
use hyper::Method;
use order_core::{Error, ListOrders};
use serde_json::Value;

use crate::support::{Answer, Engine, Http, Shape, System, database, run, wait_for};

const ORDER: &str = r#"{"user_id":"user-1","amount":100}"#;

/// Runs a case on both databases, in one process and in two.
fn everywhere(flags: &'static [&'static str], case: &impl AsyncFn(&System, &Http)) {
    run(async {
        for (shape, engine) in [
            (Shape::AllInOne, Engine::Sqlite),
            (Shape::Split, Engine::Postgres),
        ] {
            let database = database!(engine);
            let system = System::start(shape, &database, flags).await;
            case(&system, &Http::new(system.http_addr())).await;
            system.stop().await;
        }
    });
}

async fn post_keyed(http: &Http, key: &str, body: &str) -> Answer {
    http.send_with(
        Method::POST,
        "/orders",
        &[("idempotency-key", key)],
        Some(body),
    )
    .await
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[test]
fn two_hundred_posts_with_one_key_make_one_order() {
    everywhere(&[], &async |_, http| {
        let posts = (0..200).map(|_| post_keyed(http, "twin", ORDER));
        let answers = future::join_all(posts).await;
        let first = &answers[0];
        let mut n_replayed = 0;
        for answer in &answers {
            assert_eq!(answer.status, 201, "{answer:?}");
            assert_eq!(answer.body, first.body);
            for name in ["location", "etag"] {
                assert_eq!(answer.header(name), first.header(name), "{name}");
            }
            n_replayed += usize::from(answer.header("idempotent-replayed") == Some("true"));
        }
        assert_eq!(n_replayed, 199);
        let id = text(&first.json(), "order_id").to_owned();
        // One job: the order ends once, and there is no other order.
        let order = http.wait_for_status(&id, "PROCESSED").await;
        assert_eq!(order["version"], 2);
        let list = http.get("/orders?user_id=user-1").await.json();
        assert_eq!(list["orders"].as_array().map(Vec::len), Some(1));
        // Long after, and whatever happened to the order: the same answer.
        let late = post_keyed(http, "\"twin\"", ORDER).await;
        assert_eq!((late.status, &late.body), (201, &first.body));
        let other = post_keyed(http, "twin", r#"{"user_id":"user-1","amount":101}"#).await;
        assert_eq!(other.status, 422, "{other:?}");
        assert_eq!(other.json()["code"], "IDEMPOTENCY_KEY_REUSED");
    });
}

#[test]
fn key_order_and_white_space_do_not_make_another_request() {
    everywhere(&[], &async |_, http| {
        let first = post_keyed(
            http,
            "k",
            r#"{"user_id":"user-1","amount":100,"metadata":{"a":"1","b":"2"}}"#,
        )
        .await;
        let again = post_keyed(
            http,
            "k",
            r#" { "metadata" : {"b":"2", "a":"1"}, "amount" : "100.00", "user_id":"user-1" } "#,
        )
        .await;
        assert_eq!((again.status, &again.body), (201, &first.body), "{again:?}");
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    });
}

#[test]
fn a_stale_etag_is_refused_and_a_current_one_saves_the_body() {
    everywhere(&["--processor-delay", "1h"], &async |_, http| {
        let id = http.create_order().await;
        let path = format!("/orders/{id}");
        let get = async |tag: &str| {
            http.send_with(Method::GET, &path, &[("if-none-match", tag)], None)
                .await
        };
        let unchanged = get("\"1\"").await;
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        assert_eq!(unchanged.header("etag"), Some("\"1\""));
        assert_eq!(get("\"2\"").await.status, 200);
        let cancel = async |tag: &str| {
            let path = format!("{path}/cancel");
            http.send_with(Method::POST, &path, &[("if-match", tag)], None)
                .await
        };
        for stale in ["\"2\"", "W/\"1\"", "\"x\", \"7\""] {
            let refused = cancel(stale).await;
            assert_eq!(refused.status, 412, "{stale} {refused:?}");
            assert_eq!(refused.json()["code"], "ETAG_MISMATCH");
        }
        assert_eq!(http.get(&path).await.json()["status"], "PENDING");
        let cancelled = cancel("\"9\", \"1\"").await;
        assert_eq!(
            (cancelled.status, cancelled.header("etag")),
            (200, Some("\"2\"")),
            "{cancelled:?}"
        );
    });
}

#[test]
fn a_list_read_while_orders_come_in_misses_none_and_repeats_none() {
    everywhere(&["--processor-delay", "1h"], &async |system, http| {
        let mut before = BTreeSet::new();
        for _ in 0..30 {
            before.insert(http.create_order().await);
        }
        let addr = system.http_addr();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writer = tokio::task::spawn_local(async move {
            let http = Http::new(addr);
            while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                http.create_order().await;
            }
        });
        let mut seen = Vec::new();
        let mut path = "/orders?user_id=user-1&page_size=4".to_owned();
        loop {
            let page = http.get(&path).await;
            let body = page.json();
            let orders = body["orders"].as_array().expect("orders");
            seen.extend(
                orders
                    .iter()
                    .map(|order| text(order, "order_id").to_owned()),
            );
            let Some(link) = page.header("link") else {
                assert!(body.get("next_page_token").is_none(), "{body}");
                break;
            };
            let (next, _) = link
                .strip_prefix('<')
                .and_then(|link| link.split_once(">; rel=\"next\""))
                .expect("a link to the next page");
            path = next.to_owned();
        }
        stop.send(()).expect("still writing");
        writer.await.expect("no panic");
        let unique: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(unique.len(), seen.len(), "an order came twice");
        assert!(before.is_subset(&unique), "an order is missing");
        assert!(seen.is_sorted_by(|a, b| a > b), "newest first");
    });
}

#[test]
fn an_answer_waits_for_the_end_if_the_client_prefers_it() {
    everywhere(&["--processor-delay", "300ms"], &async |_, http| {
        let prefer = async |wait: &str| {
            let headers = [("prefer", wait)];
            http.send_with(Method::POST, "/orders", &headers, Some(ORDER))
                .await
        };
        let done = prefer("wait=20").await;
        assert_eq!(
            (done.status, &done.json()["status"]),
            (201, &"PROCESSED".into())
        );
        assert_eq!(done.header("preference-applied"), Some("wait=20"));
        assert_eq!(done.header("etag"), Some("\"2\""));
        let at_once = prefer("wait=0").await;
        assert_eq!(at_once.json()["status"], "PENDING");
    });
}

#[test]
fn a_failed_order_is_retried_by_request() {
    everywhere(&["--processor-delay", "1h"], &async |system, http| {
        let id = http.create_order().await;
        let api = Arc::clone(&system.service.api);
        let failed = order_core::UpdateStatus {
            order_id: id.parse().expect("an id"),
            status: order_core::OrderStatus::Failed,
            cause: None,
            if_match: None,
        };
        let ctx = crate::support::context();
        api.update_status(&ctx, failed).await.expect("moved");
        let path = format!("/orders/{id}/retry");
        let retried = http.send(Method::POST, &path, None).await;
        assert_eq!(
            (retried.status, &retried.json()["status"]),
            (200, &"PENDING".into()),
            "{retried:?}"
        );
        http.send(Method::POST, &format!("/orders/{id}/cancel"), None)
            .await;
        let refused = http.send(Method::POST, &path, None).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        let problem = refused.json();
        assert_eq!(
            (&problem["code"], &problem["current_status"]),
            (&"ORDER_NOT_RETRYABLE".into(), &"CANCELLED".into())
        );
    });
}

#[test]
fn an_external_id_that_is_taken_leads_to_its_order() {
    everywhere(&[], &async |_, http| {
        let body = r#"{"user_id":"user-1","amount":100,"external_id":"shop-7"}"#;
        let first = http.post("/orders", body).await;
        let location = first.header("location").expect("a location").to_owned();
        let refused = http.post("/orders", body).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        let problem = refused.json();
        assert_eq!(problem["code"], "EXTERNAL_ID_TAKEN");
        assert_eq!(text(&problem, "existing_order"), location);
        let found = http.get("/orders?external_id=shop-7").await.json();
        assert_eq!(found["orders"][0]["external_id"], "shop-7");
    });
}

#[test]
fn a_request_that_runs_out_of_time_leaves_nothing_behind() {
    run(async {
        let database = database!(Engine::Postgres);
        let flags = ["--request-timeout", "50ms"];
        let system = System::start(Shape::AllInOne, &database, &flags).await;
        let http = Http::new(system.http_addr());
        let client = database.sql().await;
        client
            .batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            .await
            .expect("locked");
        let late = http.get("/orders").await;
        assert_eq!(late.status, 504, "{late:?}");
        assert_eq!(late.json()["code"], "DEADLINE_EXCEEDED");
        let soon = order_core::Deadline::at(
            (tokio::time::Instant::now() + Duration::from_millis(50)).into_std(),
        );
        let ctx = order_core::CallContext {
            deadline: soon,
            ..crate::support::context()
        };
        let list = system
            .remote()
            .list_orders(&ctx, ListOrders::default())
            .await;
        assert!(matches!(list, Err(Error::DeadlineExceeded)), "{list:?}");
        // The statement is cancelled, although the lock it waited for is still held.
        wait_for("no statement is left", async || {
            // A transaction sees what others do as it was when it first looked.
            let again = "SELECT pg_stat_clear_snapshot()";
            client.batch_execute(again).await.expect("cleared");
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND state = 'active' AND application_name LIKE 'order-system%' \
                AND query LIKE '%ORDER BY id DESC%'";
            let n: i64 = client.query_one(sql, &[]).await.expect("counted").get(0);
            (n == 0).then_some(())
        })
        .await;
        client.batch_execute("ROLLBACK").await.expect("unlocked");
        system.stop().await;
    });
}
