//! The access log.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
};

use order_core::{CallContext, Error, OrderApi, RequestId, TraceParent};
use tokio::{sync::oneshot, task::JoinSet};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    fake::Act,
    raw::RawClient,
    support::{TestServer, create, ctx, id},
};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// The lines with all `parts`.
    fn with(&self, parts: &[&str]) -> Vec<String> {
        let bytes = self.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(bytes).expect("text");
        let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
        text.lines().filter(has_all).map(str::to_owned).collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What this process logs. All tests write here; the request ids tell them apart.
static LINES: LazyLock<Lines> = LazyLock::new(|| {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_env_filter(EnvFilter::new("order_rpc=info"))
        .with_writer(lines.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    lines
});

#[tokio::test]
async fn each_call_has_one_line_with_its_outcome_and_its_cause() {
    let lines = &*LINES;
    let ctx = CallContext {
        request_id: RequestId::parse("log-test").expect("valid"),
        trace_parent: TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ..ctx()
    };
    let source = Error::store_unavailable(io::Error::other("connection refused by the disk"));
    let server = TestServer::start([Act::Answer, Act::Fail(source), Act::Panic]).await;
    let remote = server.client();
    remote.get_order(&ctx, id(1)).await.expect("an order");
    remote
        .create_order(&ctx, create(None))
        .await
        .expect_err("scripted");
    remote
        .create_order(&ctx, create(None))
        .await
        .expect_err("scripted");
    let mut raw = RawClient::connect(server.address).await;
    raw.send("/no/such-method", &[("x-request-id", "log-test")], &[])
        .await;
    server.stop().await;

    let calls = lines.with(&["call finished", "log-test"]);
    let [ok, failed, panicked, unknown] = &calls[..] else {
        panic!("{calls:#?}");
    };
    for part in [
        r#""level":"INFO""#,
        r#""rpc.method":"order.v1.OrderService/GetOrder""#,
        r#""rpc.response.status_code":"OK""#,
        r#""request.id":"log-test""#,
        r#""trace.id":"4bf92f3577b34da6a3ce929d0e0e4736""#,
        r#""network.peer.address":"127.0.0.1:"#,
        r#""duration_ms":"#,
    ] {
        assert!(ok.contains(part), "{part} in {ok}");
    }
    assert!(failed.contains(r#""level":"WARN""#), "{failed}");
    assert!(
        failed.contains(r#""rpc.response.status_code":"UNAVAILABLE""#),
        "{failed}"
    );
    assert_eq!(
        lines.with(&["connection refused by the disk"]),
        [failed.as_str()]
    );
    assert!(panicked.contains(r#""level":"ERROR""#), "{panicked}");
    assert!(panicked.contains("a bug in the api"), "{panicked}");
    assert!(unknown.contains(r#""rpc.method":"_OTHER""#), "{unknown}");
    assert!(!unknown.contains("trace.id"), "{unknown}");
}

#[tokio::test]
async fn call_whose_caller_dies_is_cancelled_and_no_fault_of_the_server() {
    let lines = &*LINES;
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    let path = "/order.v1.OrderService/CreateOrder";
    raw.begin(path, &[("x-request-id", "dying-caller")]);
    // Its answer says that the server has read everything before it, too.
    raw.send("/no/such-method", &[], &[]).await;
    drop(raw);
    server.stop().await;

    let calls = lines.with(&["call finished", "dying-caller"]);
    let [call] = &calls[..] else {
        panic!("{calls:#?}");
    };
    assert!(call.contains(r#""level":"INFO""#), "{call}");
    assert!(
        call.contains(r#""rpc.response.status_code":"CANCELLED""#),
        "{call}"
    );
}

/// Creates that share a call keep the request they came with: the log of the service has each of
/// them, whether it succeeded, failed, or shared a call that failed as a whole.
#[tokio::test]
async fn each_order_of_a_shared_call_is_named_by_its_own_request() {
    const N_ORDERS: u128 = 60;
    let lines = &*LINES;
    let (open, gate) = oneshot::channel();
    let down = || Act::Fail(Error::internal("broken"));
    let server = TestServer::start([Act::AnswerAfter(gate), down()]).await;
    let remote = Arc::new(server.client());
    let mut creating = JoinSet::new();
    // The first ones are held up, and the others gather behind them.
    for n in 0..N_ORDERS {
        let remote = Arc::clone(&remote);
        let trace = format!("00-{:032x}-00f067aa0ba902b7-01", n + 0xace);
        let ctx = CallContext {
            request_id: RequestId::parse(&format!("gathered-{n}.")).expect("valid"),
            trace_parent: TraceParent::parse(&trace),
            ..ctx()
        };
        creating.spawn(async move {
            let answer = remote.create_order(&ctx, create(Some(id(n)))).await;
            (n, answer.map_err(|error| error.reason()))
        });
    }
    server.api.wait_for_calls(1).await;
    open.send(()).expect("the server waits");
    let answers = creating.join_all().await;
    let n_calls = server.api.calls().len();
    server.stop().await;

    assert!(n_calls < answers.len(), "{n_calls} calls");
    for (n, answer) in answers {
        let named = lines.with(&["finished", &format!(r#""request.id":"gathered-{n}.""#)]);
        let trace_id = format!(r#""trace.id":"{:032x}""#, n + 0xace);
        assert!(!named.is_empty(), "no line of {n}");
        assert!(
            named.iter().all(|line| line.contains(&trace_id)),
            "{named:#?}"
        );
        let code = answer.map_or_else(|reason| reason.grpc_code().as_str(), |_| "OK");
        let has_code = |line: &String| line.contains(&format!(r#""{code}""#));
        assert!(named.iter().any(has_code), "{code} in {named:#?}");
    }
}
