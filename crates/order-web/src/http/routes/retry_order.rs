//! `POST /orders/{order_id}/retry`: gives a FAILED order a new round of attempts.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use order_core::RetryOrder;

use super::{check_no_idempotency_key, optional_body, order_id, read_object};
use crate::http::{Gateway, dto::order_response, etag, media, operation::Call, problem::Problem};

/// Answers an order that is PENDING as it is.
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
        read_object(body, &[])?.violations.finish(Some(()))?;
    }
    let request = RetryOrder { order_id, if_match };
    let ctx = gateway.context(call.request_id, call.trace_parent);
    let order = gateway
        .in_time(gateway.deps.api.retry_order(&ctx, request))
        .await?;
    let waited = gateway.wait_as_preferred(&ctx, &call.parts, order).await;
    let mut response = order_response(StatusCode::OK, &waited.order)?;
    waited.announce(&mut response)?;
    Ok(response)
}
