//! A console without a socket, over a system that is made up.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use order_core::{AdminApi, Clock, supervisor::Supervisor};
use order_edge::CallStats;
use order_testkit::clock::{RuntimeClock, SeededIds};
use order_web::{
    console::{Console, with_pages},
    http::{HttpDeps, guarded},
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::fake::{Content, FakeSystem};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A console and what it stands on.
pub(crate) struct Scene {
    pub(crate) system: Arc<FakeSystem>,
    pub(crate) stop: CancellationToken,
    pub(crate) router: Router,
    pub(crate) deps: HttpDeps,
    _tasks: JoinSet<()>,
}

/// An answer that was read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Scene {
    pub(crate) fn new(content: Content) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock::new());
        let system = FakeSystem::new(Arc::clone(&clock));
        system.set(content);
        let deps = HttpDeps {
            api: Arc::clone(&system) as _,
            ids: Arc::new(SeededIds::new(7)),
            clock: Arc::clone(&clock),
            stop: CancellationToken::new(),
            calls: CallStats::default(),
        };
        let console = Console::new(deps.clone(), Arc::clone(&system) as Arc<dyn AdminApi>);
        let mut tasks = JoinSet::new();
        tasks.spawn(Supervisor::new(&clock).run(console.task(deps.stop.clone())));
        let listener = "127.0.0.1:9090".parse().expect("an address");
        Self {
            system,
            stop: deps.stop.clone(),
            router: with_pages(guarded(console.router(), &deps, listener)),
            deps,
            _tasks: tasks,
        }
    }

    /// Sends a request and does not read the answer.
    pub(crate) async fn open(&self, request: Request<Body>) -> http::Response<Body> {
        self.router
            .clone()
            .oneshot(request)
            .await
            .expect("infallible")
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.open(request).await.into_parts();
        let body = timeout(PATIENCE, body.collect())
            .await
            .expect("the body ends");
        let bytes = body.expect("a body").to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(bytes.to_vec()).expect("text"),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(get(path)).await
    }

    /// Sends a form as a page of the console does.
    pub(crate) async fn post(&self, path: &str, form: &str) -> Answer {
        self.send(post(path, form)).await
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    let request = Request::get(path).header("host", "localhost:9090");
    request.body(Body::empty()).expect("a request")
}

pub(crate) fn post(path: &str, form: &str) -> Request<Body> {
    Request::post(path)
        .header("host", "localhost:9090")
        .header("sec-fetch-site", "same-origin")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .expect("a request")
}
