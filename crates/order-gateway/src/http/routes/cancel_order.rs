//! `POST /orders/{order_id}/cancel`: withdraws an order.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use order_core::CancelOrder;

use super::order_id;
use crate::http::{
    Gateway, dto::order_response, fields::Fields, media, operation::Call, problem::Problem,
};

pub(in crate::http) async fn cancel_order(
    gateway: Arc<Gateway>,
    mut call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    let order_id = order_id(&mut call.parts).await?;
    let body = gateway.read(call.body).await?;
    let reason = if body.is_empty() {
        None
    } else {
        media::check_content_type(&call.parts.headers)?;
        parse_reason(&body)?
    };
    let ctx = gateway.context(call.request_id);
    let request = CancelOrder { order_id, reason };
    let order = gateway
        .in_time(gateway.deps.api.cancel_order(&ctx, request))
        .await?;
    Ok(order_response(StatusCode::OK, &order)?)
}

fn parse_reason(body: &[u8]) -> Result<Option<String>, Problem> {
    let mut fields = Fields::parse(body, &["reason"])?;
    let reason = fields.text("reason").map(String::from);
    Ok(fields.violations.finish(Some(reason))?)
}
