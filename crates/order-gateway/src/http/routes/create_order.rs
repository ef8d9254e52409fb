//! `POST /orders`: stores an order and has it processed.

use std::sync::Arc;

use axum::response::Response;
use http::{StatusCode, header::LOCATION};
use order_core::{CreateOrder, Error, Money, UserId};

use crate::http::{
    Gateway,
    dto::{header_value, order_response},
    fields::Fields,
    media,
    operation::Call,
    problem::Problem,
};

pub(in crate::http) async fn create_order(
    gateway: Arc<Gateway>,
    call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    media::check_content_type(&call.parts.headers)?;
    let body = gateway.read(call.body).await?;
    let mut request = parse(&body)?;
    // The id is made here, so that every retry further in is about the same order.
    request.order_id = Some(gateway.deps.ids.order_id());
    let ctx = gateway.context(call.request_id);
    let order = gateway
        .in_time(gateway.deps.api.create_order(&ctx, request))
        .await?;
    let mut response = order_response(StatusCode::CREATED, &order)?;
    let location = header_value(format!("/orders/{}", order.id))?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

fn parse(body: &[u8]) -> Result<CreateOrder, Problem> {
    let mut fields = Fields::parse(body, &["user_id", "amount", "currency"])?;
    fields.require(&["user_id", "amount"]);
    let user_id = fields.text("user_id");
    let amount = fields.decimal("amount");
    let currency = fields.text("currency");
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
    let request = user_id.zip(money).map(|(user_id, money)| CreateOrder {
        order_id: None,
        user_id,
        money,
    });
    Ok(violations.finish(request)?)
}

fn check_currency(currency: &str) -> Result<(), Error> {
    Money::from_minor_units(1, currency).map(|_| ())
}
