//! `POST /orders/{order_id}/cancel`: withdraws an order.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use order_core::CancelOrder;

use super::{idempotency_key, optional_body, order_id, read_object};
use crate::http::{
    Gateway,
    dto::{announce_replay, order_response},
    etag, media,
    operation::Call,
    problem::Problem,
};

/// Answers an order that is already cancelled as it is.
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

fn parse_reason(body: &[u8]) -> Result<Option<String>, Problem> {
    let mut fields = read_object(body, &["reason"])?;
    let reason = fields.text("reason").map(String::from);
    Ok(fields.violations.finish(Some(reason))?)
}
