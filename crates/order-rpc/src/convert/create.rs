//! Wanted orders, alone and in batches.

use std::{borrow::Cow, mem::take};

use order_core::{
    CallContext, CreateFields, CreateOrder, Error, ExternalId, IdempotencyKey, OrderId, RequestId,
    TraceParent,
    intake::{check_len, within},
};

use super::{order::money_to_proto, request::text_of};
use crate::proto;

/// The most orders of one batch.
pub(crate) const CREATES_MAX: usize = 1000;

/// More than tag and length of any field of a wanted order take.
const FIELD_BYTES: usize = 5;

/// More than the parts of a wanted order take whose length does not vary: the id, the
/// amount, and tag and length of all fields.
const FIXED_BYTES: usize = 128;

/// Reads a wanted order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id`, `user_id`, `money`, `money/minor_units`,
/// `money/currency`, `metadata`, `metadata/NAME`, `external_id` and `idempotency_key`.
pub(crate) fn create_from_proto(request: proto::CreateOrderRequest) -> Result<CreateOrder, Error> {
    let given = |text: String| Some(text.into()).filter(|text: &Cow<'_, str>| !text.is_empty());
    let mut fields = CreateFields::new(request.metadata);
    fields.order_id = given(request.order_id);
    fields.set("user_id", Some(request.user_id.into()));
    fields.set("external_id", given(request.external_id));
    fields.set("idempotency_key", given(request.idempotency_key));
    let has_money = request.money.is_some();
    match request.money {
        Some(money) => {
            fields.minor_units = Some(money.minor_units);
            fields.set("currency", given(money.currency));
        }
        None => fields
            .violations
            .push(CreateFields::AMOUNT, "must be given"),
    }
    let rename = |field: String| match field.as_str() {
        CreateFields::AMOUNT if !has_money => "money".to_owned(),
        CreateFields::AMOUNT => "money/minor_units".to_owned(),
        "currency" => "money/currency".to_owned(),
        _ => field,
    };
    fields.finish().map_err(|error| error.with_fields(rename))
}

/// Writes a wanted order.
pub(crate) fn create_to_proto(request: &CreateOrder) -> proto::CreateOrderRequest {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    proto::CreateOrderRequest {
        order_id: request
            .order_id
            .as_ref()
            .map(OrderId::to_string)
            .unwrap_or_default(),
        user_id: request.user_id.as_str().to_owned(),
        money: Some(money_to_proto(request.money)),
        metadata: request.metadata.iter().map(owned).collect(),
        external_id: text_of(request.external_id.as_ref().map(ExternalId::as_str)),
        idempotency_key: text_of(request.idempotency_key.as_ref().map(IdempotencyKey::as_str)),
        ..proto::CreateOrderRequest::default()
    }
}

/// Adds which request a wanted order of a batch came with.
pub(crate) fn with_origin(
    message: proto::CreateOrderRequest,
    ctx: &CallContext,
) -> proto::CreateOrderRequest {
    let trace = ctx.trace_parent.as_ref();
    proto::CreateOrderRequest {
        request_id: ctx.request_id.as_str().to_owned(),
        traceparent: text_of(trace.map(TraceParent::as_str)),
        tracestate: text_of(trace.and_then(TraceParent::state)),
        ..message
    }
}

/// Takes the request id and trace context out of an order in a batch; `None` if it has no valid
/// request id.
pub(crate) fn take_origin(
    message: &mut proto::CreateOrderRequest,
) -> Option<(RequestId, Option<TraceParent>)> {
    let (request_id, state) = (take(&mut message.request_id), take(&mut message.tracestate));
    let trace = TraceParent::parse(&take(&mut message.traceparent));
    let trace = trace.map(|trace| trace.with_state([state.as_str()]));
    Some((RequestId::parse(&request_id)?, trace))
}

/// An upper bound of the bytes that a wanted order takes in a batch, with the request it came with.
pub(crate) fn bytes_max(request: &CreateOrder, ctx: Option<&CallContext>) -> usize {
    let external_id = request.external_id.as_ref().map_or("", ExternalId::as_str);
    let key = request
        .idempotency_key
        .as_ref()
        .map_or("", IdempotencyKey::as_str);
    let entry = |(name, value): (&str, &str)| 3 * FIELD_BYTES + name.len() + value.len();
    let metadata: usize = request.metadata.iter().map(entry).sum();
    let trace = |ctx: &CallContext| {
        let trace = ctx.trace_parent.as_ref();
        trace.map_or(0, |t| t.as_str().len() + t.state().map_or(0, str::len))
    };
    let origin = ctx.map_or(0, |ctx| ctx.request_id.as_str().len() + trace(ctx));
    FIXED_BYTES + origin + request.user_id.as_str().len() + metadata + external_id.len() + key.len()
}

/// Reads the wanted orders of a batch, each for itself; fields are named from the batch:
/// `requests/3/user_id`.
///
/// # Errors
/// The outer one is [`Error::InvalidArgument`] for `requests`: none, or more than
/// [`CREATES_MAX`].
pub(crate) fn creates_from_proto(
    requests: Vec<proto::CreateOrderRequest>,
) -> Result<Vec<Result<CreateOrder, Error>>, Error> {
    check_len("requests", requests.len(), CREATES_MAX)?;
    let create = |(n, request)| within("requests", n, create_from_proto(request));
    Ok(requests.into_iter().enumerate().map(create).collect())
}
