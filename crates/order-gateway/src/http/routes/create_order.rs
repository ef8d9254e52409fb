//! `POST /orders`: stores an order and has it processed.

use std::sync::Arc;

use axum::response::Response;
use http::{StatusCode, header::LOCATION};
use order_core::{CreateOrder, Error, ExternalId, Metadata, Money, Receipt, UserId};

use super::idempotency_key;
use crate::http::{
    Gateway,
    dto::{announce_replay, header_value, order_response},
    fields::Fields,
    media,
    operation::Call,
    problem::Problem,
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
    let waited = gateway.wait_as_preferred(&ctx, headers, order).await;
    let mut response = order_response(StatusCode::CREATED, &waited.order)?;
    let location = header_value(format!("/orders/{}", waited.order.id))?;
    response.headers_mut().insert(LOCATION, location);
    announce_replay(is_replayed, &mut response);
    waited.announce(&mut response)?;
    Ok(response)
}

fn parse(body: &[u8]) -> Result<CreateOrder, Problem> {
    let known = &["user_id", "amount", "currency", "external_id", "metadata"];
    let mut fields = Fields::parse(body, known)?;
    fields.require(&["user_id", "amount"]);
    let user_id = fields.text("user_id");
    let amount = fields.decimal("amount");
    let currency = fields.text("currency");
    let external_id = fields.text("external_id");
    let metadata = fields.text_by_name("metadata").unwrap_or_default();
    let mut violations = fields.violations;

    let user_id = match user_id {
        Some(text) => violations.check(UserId::parse(&text))?,
        None => None,
    };
    let currency = currency.as_deref().unwrap_or(Money::CURRENCY_DEFAULT);
    let money = match amount {
        Some(text) => violations.check(Money::parse(&text, currency))?,
        // There is no amount to judge, but a wrong currency is worth saying now.
        None => violations.check(check_currency(currency))?.and(None),
    };
    let external_id = match external_id {
        Some(text) => violations.check(ExternalId::parse(&text))?,
        None => None,
    };
    let metadata = violations.check(Metadata::new(metadata))?;
    let request = user_id.zip(money).map(|(user_id, money)| CreateOrder {
        external_id,
        metadata: metadata.unwrap_or_default(),
        ..CreateOrder::new(user_id, money)
    });
    Ok(violations.finish(request)?)
}

fn check_currency(currency: &str) -> Result<(), Error> {
    Money::from_minor_units(1, currency).map(|_| ())
}
