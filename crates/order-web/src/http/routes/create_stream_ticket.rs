//! `POST /stream-tickets`: makes a ticket with which a client opens one stream.

use std::sync::Arc;

use axum::response::Response;
use order_core::{TicketGrant, UserId};

use super::{check_no_idempotency_key, read_object};
use crate::http::{Gateway, dto::ticket_response, media, operation::Call, problem::Problem};

/// Makes a ticket with which a client opens one WebSocket within 30 seconds.
pub(in crate::http) async fn create_stream_ticket(
    gateway: Arc<Gateway>,
    call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    media::check_content_type(&call.parts.headers)?;
    check_no_idempotency_key(&call.parts.headers)?;
    let grant = parse(&call.body)?;
    let ctx = gateway.context(call.request_id, call.trace_parent);
    let ticket = gateway
        .in_time(gateway.deps.api.create_ticket(&ctx, grant))
        .await?;
    Ok(ticket_response(&ticket)?)
}

fn parse(body: &[u8]) -> Result<TicketGrant, Problem> {
    let mut fields = read_object(body, &["user_id"])?;
    fields.require(&["user_id"]);
    let user_id = fields.text("user_id");
    let mut violations = fields.violations;
    let user_id = violations.check_given(user_id.as_deref(), UserId::parse)?;
    Ok(violations.finish(user_id.map(|user_id| TicketGrant { user_id }))?)
}
