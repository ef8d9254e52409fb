//! `GET /orders/{order_id}`: reads an order.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use order_core::{Error, IfMatch};

use super::order_id;
use crate::http::{
    Gateway,
    dto::{not_modified, order_response},
    etag, media,
    operation::Call,
    problem::Problem,
};

/// Reads an order.
pub(in crate::http) async fn get_order(
    gateway: Arc<Gateway>,
    mut call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    let order_id = order_id(&mut call.parts).await?;
    let headers = &call.parts.headers;
    let if_match = etag::if_match(headers)?;
    let if_none_match = etag::if_none_match(headers)?;
    let ctx = gateway.context(call.request_id, call.trace_parent);
    let order = gateway
        .in_time(gateway.deps.api.get_order(&ctx, order_id))
        .await?;
    let waited = gateway.wait_as_preferred(&ctx, &call.parts, order).await;
    let order = &waited.order;
    let is_met = |condition: IfMatch| condition.is_met(order.version);
    // In the order of RFC 9110 §13.2.2.
    if !if_match.is_none_or(is_met) {
        return Err(Error::EtagMismatch {
            order_id,
            current: order.version,
        }
        .into());
    }
    let mut response = if if_none_match.is_some_and(is_met) {
        not_modified(order)?
    } else {
        order_response(StatusCode::OK, order)?
    };
    waited.announce(&mut response)?;
    Ok(response)
}
