//! Pages of others change nothing and read nothing.

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{Request, StatusCode};
use order_web::{
    admin::{self, Readiness},
    http::{HttpConfig, guarded, router},
};
use tower::ServiceExt as _;

use crate::{
    fake::{Content, DEAD, MOVING, id},
    support::{Scene, get, post},
};

const CREATE: &str = "idempotency_key=k&user_id=ann&amount=1";

#[tokio::test(start_paused = true)]
async fn page_of_another_origin_changes_nothing() {
    let scene = Scene::new(Content::Ordinary);
    let paths = [
        ("/console/orders".to_owned(), CREATE),
        (
            format!("/console/orders/{}/cancel", id(MOVING)),
            "version=1",
        ),
        (format!("/console/orders/{}/retry", id(DEAD)), "version=3"),
        ("/console/dead-letters/redrive".to_owned(), "limit=10"),
        ("/console/processes".to_owned(), "action=pause"),
    ];
    for (path, form) in &paths {
        for headers in [
            &[("sec-fetch-site", "cross-site")][..],
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "http://localhost:9090"),
            ],
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[],
        ] {
            let mut request = post(path, form);
            request.headers_mut().remove("sec-fetch-site");
            for (name, value) in headers {
                request
                    .headers_mut()
                    .insert(*name, value.parse().expect("a value"));
            }
            let answer = scene.send(request).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {headers:?}");
            assert!(
                answer
                    .text
                    .contains("pages of this origin may not do this here")
            );
        }
    }
    assert!(scene.system.created.lock().expect("no panic").is_empty());
    assert!(
        scene
            .get("/console/processes")
            .await
            .text
            .contains("Processes claim jobs.")
    );

    let mut own = post("/console/orders", CREATE);
    own.headers_mut().remove("sec-fetch-site");
    own.headers_mut()
        .insert("origin", "http://localhost:9090".parse().expect("a value"));
    assert_eq!(scene.send(own).await.status, StatusCode::SEE_OTHER);
}

struct Silent;

impl admin::LogFilter for Silent {
    fn get(&self) -> String {
        "info".to_owned()
    }

    fn set(
        &self,
        _: &str,
        _: &order_core::RequestId,
        _: Option<std::net::SocketAddr>,
    ) -> Result<(), String> {
        unreachable!("nobody gets so far")
    }
}

#[tokio::test(start_paused = true)]
async fn name_that_others_can_have_is_not_answered_on_a_loopback_address() {
    let scene = Scene::new(Content::Ordinary);
    let admin = admin::router(
        Readiness::new(scene.deps.clone()),
        &Arc::default(),
        Arc::new(Silent),
    );
    let on = |listener: &str| {
        let listener = listener.parse().expect("an address");
        guarded(admin.clone(), &scene.deps, listener)
    };
    let status = async |router: Router, host: &str, method: &str| {
        let request = Request::builder()
            .method(method)
            .uri("/log-level")
            .header("host", host);
        let request = request.body(Body::from("debug")).expect("a request");
        router.oneshot(request).await.expect("infallible").status()
    };
    for host in [
        "evil.example",
        "127.0.0.1.nip.io:9090",
        "localhost.evil.example",
        "a b",
    ] {
        for listener in ["127.0.0.1:9090", "[::1]:9090"] {
            let refused = status(on(listener), host, "PUT").await;
            assert_eq!(refused, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
        assert_eq!(
            status(on("0.0.0.0:9090"), host, "GET").await,
            StatusCode::OK,
            "{host}"
        );
    }
    for host in [
        "localhost:9090",
        "console.localhost",
        "127.0.0.1:9090",
        "[::1]:9090",
    ] {
        assert_eq!(
            status(on("127.0.0.1:9090"), host, "GET").await,
            StatusCode::OK,
            "{host}"
        );
    }
    let mut rebound = get("/console/");
    rebound
        .headers_mut()
        .insert("host", "evil.example".parse().expect("a value"));
    let answer = scene.send(rebound).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    assert!(answer.text.contains("HOST_NOT_ALLOWED"), "{}", answer.text);
}

#[tokio::test(start_paused = true)]
async fn browser_that_opens_the_api_is_sent_to_the_console() {
    let scene = Scene::new(Content::Ordinary);
    let send = async |console: Option<&str>, method: &str, path: &str, accept: &str| {
        let config = HttpConfig {
            console: console.map(|address| address.parse().expect("an address")),
            ..HttpConfig::default()
        };
        let api = router(
            scene.deps.clone(),
            Readiness::new(scene.deps.clone()),
            config,
        );
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost:8080");
        let request = request
            .header("accept", accept)
            .body(Body::empty())
            .expect("a request");
        api.oneshot(request).await.expect("infallible")
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let here = Some("127.0.0.1:9090");
    let answer = send(here, "GET", "/", browser).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(
        answer.headers()["location"],
        "http://localhost:9090/console/"
    );
    for (console, method, path, accept) in [
        (here, "GET", "/", "*/*"),
        (here, "GET", "/", "application/json"),
        (here, "POST", "/", browser),
        (here, "GET", "/nothing", browser),
        (Some("10.0.0.2:9090"), "GET", "/", browser),
        (None, "GET", "/", browser),
    ] {
        let answer = send(console, method, path, accept).await;
        assert_eq!(
            answer.status(),
            StatusCode::NOT_FOUND,
            "{console:?} {method} {path} {accept}"
        );
    }
}
