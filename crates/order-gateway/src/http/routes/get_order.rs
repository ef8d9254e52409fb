//! `GET /orders/{order_id}`: reads an order.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;

use super::order_id;
use crate::http::{Gateway, dto::order_response, media, operation::Call, problem::Problem};

pub(in crate::http) async fn get_order(
    gateway: Arc<Gateway>,
    mut call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    let order_id = order_id(&mut call.parts).await?;
    let ctx = gateway.context(call.request_id);
    let order = gateway
        .in_time(gateway.deps.api.get_order(&ctx, order_id))
        .await?;
    Ok(order_response(StatusCode::OK, &order)?)
}
