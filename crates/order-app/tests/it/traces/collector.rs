//! A collector of traces: OTLP over gRPC or HTTP, as a real one speaks it.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::support::wait_for;

/// A span, with the names and numbers in it as text.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent_id: String,
    pub(crate) links: Vec<String>,
    attributes: Vec<KeyValue>,
}

impl Seen {
    fn new(resource: Option<&Resource>, span: Span) -> Self {
        let resource = resource.map_or(&[][..], |resource| &resource.attributes);
        Self {
            service: attribute(resource, "service.name"),
            name: span.name,
            trace_id: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent_id: hex(&span.parent_span_id),
            links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
            attributes: span.attributes,
        }
    }

    /// An attribute; empty if it is not there.
    pub(crate) fn attribute(&self, name: &str) -> String {
        attribute(&self.attributes, name)
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|found| found.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

#[derive(Clone, Default)]
struct Store(Arc<Mutex<Vec<Seen>>>);

impl Store {
    fn keep(&self, request: ExportTraceServiceRequest) {
        let mut seen = self.0.lock().expect("not poisoned");
        for resource in request.resource_spans {
            let spans = resource.scope_spans.into_iter();
            let spans = spans.flat_map(|scope| scope.spans);
            seen.extend(spans.map(|span| Seen::new(resource.resource.as_ref(), span)));
        }
    }
}

#[tonic::async_trait]
impl TraceService for Store {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A running collector. Dropping it ends it.
pub(crate) struct Collector {
    addr: SocketAddr,
    store: Store,
    _server: JoinSet<()>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"))
    }

    pub(crate) fn start_at(addr: SocketAddr) -> Self {
        let incoming = TcpIncoming::bind(addr).expect("a port");
        let addr = incoming.local_addr().expect("bound");
        let store = Store::default();
        let service = TraceServiceServer::new(store.clone());
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        Self::new(addr, store, async { served.await.expect("it serves") })
    }

    /// A collector that speaks HTTP.
    pub(crate) async fn start_http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let store = Store::default();
        let keeping = store.clone();
        let export = move |body: Bytes| async move {
            keeping.keep(ExportTraceServiceRequest::decode(body).expect("a message"));
        };
        let router = Router::new().route("/v1/traces", post(export));
        let served = async { axum::serve(listener, router).await.expect("it serves") };
        Self::new(addr, store, served)
    }

    fn new(
        addr: SocketAddr,
        store: Store,
        serving: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let mut server = JoinSet::new();
        server.spawn(serving);
        Self {
            addr,
            store,
            _server: server,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.store.0.lock().expect("not poisoned").clone()
    }

    /// The spans of a trace, once those of these names are there, at least so many of each.
    pub(crate) async fn trace(&self, trace_id: &str, names: &[(&str, usize)]) -> Vec<Seen> {
        let what = format!("{names:?} in trace {trace_id}");
        wait_for(&what, async || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace_id == trace_id);
            let n_seen = |name| spans.iter().filter(|span| span.name == name).count();
            let are_there = names.iter().all(|(name, n)| n_seen(*name) >= *n);
            are_there.then_some(spans)
        })
        .await
    }
}
