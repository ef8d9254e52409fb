//! The operations of the API, one file each, and what several of them read from a request.

pub(in crate::http) mod cancel_order;
pub(in crate::http) mod create_order;
pub(in crate::http) mod create_orders;
pub(in crate::http) mod create_stream_ticket;
pub(in crate::http) mod get_order;
pub(in crate::http) mod list_events;
pub(crate) mod list_orders;
pub(in crate::http) mod retry_order;

use axum::{RequestPartsExt as _, extract::Path};
use http::{HeaderMap, HeaderName, request::Parts};
use order_core::{Error, IdempotencyKey, OrderId};

use super::{
    media,
    problem::{Problem, ProtocolError},
};
use crate::json::Fields;

pub(in crate::http) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The order that the path names.
pub(crate) async fn order_id(parts: &mut Parts) -> Result<OrderId, Problem> {
    // A path that is not percent-encoded UTF-8 names no order either.
    let text = parts.extract::<Path<String>>().await;
    let text = text.as_ref().map_or("", |Path(text)| text);
    OrderId::parse_field("order_id", text).map_err(Problem::Parameters)
}

/// The key by which the client repeats the request
/// (draft-ietf-httpapi-idempotency-key-header-07).
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let invalid = |rule: &str| Problem::Parameters(Error::invalid("Idempotency-Key", rule));
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid("is given twice"));
    }
    value
        .to_str()
        .ok()
        .and_then(|text| IdempotencyKey::from_header(text).ok())
        .map(Some)
        .ok_or_else(|| invalid("must have 1 to 255 visible ASCII characters"))
}

/// Refuses a key where repetitions are not recognised: who sends one relies on it.
fn check_no_idempotency_key(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(IDEMPOTENCY_KEY) {
        let rule = "is not supported by this operation";
        return Err(Problem::Parameters(Error::invalid("Idempotency-Key", rule)));
    }
    Ok(())
}

/// Reads a body that is an object with the fields `known`.
fn read_object<'a>(body: &'a [u8], known: &'static [&'static str]) -> Result<Fields<'a>, Problem> {
    let invalid = |rule: String| ProtocolError::InvalidJson { rule };
    if body.is_empty() {
        return Err(invalid("it is empty".to_owned()).into());
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        let position = error.valid_up_to();
        invalid(format!("it is not UTF-8 at byte {position}"))
    })?;
    Fields::parse(text, known).map_err(|error| {
        if error.is_data() {
            Error::invalid("", "must be an object").into()
        } else {
            invalid(error.to_string()).into()
        }
    })
}

/// A body that may be left out.
fn optional_body<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Option<&'a [u8]>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    media::check_content_type(headers)?;
    Ok(Some(body))
}
