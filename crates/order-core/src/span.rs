//! Spans: what this process did in a distributed trace, and how long it took.
//!
//! A call carries its position in a trace in its context, so a span is begun with the position of
//! its parent and hands out its own for the next hop. Nothing depends on the current task or thread.
//!
//! Without an [installed](install) tracer a span is the position of its parent, passed along.
//! So is one that is not sampled: a call that is not traced costs the decision and nothing else, and
//! the next hop is told to leave it out by an [unsampled] position.

use std::{borrow::Cow, str::FromStr as _, sync::OnceLock};

pub use opentelemetry::trace::SpanKind;
use opentelemetry::{
    Context, KeyValue, Value,
    global::{BoxedSpan, BoxedTracer},
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _,
        TraceFlags, TraceId, TraceState, Tracer as _,
    },
};

use crate::TraceParent;

static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// Has all spans of this process recorded by `tracer`. The first call counts.
pub fn install(tracer: BoxedTracer) {
    // A second one would split the traces of the process.
    let _ = TRACER.set(tracer);
}

/// A position that has the next hop leave out a call that is not sampled here, at random ids; `None`
/// without a tracer. A hop that is told nothing would begin a trace of its own.
pub fn unsampled(trace_id: [u8; 16], span_id: u64) -> Option<TraceParent> {
    // Zero is no id.
    let position = || TraceParent::of_span(trace_id, span_id | 1, false);
    (TRACER.get().is_some() && trace_id != [0; 16]).then(position)
}

/// A part of a trace. Ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span {
    position: Option<TraceParent>,
    /// `Some` if the span is sampled.
    recording: Option<BoxedSpan>,
}

impl Span {
    /// Begins the span of a server: a part of its client's trace, or else of a new one.
    pub fn serve(client: Option<TraceParent>, name: &'static str) -> Self {
        match TRACER.get() {
            Some(tracer) => {
                Self::build(tracer, client.as_ref(), name, SpanKind::Server, Vec::new())
            }
            None => Self::passed_on(client),
        }
    }

    /// Begins a span in the trace of `parent`, if that is sampled.
    pub fn begin(parent: Option<&TraceParent>, name: &'static str, kind: SpanKind) -> Self {
        Self::begin_linked(parent, name, kind, &[])
    }

    /// Begins a span in the trace of `parent`, if that is sampled, with links to spans that it
    /// belongs together with.
    pub fn begin_linked(
        parent: Option<&TraceParent>,
        name: &'static str,
        kind: SpanKind,
        linked: &[&TraceParent],
    ) -> Self {
        match (TRACER.get(), parent) {
            (Some(tracer), Some(parent)) if parent.is_sampled() => {
                let linked = linked.iter().filter_map(|linked| to_context(linked));
                let links = linked.map(Link::with_context).collect();
                Self::build(tracer, Some(parent), name, kind, links)
            }
            _ => Self::passed_on(parent.cloned()),
        }
    }

    /// What is not worth a span, at the position of its caller.
    pub const fn passed_on(position: Option<TraceParent>) -> Self {
        Self {
            position,
            recording: None,
        }
    }

    fn build(
        tracer: &BoxedTracer,
        parent: Option<&TraceParent>,
        name: &'static str,
        kind: SpanKind,
        links: Vec<Link>,
    ) -> Self {
        let builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_links(links);
        let context = match parent.and_then(to_context) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let span = tracer.build_with_context(builder, &context);
        let is_recording = span.is_recording();
        if !is_recording && !parent.is_some_and(TraceParent::is_sampled) {
            return Self::passed_on(parent.cloned());
        }
        let state = parent.and_then(TraceParent::state);
        Self {
            position: to_position(span.span_context(), state),
            recording: is_recording.then_some(span),
        }
    }

    /// The position of this span, for the next hop; `None` outside of any trace.
    pub const fn position(&self) -> Option<&TraceParent> {
        self.position.as_ref()
    }

    /// Adds what is worth knowing. Not called for a span that is not sampled.
    pub fn record(&mut self, describe: impl FnOnce(&mut Record<'_>)) {
        if let Some(span) = &mut self.recording {
            describe(&mut Record(span));
        }
    }
}

/// What a sampled span is told.
pub struct Record<'a>(&'a mut BoxedSpan);

impl Record<'_> {
    /// Names the span by more than its operation.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        self.0.update_name(name);
    }

    /// Sets an attribute, by its name in the semantic conventions where it has one.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(name, value));
    }

    /// Sets an attribute that may be unknown.
    pub fn set_some(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Sets an attribute that counts something.
    pub fn set_count(&mut self, name: &'static str, n: usize) {
        self.set(name, i64::try_from(n).unwrap_or(i64::MAX));
    }

    /// Marks the span as failed, with a code that has few values.
    pub fn fail(&mut self, code: impl Into<Cow<'static, str>>) {
        let code = code.into();
        self.set("error.type", code.clone());
        self.0.set_status(Status::error(code));
    }
}

/// Work that is done once for several traces. It is a span in the first of them, and in each of the
/// others a span that is linked with that one, so no trace misses it.
#[derive(Debug, Default)]
pub struct SharedSpan {
    first: Span,
    others: Vec<Span>,
}

impl SharedSpan {
    /// Begins the spans of work for `members`.
    pub fn begin<'a>(
        name: &'static str,
        members: impl IntoIterator<Item = Option<&'a TraceParent>>,
    ) -> Self {
        if TRACER.get().is_none() {
            return Self::default();
        }
        let members = members.into_iter().flatten();
        let mut members: Vec<_> = members.filter(|member| member.is_sampled()).collect();
        // Those of one call have one position.
        members.dedup();
        let Some((first, others)) = members.split_first() else {
            return Self::default();
        };
        let first = Span::begin_linked(Some(first), name, SpanKind::Internal, others);
        let linked: Vec<_> = first.position().into_iter().collect();
        let others = others
            .iter()
            .map(|member| Span::begin_linked(Some(member), name, SpanKind::Internal, &linked))
            .collect();
        Self { first, others }
    }

    /// The position of the work itself, for the next hop; `None` if no trace records it.
    pub const fn position(&self) -> Option<&TraceParent> {
        self.first.position()
    }

    /// Adds what is worth knowing to each of the spans.
    pub fn record(&mut self, describe: impl Fn(&mut Record<'_>)) {
        for span in [&mut self.first].into_iter().chain(&mut self.others) {
            span.record(&describe);
        }
    }
}

fn to_context(position: &TraceParent) -> Option<SpanContext> {
    let state = position.state().map(TraceState::from_str);
    Some(SpanContext::new(
        TraceId::from_hex(position.trace_id()).ok()?,
        SpanId::from_hex(position.span_id()).ok()?,
        if position.is_sampled() {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        },
        true,
        // Vendors may write what this library does not read; the next hop gets it all the same.
        state.and_then(Result::ok).unwrap_or_default(),
    ))
}

fn to_position(context: &SpanContext, state: Option<&str>) -> Option<TraceParent> {
    let trace_id = context.trace_id().to_bytes();
    let span_id = u64::from_be_bytes(context.span_id().to_bytes());
    // The tracer of a process that ends gives no ids.
    let position = context
        .is_valid()
        .then(|| TraceParent::of_span(trace_id, span_id, context.is_sampled()))?;
    Some(position.with_state(state))
}
