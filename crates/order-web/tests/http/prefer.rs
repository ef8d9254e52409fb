//! `Prefer: wait` with paused time: who waits, for how long, and what ends it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use order_core::OrderStatus;
use order_web::http::HttpConfig;
use serde_json::Value;
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::{
    live::LiveApi,
    support::{app_over, deps_over, post, request, with},
};

/// An app over one order, and what is there to steer it.
struct Scene {
    api: Arc<LiveApi>,
    app: Router,
    stop: tokio_util::sync::CancellationToken,
}

impl Scene {
    fn new(config: HttpConfig) -> Self {
        let api = LiveApi::new();
        let deps = deps_over(api.clone());
        let stop = deps.stop.clone();
        let app = app_over(deps, config);
        Self { api, app, stop }
    }

    fn get(&self, prefer: &'static str) -> Request<Body> {
        let path = format!("/orders/{}", self.api.order_id);
        with(request("GET", &path, ""), "prefer", prefer)
    }

    /// Sends a request and does something while it is under way.
    async fn during(&self, request: Request<Body>, meanwhile: impl Future<Output = ()>) -> Answer {
        let begun = Instant::now();
        let sent = self.app.clone().oneshot(request);
        let (response, ()) = tokio::join!(sent, meanwhile);
        Answer::read(response.expect("infallible"), begun.elapsed()).await
    }
}

/// What matters about an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    order_status: String,
    applied: Option<String>,
    seconds: u64,
}

impl Answer {
    async fn read(response: Response<Body>, elapsed: Duration) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let applied = parts.headers.get("preference-applied");
        Self {
            status: parts.status.as_u16(),
            order_status: body["status"].as_str().expect("an order").to_owned(),
            applied: applied.map(|value| value.to_str().expect("text").to_owned()),
            seconds: elapsed.as_secs(),
        }
    }
}

fn answer(status: u16, order_status: &str, applied: Option<&str>, seconds: u64) -> Answer {
    Answer {
        status,
        order_status: order_status.to_owned(),
        applied: applied.map(str::to_owned),
        seconds,
    }
}

async fn after(seconds: u64, act: impl FnOnce()) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    act();
}

#[tokio::test(start_paused = true)]
async fn answer_comes_when_the_order_is_settled() {
    let scene = Scene::new(HttpConfig::default());
    // Longer than a request may take otherwise.
    let moves = async {
        after(7, || scene.api.move_to(OrderStatus::Processing)).await;
        after(1, || scene.api.move_to(OrderStatus::Processed)).await;
    };
    let found = scene.during(scene.get("wait=20"), moves).await;
    assert_eq!(found, answer(200, "PROCESSED", Some("wait=20"), 8));
    // Once when it came, once when it was settled; and never in between.
    assert_eq!(scene.api.n_reads.load(Ordering::Relaxed), 2);
    assert_eq!(scene.api.n_watching(), 0);
}

#[tokio::test(start_paused = true)]
async fn answer_comes_when_the_wait_is_over() {
    let scene = Scene::new(HttpConfig::default());
    let moves = after(7, || scene.api.move_to(OrderStatus::Processing));
    let found = scene.during(scene.get("wait=9"), moves).await;
    assert_eq!(found, answer(200, "PROCESSING", Some("wait=9"), 9));
    let found = scene.during(scene.get("wait=31"), async {}).await;
    assert_eq!(found, answer(200, "PROCESSING", Some("wait=30"), 30));
    assert_eq!(scene.api.n_watching(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_without_need() {
    let scene = Scene::new(HttpConfig::default());
    let found = scene.during(scene.get("respond-async"), async {}).await;
    assert_eq!(found, answer(200, "PENDING", None, 0));
    let found = scene.during(scene.get("wait=0"), async {}).await;
    assert_eq!(found, answer(200, "PENDING", Some("wait=0"), 0));
    scene.api.move_to(OrderStatus::Failed);
    let found = scene.during(scene.get("wait=10"), async {}).await;
    assert_eq!(found, answer(200, "FAILED", Some("wait=10"), 0));
    assert_eq!(scene.api.n_watches.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn creating_waits_too_and_sees_what_happened_since() {
    let scene = Scene::new(HttpConfig::default());
    let create = || with(post(r#"{"user_id":"u","amount":1}"#), "prefer", "wait=10");
    let moves = after(3, || scene.api.move_to(OrderStatus::Cancelled));
    let found = scene.during(create(), moves).await;
    assert_eq!(found, answer(201, "CANCELLED", Some("wait=10"), 3));
    // A repeated request is answered as the first one was, and then waits from there.
    let found = scene.during(create(), async {}).await;
    assert_eq!(found, answer(201, "CANCELLED", Some("wait=10"), 0));
}

#[tokio::test(start_paused = true)]
async fn order_that_failed_and_was_redriven_is_waited_for() {
    let scene = Scene::new(HttpConfig::default());
    scene.api.move_to(OrderStatus::Failed);
    scene.api.move_to(OrderStatus::Pending);
    // The answer to the create is version 1, so the failure is news to the wait.
    let create = with(post(r#"{"user_id":"u","amount":1}"#), "prefer", "wait=10");
    let moves = after(5, || scene.api.move_to(OrderStatus::Processed));
    let found = scene.during(create, moves).await;
    assert_eq!(found, answer(201, "PROCESSED", Some("wait=10"), 5));
}

#[tokio::test(start_paused = true)]
async fn retry_waits_for_its_own_outcome() {
    let scene = Scene::new(HttpConfig::default());
    scene.api.move_to(OrderStatus::Failed);
    let path = format!("/orders/{}/retry", scene.api.order_id);
    let retry = with(request("POST", &path, ""), "prefer", "wait=10");
    let moves = after(2, || scene.api.move_to(OrderStatus::Failed));
    let found = scene.during(retry, moves).await;
    assert_eq!(found, answer(200, "FAILED", Some("wait=10"), 2));
}

#[tokio::test(start_paused = true)]
async fn one_more_than_may_wait_is_answered_at_once() {
    let scene = Scene::new(HttpConfig {
        waiters_max: 1,
        ..HttpConfig::default()
    });
    let second = async {
        scene.api.until_watching(1).await;
        let found = scene.during(scene.get("wait=10"), async {}).await;
        assert_eq!(found, answer(200, "PENDING", None, 0));
    };
    let found = scene.during(scene.get("wait=10"), second).await;
    assert_eq!(found, answer(200, "PENDING", Some("wait=10"), 10));
    // The place is free again, also after a client that left.
    let mut left = Box::pin(scene.app.clone().oneshot(scene.get("wait=10")));
    assert!(futures_util::poll!(&mut left).is_pending());
    assert_eq!(scene.api.n_watching(), 1);
    drop(left);
    assert_eq!(scene.api.n_watching(), 0);
    let found = scene.during(scene.get("wait=1"), async {}).await;
    assert_eq!(found, answer(200, "PENDING", Some("wait=1"), 1));
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_wait() {
    let scene = Scene::new(HttpConfig::default());
    let stop = after(4, || scene.stop.cancel());
    let found = scene.during(scene.get("wait=20"), stop).await;
    assert_eq!(found, answer(200, "PENDING", Some("wait=20"), 4));
}
