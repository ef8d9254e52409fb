//! `POST /orders:batch`: stores many orders, each for itself.

use std::sync::Arc;

use axum::response::Response;
use order_core::{
    CallContext, CreateOrder, Error, OrderId, Receipt,
    intake::{check_len, within},
};
use order_edge::{batch::log_failures, client_address};

use super::{check_no_idempotency_key, read_object};
use crate::{
    http::{
        Gateway,
        dto::batch_response,
        media,
        operation::Call,
        problem::{Document, Problem},
    },
    json::{self, Fields},
};

/// The most orders of a batch. In the longest body each has about 650 bytes.
pub(in crate::http) const ORDERS_MAX: usize = 100;

/// Answers each order as if it came alone, in one answer. Once the batch as such is valid, that
/// answer is a success.
pub(in crate::http) async fn create_orders(
    gateway: Arc<Gateway>,
    call: Call,
) -> Result<Response, Problem> {
    let headers = &call.parts.headers;
    media::check_accept(headers)?;
    media::check_content_type(headers)?;
    check_no_idempotency_key(headers)?;
    let orders = parse(&call.body)?;
    let slot = gateway
        .batches
        .try_take(client_address(&call.parts.extensions));
    let _slot = slot.map_err(Error::from)?;
    let ctx = gateway.context(call.request_id, call.trace_parent);

    let mut requests = Vec::with_capacity(orders.len());
    let mut accept = |request: CreateOrder| {
        // As for a single order, each retry further in is about the same one.
        let order_id = gateway.deps.ids.order_id();
        let is_idempotent = request.idempotency_key.is_some();
        requests.push(CreateOrder {
            order_id: Some(order_id),
            trace_parent: ctx.trace_parent.clone(),
            ..request
        });
        (order_id, is_idempotent)
    };
    let orders: Vec<_> = orders
        .into_iter()
        .map(|order| order.map(&mut accept))
        .collect();
    let n_requests = requests.len();
    let created = gateway
        .in_time(gateway.deps.api.create_orders(&ctx, requests))
        .await
        .unwrap_or_else(|error| error.copies(n_requests));
    log_failures(&ctx, &created);
    let mut created = created.into_iter();
    let answers = orders.into_iter().map(|order| match order {
        Ok(accepted) => answer(&ctx, accepted, created.next()),
        Err(error) => Err(document(&ctx, &error.into(), true)),
    });
    Ok(batch_response(&answers.collect::<Vec<_>>())?)
}

/// The outcome of an order that was accepted.
fn answer(
    ctx: &CallContext,
    (order_id, is_idempotent): (OrderId, bool),
    created: Option<Result<Receipt, Error>>,
) -> Result<Receipt, Box<Document>> {
    let created = created.unwrap_or_else(|| Err(Error::internal("an answer is missing")));
    created.map_err(|error| document(ctx, &Problem::Create(error, order_id), is_idempotent))
}

fn document(ctx: &CallContext, problem: &Problem, is_idempotent: bool) -> Box<Document> {
    let trace_parent = ctx.trace_parent.as_ref();
    Box::new(problem.document(&ctx.request_id, trace_parent, is_idempotent))
}

/// Reads the orders, each for itself.
fn parse(body: &[u8]) -> Result<Vec<Result<CreateOrder, Error>>, Problem> {
    let mut fields = read_object(body, &["orders"])?;
    fields.require(&["orders"]);
    let orders = fields.elements("orders");
    let mut violations = fields.violations;
    if let Some(orders) = &orders {
        violations.check(check_len("orders", orders.len(), ORDERS_MAX))?;
    }
    let orders = violations.finish(orders)?.into_iter().enumerate();
    Ok(orders
        .map(|(n, text)| within("orders", n, parse_order(text)))
        .collect())
}

fn parse_order(text: &str) -> Result<CreateOrder, Error> {
    let fields = Fields::parse(text, json::CREATE_IN_BATCH).map_err(|error| {
        let rule = if error.is_data() {
            "must be an object".to_owned()
        } else {
            format!("is not valid JSON: {error}")
        };
        Error::invalid("", rule)
    })?;
    fields.into_create().finish()
}
