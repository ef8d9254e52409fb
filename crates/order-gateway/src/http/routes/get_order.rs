//! `GET /orders/{order_id}`: reads an order.

use std::{collections::BTreeMap, sync::Arc};

use axum::response::Response;
use http::StatusCode;
use order_core::{Error, IfMatch, Reason};
use utoipa::{
    IntoParams, IntoResponses,
    openapi::{
        self, RefOr,
        path::{Parameter, ParameterIn},
    },
};

use super::order_id;
use crate::http::{
    Gateway,
    contract::{self, RequestBody},
    dto::{OrderBody, not_modified, order_response},
    etag, media,
    operation::Call,
    problem::Problem,
};

/// Reads an order.
#[utoipa::path(
    get,
    path = "/orders/{order_id}",
    tag = "orders",
    operation_id = "get_order",
    params(Contract),
    responses(
        (
            status = 200,
            description = "The order.",
            body = OrderBody,
            headers(
                ("ETag" = String, description = "The version of the order, quoted."),
                ("Preference-Applied" = String, description = "The wait that was granted."),
                ("X-Request-Id" = String, description = "The request."),
            ),
        ),
        (
            status = 304,
            description = "The order still has an entity tag that the client named.",
            headers(("ETag" = String, description = "The version of the order, quoted.")),
        ),
        Contract,
    ),
)]
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
    let waited = gateway.wait_as_preferred(&ctx, headers, order).await;
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

/// What the operation takes and how it refuses.
struct Contract;

impl IntoParams for Contract {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = contract::common_parameters();
        parameters.extend([
            contract::order_id(),
            contract::if_match(),
            contract::if_none_match(),
            contract::prefer(),
        ]);
        parameters
    }
}

impl IntoResponses for Contract {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        contract::refusals(
            RequestBody::Ignored,
            &[
                Reason::InvalidArgument,
                Reason::OrderNotFound,
                Reason::EtagMismatch,
            ],
        )
    }
}
