//! `POST /orders/{order_id}/cancel`: withdraws an order.

use std::{collections::BTreeMap, sync::Arc};

use axum::response::Response;
use http::StatusCode;
use order_core::{CancelOrder, Reason};
use utoipa::{
    IntoParams, IntoResponses,
    openapi::{
        self, RefOr,
        path::{Parameter, ParameterIn},
    },
};

use super::{idempotency_key, optional_body, order_id};
use crate::http::{
    Gateway,
    contract::{self, RequestBody},
    dto::{OrderBody, announce_replay, order_response},
    etag,
    fields::Fields,
    media,
    operation::Call,
    problem::Problem,
    schema::CancelOrderRequest,
};

/// Withdraws an order.
///
/// One that is already cancelled is answered as it is.
#[utoipa::path(
    post,
    path = "/orders/{order_id}/cancel",
    tag = "orders",
    operation_id = "cancel_order",
    params(Contract),
    request_body(
        content = Option<CancelOrderRequest>,
        example = json!({"reason": "changed my mind"}),
    ),
    responses(
        (
            status = 200,
            description = "The order is cancelled.",
            body = OrderBody,
            headers(
                ("ETag" = String, description = "The version of the order, quoted."),
                ("Idempotent-Replayed" = String, description = "`true` if an earlier request \
                    with the same key did the work."),
                ("X-Request-Id" = String, description = "The request."),
            ),
        ),
        Contract,
    ),
)]
pub(in crate::http) async fn cancel_order(
    gateway: Arc<Gateway>,
    mut call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    let order_id = order_id(&mut call.parts).await?;
    let headers = &call.parts.headers;
    let idempotency_key = idempotency_key(headers)?;
    let if_match = etag::if_match(headers)?;
    let reason = match optional_body(headers, &call.body)? {
        Some(body) => parse_reason(body)?,
        None => None,
    };
    let request = CancelOrder {
        order_id,
        reason,
        if_match,
        idempotency_key,
    };
    let ctx = gateway.context(call.request_id, call.trace_parent);
    let receipt = gateway
        .in_time(gateway.deps.api.cancel_order(&ctx, request))
        .await?;
    let mut response = order_response(StatusCode::OK, &receipt.order)?;
    announce_replay(receipt.is_replayed, &mut response);
    Ok(response)
}

/// What the operation takes and how it refuses.
struct Contract;

impl IntoParams for Contract {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = contract::common_parameters();
        parameters.extend([
            contract::order_id(),
            contract::idempotency_key(),
            contract::if_match(),
        ]);
        parameters
    }
}

impl IntoResponses for Contract {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        contract::refusals(
            RequestBody::Read,
            &[
                Reason::InvalidArgument,
                Reason::OrderNotFound,
                Reason::OrderNotCancellable,
                Reason::VersionConflict,
                Reason::EtagMismatch,
                Reason::IdempotencyKeyReused,
            ],
        )
    }
}

fn parse_reason(body: &[u8]) -> Result<Option<String>, Problem> {
    let mut fields = Fields::parse(body, &["reason"])?;
    let reason = fields.text("reason").map(String::from);
    Ok(fields.violations.finish(Some(reason))?)
}
