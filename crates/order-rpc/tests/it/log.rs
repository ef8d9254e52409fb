//! The access log.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
};

use order_core::{CallContext, Error, OrderApi, RequestId, TraceParent};
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
