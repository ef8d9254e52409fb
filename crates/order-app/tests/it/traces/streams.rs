//! Pushes over event streams.

use hyper::Method;

use super::*;
use crate::positions::Sse;

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CANCEL: &str = "order.v1.OrderService/CancelOrder";

/// The gateway pushes what it has heard from the service.
#[test]
fn push_to_an_event_stream_is_in_the_trace_of_its_cause() {
    run(async {
        let database = database!(Engine::Sqlite);
        let collector = Collector::start();
        let addr = || format!("127.0.0.1:{}", free_port().expect("a port"));
        let (http, grpc, ws) = (addr(), addr(), addr());
        let settings = [
            ("DATABASE_URL", &*database.url),
            ("GRPC_ADDR", &*grpc),
            ("WS_ADDR", &*ws),
            ("WORKERS", "0"),
        ];
        let program = env!("CARGO_BIN_EXE_order-service");
        let _service = start(program, &collector.url(), &settings).await;
        let url = format!("http://{grpc}");
        let settings = [("ORDER_SERVICE_URL", &*url), ("HTTP_ADDR", &*http)];
        let program = env!("CARGO_BIN_EXE_api-gateway");
        let _gateway = start(program, &collector.url(), &settings).await;

        let http = Http::new(http.parse().expect("an address"));
        let order_id = http.create_order().await;
        let path = format!("/orders/{order_id}/events");
        let accept = [("accept", "text/event-stream")];
        let stream = http.open(Method::GET, &path, &accept, None).await;
        let mut events = Sse::new(stream.expect("an answer"));
        assert!(events.next().await.is_some(), "the state so far");
        let position = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
        let headers = [("traceparent", position.as_str())];
        let path = format!("/orders/{order_id}/cancel");
        let cancelled = http.send_with(Method::POST, &path, &headers, None).await;
        assert_eq!(cancelled.status, 200, "{cancelled:?}");
        assert!(events.next().await.is_some(), "the change");

        let spans = collector.trace(TRACE_ID, &[(PUSH, 1), (CANCEL, 2)]).await;
        let push = only(&spans, PUSH, "api-gateway");
        let cause = only(&spans, CANCEL, "order-service");
        assert_eq!(push.parent_id, cause.id);
        assert_eq!(push.attribute("order.id"), order_id);
        assert_eq!(push.attribute("order.version"), "2");
    });
}
