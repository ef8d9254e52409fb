//! `POST /orders/{order_id}/retry`: gives a FAILED order a new round of attempts.

use std::{collections::BTreeMap, sync::Arc};

use axum::response::Response;
use http::StatusCode;
use order_core::{Reason, RetryOrder};
use utoipa::{
    IntoParams, IntoResponses,
    openapi::{
        self, RefOr,
        path::{Parameter, ParameterIn},
    },
};

use super::{check_no_idempotency_key, optional_body, order_id};
use crate::http::{
    Gateway,
    contract::{self, RequestBody},
    dto::{OrderBody, order_response},
    etag,
    fields::Fields,
    media,
    operation::Call,
    problem::Problem,
    schema::RetryOrderRequest,
};

/// Gives a FAILED order a new round of attempts.
///
/// One that is PENDING is answered as it is.
#[utoipa::path(
    post,
    path = "/orders/{order_id}/retry",
    tag = "orders",
    operation_id = "retry_order",
    params(Contract),
    request_body(content = Option<RetryOrderRequest>),
    responses(
        (
            status = 200,
            description = "The order is PENDING, or has moved on while the client waited.",
            body = OrderBody,
            headers(
                ("ETag" = String, description = "The version of the order, quoted."),
                ("Preference-Applied" = String, description = "The wait that was granted."),
                ("X-Request-Id" = String, description = "The request."),
            ),
        ),
        Contract,
    ),
)]
pub(in crate::http) async fn retry_order(
    gateway: Arc<Gateway>,
    mut call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    let order_id = order_id(&mut call.parts).await?;
    let headers = &call.parts.headers;
    check_no_idempotency_key(headers)?;
    let if_match = etag::if_match(headers)?;
    if let Some(body) = optional_body(headers, &call.body)? {
        Fields::parse(body, &[])?.violations.finish(Some(()))?;
    }
    let request = RetryOrder { order_id, if_match };
    let ctx = gateway.context(call.request_id, call.trace_parent);
    let order = gateway
        .in_time(gateway.deps.api.retry_order(&ctx, request))
        .await?;
    let waited = gateway.wait_as_preferred(&ctx, headers, order).await;
    let mut response = order_response(StatusCode::OK, &waited.order)?;
    waited.announce(&mut response)?;
    Ok(response)
}

/// What the operation takes and how it refuses.
struct Contract;

impl IntoParams for Contract {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = contract::common_parameters();
        parameters.extend([
            contract::order_id(),
            contract::if_match(),
            contract::prefer(),
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
                Reason::OrderNotRetryable,
                Reason::VersionConflict,
                Reason::EtagMismatch,
            ],
        )
    }
}
