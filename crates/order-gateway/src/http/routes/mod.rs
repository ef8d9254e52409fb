//! The operations of the API, one file each.

mod cancel_order;
mod create_order;
mod get_order;
mod list_orders;

use axum::{RequestPartsExt as _, extract::Path};
use http::request::Parts;
use order_core::{Error, OrderId};

pub(super) use self::{
    cancel_order::cancel_order, create_order::create_order, get_order::get_order,
    list_orders::list_orders,
};

/// The order that the path names.
async fn order_id(parts: &mut Parts) -> Result<OrderId, Error> {
    // A path that is not percent-encoded UTF-8 names no order either.
    let text = parts.extract::<Path<String>>().await;
    let text = text.as_ref().map_or("", |Path(text)| text);
    OrderId::parse_field("order_id", text)
}
