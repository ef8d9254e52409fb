//! What the document of the API says about an operation besides its success: the parameters
//! that several operations have, and the refusals, with texts and statuses from the tables
//! that make the answers.

use std::collections::BTreeMap;

use http::StatusCode;
use order_core::{Reason, Version};
use utoipa::openapi::{
    Content, ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Required, Response,
    ResponseBuilder, Schema, Type,
    path::{Parameter, ParameterBuilder, ParameterIn},
    schema::AnyOfBuilder,
};

use super::{
    problem::{ProtocolError, ProtocolFacts, status_of},
    schema,
};

/// A list of entity tags.
const ENTITY_TAGS: &str =
    r#"^(?:[ \t]*,)*[ \t]*(?:W/)?"[!#-~]*"(?:[ \t]*,(?:[ \t]*(?:W/)?"[!#-~]*")?)*[ \t]*$"#;

/// A bare key, or a string of a Structured Field.
const IDEMPOTENCY_KEY: &str = r#"^(?:[!#-~][!-~]{0,254}|"(?:[!#-\[\]-~]|\\["\\]){1,255}")$"#;

/// `X-Request-Id`, `traceparent` and whatever else each request may have.
pub(super) fn common_parameters() -> Vec<Parameter> {
    let request_id = "Names the request in logs. Accepted if it has 1 to 128 characters of \
        `A-Z a-z 0-9 . _ -`; otherwise one is made.";
    let trace_parent = "The position in a distributed trace (W3C Trace Context). One that is \
        not valid is ignored.";
    vec![
        header("X-Request-Id", any_text(), request_id),
        header("traceparent", any_text(), trace_parent),
    ]
}

pub(super) fn order_id() -> Parameter {
    ParameterBuilder::new()
        .name("order_id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The order."))
        .schema(Some(schema::uuid()))
        .build()
}

pub(super) fn idempotency_key() -> Parameter {
    let description = "A key of your choice by which this request can be repeated: a repetition \
        changes nothing and gets the same answer, with `Idempotent-Replayed: true`. Keys are \
        kept for 24 hours.";
    let key = schema::text_like(IDEMPOTENCY_KEY);
    header("Idempotency-Key", key, description)
}

pub(super) fn if_match() -> Parameter {
    let description = "Nothing happens unless the order has one of these entity tags; \
        `*` is any. Weak tags never match.";
    header("If-Match", entity_tags(), description)
}

pub(super) fn if_none_match() -> Parameter {
    let description = "The answer is 304 without a body if the order has one of these entity \
        tags.";
    header("If-None-Match", entity_tags(), description)
}

/// A list of entity tags, or `*`.
fn entity_tags() -> AnyOfBuilder {
    AnyOfBuilder::new()
        .item(any_text().enum_values(Some(["*"])))
        .item(schema::text_like(ENTITY_TAGS))
}

pub(super) fn prefer() -> Parameter {
    let description = "`wait=N`: answer when the order is settled (PROCESSED, FAILED or \
        CANCELLED), or after N seconds, at most 30, with the order as it then is. \
        `Preference-Applied` in the answer says how long was granted. Anything else is ignored.";
    header("Prefer", any_text(), description)
}

/// What the client of an event stream has seen, for `in` header or query.
pub(super) fn version_seen(name: &str, parameter_in: ParameterIn, description: &str) -> Parameter {
    let version = schema::count().maximum(Some(Version::MAX));
    optional(name, parameter_in, version, description)
}

pub(super) fn query(name: &str, schema: impl Into<RefOr<Schema>>, description: &str) -> Parameter {
    optional(name, ParameterIn::Query, schema, description)
}

pub(super) fn page_size() -> Parameter {
    let description = "How many at most: 50 if absent or 0; more than 1000 means 1000.";
    query("page_size", schema::count(), description)
}

fn header(name: &str, schema: impl Into<RefOr<Schema>>, description: &str) -> Parameter {
    optional(name, ParameterIn::Header, schema, description)
}

fn optional(
    name: &str,
    parameter_in: ParameterIn,
    schema: impl Into<RefOr<Schema>>,
    description: &str,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(parameter_in)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

pub(super) fn any_text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Whether an operation reads a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestBody {
    Read,
    Ignored,
}

/// Every refusal of an operation that may give these reasons: those that each operation
/// may give come on top.
pub(super) fn refusals(body: RequestBody, reasons: &[Reason]) -> BTreeMap<String, RefOr<Response>> {
    let always = [
        Reason::Overloaded,
        Reason::StoreUnavailable,
        Reason::ServiceUnavailable,
        Reason::ShuttingDown,
        Reason::DeadlineExceeded,
        Reason::Internal,
    ];
    let mut by_status = BTreeMap::<StatusCode, Vec<String>>::new();
    for facts in protocol_refusals(body) {
        let line = format!("`{}`: {}.", facts.code, facts.title);
        by_status.entry(facts.status).or_default().push(line);
    }
    for reason in reasons.iter().chain(&always) {
        let line = format!("`{}`: {}.", reason.as_str(), reason.title());
        by_status.entry(status_of(*reason)).or_default().push(line);
    }
    by_status
        .into_iter()
        .map(|(status, lines)| {
            let response = refusal(status, &lines.join(" "));
            (status.as_str().to_owned(), response.into())
        })
        .collect()
}

fn protocol_refusals(body: RequestBody) -> Vec<ProtocolFacts> {
    let offered = String::new();
    let mut refusals = vec![ProtocolError::NotAcceptable { offered }];
    if body == RequestBody::Read {
        refusals.extend([
            ProtocolError::InvalidJson {
                rule: String::new(),
            },
            ProtocolError::RequestTimeout,
            ProtocolError::BodyTooLarge { len_max: 0 },
            ProtocolError::UnsupportedMediaType,
        ]);
    }
    refusals.iter().map(ProtocolError::facts).collect()
}

fn refusal(status: StatusCode, description: &str) -> Response {
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", problem())
        .header("X-Request-Id", text_header("The request.").build());
    let retry_after = || {
        let seconds = schema::count().minimum(Some(1));
        HeaderBuilder::new()
            .schema(Some(seconds))
            .description(Some("When a repetition makes sense, in seconds."))
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            response.header("Retry-After", retry_after().build())
        }
        StatusCode::CONFLICT => {
            let link = text_header("The order that has what was asked for, if that is why.");
            response
                .header("Retry-After", retry_after().build())
                .header("Link", link.build())
        }
        StatusCode::PRECONDITION_FAILED => response.header(
            "ETag",
            text_header("The entity tag of the order now.").build(),
        ),
        _ => response,
    }
    .build()
}

fn text_header(description: &str) -> HeaderBuilder {
    HeaderBuilder::new()
        .schema(Some(any_text()))
        .description(Some(description))
}

fn problem() -> Content {
    ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build()
}
