//! `POST /orders`: stores an order and has it processed.

use std::sync::Arc;

use axum::response::Response;
use http::{StatusCode, header::LOCATION};
use order_core::{CreateOrder, Receipt};

use super::{idempotency_key, read_object};
use crate::{
    http::{
        Gateway,
        dto::{announce_replay, header_value, order_response},
        media,
        operation::Call,
        problem::Problem,
    },
    json,
};

/// Answers when the order is durable; it is processed in the background.
pub(in crate::http) async fn create_order(
    gateway: Arc<Gateway>,
    call: Call,
) -> Result<Response, Problem> {
    let headers = &call.parts.headers;
    media::check_accept(headers)?;
    media::check_content_type(headers)?;
    let idempotency_key = idempotency_key(headers)?;
    // The id is made here, so that every retry further in is about the same order.
    let order_id = gateway.deps.ids.order_id();
    let request = CreateOrder {
        order_id: Some(order_id),
        idempotency_key,
        ..parse(&call.body)?
    };
    let ctx = gateway.context(call.request_id, call.trace_parent);
    let Receipt { order, is_replayed } = gateway
        .in_time(gateway.deps.api.create_order(&ctx, request))
        .await
        .map_err(|error| Problem::Create(error, order_id))?;
    let waited = gateway.wait_as_preferred(&ctx, &call.parts, order).await;
    let mut response = order_response(StatusCode::CREATED, &waited.order)?;
    let location = header_value(format!("/orders/{}", waited.order.id))?;
    response.headers_mut().insert(LOCATION, location);
    announce_replay(is_replayed, &mut response);
    waited.announce(&mut response)?;
    Ok(response)
}

fn parse(body: &[u8]) -> Result<CreateOrder, Problem> {
    Ok(read_object(body, json::CREATE)?.into_create().finish()?)
}
