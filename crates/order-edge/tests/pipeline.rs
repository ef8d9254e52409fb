//! The pipeline around the calls of a transport that only exists here.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _, poll, stream};
use http::{Request, Response, StatusCode, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use order_core::{Error, span::Record};
use order_edge::{
    Answer, CallStats, Connection,
    admission::{Admission, AdmissionConfig, Refused},
    pipeline::{About, Call, End, Exchange, Facts, Pipeline},
};
use order_testkit::clock::{RuntimeClock, SeededIds};
use prometheus_client::encoding::EncodeLabelSet;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

type TestBody = UnsyncBoxBody<Bytes, Infallible>;

/// What calls log, by the names of their operations.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct TestExchange(String);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TestLabels {
    route: &'static str,
    outcome: String,
}

struct Rejected;

impl From<Error> for Rejected {
    fn from(_: Error) -> Self {
        Self
    }
}

impl From<Refused> for Rejected {
    fn from(_: Refused) -> Self {
        Self
    }
}

impl Exchange for TestExchange {
    type Body = TestBody;
    type Rejection = Rejected;
    type Labels = TestLabels;

    fn begin(_: &Facts, _: &Parts) -> Self {
        Self("given up".to_owned())
    }

    fn reject(&mut self, _: Rejected, _: &About) -> Response<TestBody> {
        let mut response = Response::new(Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    fn answer(&mut self, response: &mut Response<TestBody>, _: &About) {
        self.0 = response.status().to_string();
    }

    fn end(&mut self, _: End<'_>) {
        self.0.push_str(" sent");
    }

    fn broken(&mut self, _: Error, _: &About) -> Result<Frame<Bytes>, Infallible> {
        self.0.push_str(" broken");
        Ok(Frame::data(Bytes::from_static(b"broken")))
    }

    fn labels(&self, about: &About) -> TestLabels {
        TestLabels {
            route: about.route,
            outcome: self.0.clone(),
        }
    }

    fn describe(&self, _: &About, _: &mut Record<'_>) {}

    fn log(&self, about: &About) {
        let line = format!("{}: {}", about.operation, self.0);
        LOG.lock().expect("not poisoned").push(line);
    }
}

fn pipeline(bytes_max: usize) -> Pipeline<TestExchange> {
    Pipeline {
        ids: Arc::new(SeededIds::new(1)),
        clock: Arc::new(RuntimeClock::new()),
        admission: Some(Admission::new(&AdmissionConfig {
            in_flight_max: 10,
            in_flight_per_address_max: 10,
            leases_max: 0,
            arriving_max: 10,
            arriving_per_address_max: 10,
            body_len_max: 10,
            body_timeout: Duration::from_mins(1),
            bytes_max,
        })),
        deadlines: None,
        stats: Some(CallStats::default()),
    }
}

async fn answer(
    pipeline: &Pipeline<TestExchange>,
    facts: &Facts,
    body: TestBody,
) -> Response<Answer<TestExchange>> {
    let request = Request::new(Empty::<Bytes>::new());
    let handle = |_: Call<_>| async { Ok(Response::new(body)) };
    pipeline.run(facts, request, handle).await
}

fn whole() -> TestBody {
    Full::new(Bytes::from(vec![b'x'; 8 * 1024])).boxed_unsync()
}

/// Has a length that no hint tells.
fn framed() -> TestBody {
    let frame = Ok(Frame::data(Bytes::from(vec![b'x'; 8 * 1024])));
    StreamBody::new(stream::iter([frame])).boxed_unsync()
}

fn logged(operation: &str) -> Vec<String> {
    let lines = LOG.lock().expect("not poisoned");
    let own = lines.iter().filter(|line| line.starts_with(operation));
    own.cloned().collect()
}

#[tokio::test]
async fn answers_that_clients_do_not_take_are_bounded_in_bytes() {
    for body in [whole, framed] {
        // One address has three quarters of it.
        let pipeline = pipeline(24 * 1024);
        let facts = Facts::new("unread", "/unread");
        let first = answer(&pipeline, &facts, body()).await;
        let second = answer(&pipeline, &facts, body()).await;
        let third = answer(&pipeline, &facts, body()).await;
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
        let other = begun("10.0.0.2:1", stream::empty());
        let handle = |_: Call<_>| async { Ok(Response::new(body())) };
        let other = pipeline.run(&facts, other, handle);
        assert_eq!(other.await.status(), StatusCode::OK);

        // Nothing of an answer is lost where its length was looked up.
        let taken = second.into_body().collect().await.expect("a body");
        assert_eq!(taken.to_bytes().len(), 8 * 1024);
        let fourth = answer(&pipeline, &facts, body()).await;
        assert_eq!(fourth.status(), StatusCode::OK);
    }
}

/// The first 5 bytes of a body from `address`, and `rest`.
fn begun(address: &str, rest: impl Stream<Item = Bytes> + Send + 'static) -> Request<TestBody> {
    let parts = stream::once(async { Bytes::from_static(b"begun") }).chain(rest);
    let frames = parts.map(|part| Ok(Frame::data(part)));
    let mut request = Request::new(StreamBody::new(frames).boxed_unsync());
    let connection = Connection {
        peer: address.parse().expect("an address"),
        draining: CancellationToken::new(),
    };
    request.extensions_mut().insert(Arc::new(connection));
    request
}

#[tokio::test]
async fn bytes_of_bodies_of_one_address_displace_only_its_own() {
    // One address has 12 of them.
    let pipeline = pipeline(16);
    let facts = Facts {
        reads_body: true,
        ..Facts::new("arriving", "/arriving")
    };
    let run = |request| {
        let handle = |_: Call<_>| async { Ok(Response::new(Empty::new().boxed_unsync())) };
        Box::pin(pipeline.run(&facts, request, handle))
    };
    let (finish, finished) = oneshot::channel();
    let rest = async { finished.await.expect("the test sends") };
    let mut other = run(begun("10.0.0.2:1", stream::once(rest)));
    assert!(poll!(&mut other).is_pending());
    let unfinished = || run(begun("10.0.0.1:1", stream::pending()));
    let mut attack: Vec<_> = (0..3).map(|_| unfinished()).collect();
    for request in &mut attack {
        assert!(poll!(request).is_pending());
    }

    let displaced = attack.swap_remove(0).await;

    assert_eq!(displaced.status(), StatusCode::SERVICE_UNAVAILABLE);
    finish.send(Bytes::from_static(b"!")).expect("it waits");
    assert_eq!(other.await.status(), StatusCode::OK);
    for request in &mut attack {
        assert!(poll!(request).is_pending());
    }
}

#[tokio::test]
async fn streams_hold_no_slot_of_calls() {
    let pipeline = pipeline(0);
    let facts = Facts {
        may_stream: true,
        ..Facts::new("stream", "/stream")
    };
    let mut open = Vec::new();
    for _ in 0..20 {
        let endless = StreamBody::new(stream::pending()).boxed_unsync();
        open.push(answer(&pipeline, &facts, endless).await);
        assert_eq!(open[open.len() - 1].status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn call_is_logged_when_its_answer_is_gone_or_its_client_is() {
    let pipeline = pipeline(1024 * 1024);
    let facts = Facts::new("logged", "/logged");
    let sent = answer(&pipeline, &facts, framed()).await;
    assert_eq!(logged("logged"), [""; 0]);
    sent.into_body().collect().await.expect("a body");
    assert_eq!(logged("logged"), ["logged: 200 OK sent"]);

    drop(answer(&pipeline, &facts, whole()).await);
    assert_eq!(logged("logged")[1..], ["logged: 200 OK"]);

    {
        let request = Request::new(Empty::<Bytes>::new());
        let stuck = |_: Call<_>| std::future::pending();
        let mut call = pin!(pipeline.run(&facts, request, stuck));
        assert!(poll!(&mut call).is_pending());
    }
    assert_eq!(logged("logged")[2..], ["logged: given up"]);

    let stats = pipeline.stats.expect("calls are counted");
    assert_eq!(stats.active.get(), 0);
    let count = |outcome: &str| {
        let labels = TestLabels {
            route: "/logged",
            outcome: outcome.to_owned(),
        };
        stats.durations.get(&labels).is_some()
    };
    assert!(count("200 OK sent") && count("200 OK") && count("given up"));
}

#[tokio::test]
async fn panic_of_a_handler_or_a_body_ends_one_call() {
    let pipeline = pipeline(1024 * 1024);
    let facts = Facts::new("panics", "/panics");
    let request = Request::new(Empty::<Bytes>::new());
    let handle = |_: Call<_>| async { panic!("a bug") };
    let answered = pipeline.run(&facts, request, handle);
    assert_eq!(answered.await.status(), StatusCode::SERVICE_UNAVAILABLE);

    let facts = Facts {
        may_stream: true,
        ..facts
    };
    let broken = stream::once(async { panic!("a bug") }.boxed());
    let body = StreamBody::new(broken).boxed_unsync();
    let response = answer(&pipeline, &facts, body).await;
    let text = response.into_body().collect().await.expect("frames");
    assert_eq!(text.to_bytes(), "broken");
}
