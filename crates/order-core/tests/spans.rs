//! Spans as a tracer gets them. A test binary of its own: a process has one tracer.
#![expect(
    clippy::expect_used,
    reason = "the steps of a test are outside of its test function"
)]

use std::{
    sync::{Mutex, OnceLock},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    global::BoxedTracer,
    trace::{Link, Status, TraceId, TracerProvider as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SamplingResult, SdkTracerProvider, ShouldSample, SpanData, SpanProcessor},
};
use order_core::{
    TraceParent,
    span::{self, SharedSpan, Span, SpanKind},
};

static ENDED: Mutex<Vec<SpanData>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Keep;

impl SpanProcessor for Keep {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        ENDED.lock().expect("not poisoned").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Samples what the client samples, and every trace that begins here but one.
#[derive(Clone, Debug)]
struct ByName;

impl ShouldSample for ByName {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let root = if name == "left out" {
            Sampler::AlwaysOff
        } else {
            Sampler::AlwaysOn
        };
        let sampler = Sampler::ParentBased(Box::new(root));
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

/// Has the spans of this process kept.
fn install() {
    static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();
    let build = || {
        SdkTracerProvider::builder()
            .with_span_processor(Keep)
            .with_sampler(ByName)
            .build()
    };
    let provider = PROVIDER.get_or_init(build);
    span::install(BoxedTracer::new(Box::new(provider.tracer("test"))));
}

/// The ended spans of a name.
fn ended(name: &str) -> Vec<SpanData> {
    let ended = ENDED.lock().expect("not poisoned");
    ended
        .iter()
        .filter(|span| span.name == name)
        .cloned()
        .collect()
}

fn position(n: u8, flags: &str) -> TraceParent {
    TraceParent::parse(&format!("00-{n:032x}-{n:016x}-{flags}")).expect("valid")
}

#[test]
fn span_is_a_part_of_the_trace_of_its_parent() {
    install();
    let parent = position(1, "01").with_state(["vendor=1"]);
    let mut span = Span::begin(Some(&parent), "child", SpanKind::Client);
    span.record(|span| {
        span.set("a", "b");
        span.fail("CODE");
    });
    let own = span.position().expect("a position").clone();
    drop(span);
    assert_eq!(
        (own.trace_id(), own.state()),
        (parent.trace_id(), Some("vendor=1"))
    );
    assert_ne!(own.span_id(), parent.span_id());
    assert!(own.is_sampled());
    let ended = ended("child");
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].parent_span_id.to_string(), parent.span_id());
    assert_eq!(ended[0].span_context.span_id().to_string(), own.span_id());
    assert_eq!(ended[0].span_context.trace_state().get("vendor"), Some("1"));
    assert_eq!(ended[0].status, Status::error("CODE"));
    assert!(ended[0].attributes.contains(&KeyValue::new("a", "b")));
}

#[test]
fn only_a_server_begins_a_trace() {
    install();
    assert_eq!(
        Span::begin(None, "orphan", SpanKind::Consumer).position(),
        None
    );
    let root = Span::serve(None, "root");
    assert!(root.position().expect("a position").is_sampled());
    drop(root);
    assert_eq!((ended("orphan").len(), ended("root").len()), (0, 1));
}

#[test]
fn trace_that_its_client_does_not_record_is_not_recorded() {
    install();
    let client = position(2, "00");
    let mut server = Span::serve(Some(client.clone()), "unsampled");
    server.record(|_| panic!("nothing is computed"));
    let passed_on = server.position().expect("a position").clone();
    assert_eq!(passed_on, client);
    let child = Span::begin(Some(&passed_on), "unsampled", SpanKind::Client);
    assert_eq!(child.position(), Some(&passed_on));
    drop((server, child));
    assert_eq!(ended("unsampled").len(), 0);
}

#[test]
fn trace_that_is_left_out_here_is_left_out_by_the_next_hop() {
    install();
    let mut server = Span::serve(None, "left out");
    server.record(|_| panic!("nothing is computed"));
    assert_eq!(server.position(), None);
    let told = span::unsampled([7; 16], 8).expect("there is a tracer");
    assert_eq!(TraceParent::parse(told.as_str()).as_ref(), Some(&told));
    let next = Span::serve(Some(told.clone()), "next hop");
    assert_eq!(next.position(), Some(&told));
    drop((server, next));
    assert_eq!((ended("left out").len(), ended("next hop").len()), (0, 0));
}

#[test]
fn shared_work_is_a_span_in_each_trace() {
    install();
    let traces = [
        None,
        Some(position(3, "01")),
        Some(position(3, "01")),
        Some(position(4, "00")),
        Some(position(5, "01")),
        Some(position(6, "01")),
    ];
    let mut shared = SharedSpan::begin("shared", traces.iter().map(Option::as_ref));
    shared.record(|span| span.set_count("n", 6));
    assert_eq!(
        shared.position().expect("a position").trace_id(),
        position(3, "01").trace_id()
    );
    drop(shared);
    let mut spans = ended("shared");
    spans.sort_by_key(|span| span.span_context.trace_id().to_string());
    let [first, others @ ..] = &spans[..] else {
        panic!("{spans:?}");
    };
    let trace_ids = |spans: &[SpanData]| -> Vec<String> {
        let ids = spans.iter().map(|span| span.span_context.trace_id());
        ids.map(|id| id.to_string()).collect()
    };
    let links = |span: &SpanData| -> Vec<String> {
        let links = span.links.iter().map(|link| link.span_context.span_id());
        links.map(|id| id.to_string()).collect()
    };
    let id = |n| position(n, "01").trace_id().to_owned();
    assert_eq!(trace_ids(&spans), [id(3), id(5), id(6)]);
    let members = [5, 6].map(|n| position(n, "01").span_id().to_owned());
    assert_eq!(links(first), members);
    for other in others {
        assert_eq!(links(other), [first.span_context.span_id().to_string()]);
        assert!(other.attributes.contains(&KeyValue::new("n", 6)));
    }
    let none = SharedSpan::begin("unshared", [None, traces[3].as_ref()]);
    assert!(none.position().is_none());
    drop(none);
    assert_eq!(ended("unshared").len(), 0);
}
