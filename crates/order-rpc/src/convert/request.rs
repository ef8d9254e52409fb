//! Requests about orders that exist, which anybody sends and the service reads.

use jiff::Timestamp;
use order_core::{
    CancelOrder, Cause, Error, ExternalId, IdempotencyKey, IfMatch, ListEvents, ListOrders,
    OrderId, OrderStatus, PageSize, RetryOrder, UpdateStatus, UserId, Violations, WatchOrder,
    intake::{check_len, within},
};
use uuid::Uuid;

use super::{
    check::{check_cause, given},
    etag::{if_match_from_proto, if_match_to_proto},
    order::{cause_to_proto, status_from_proto, status_to_proto, time_from_proto, time_to_proto},
};
use crate::proto;

/// The most orders of one watch.
pub(crate) const WATCHES_MAX: usize = 100;

/// Reads the id of an order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id`.
pub(crate) fn order_id_from_proto(text: &str) -> Result<OrderId, Error> {
    OrderId::parse_field("order_id", text)
}

/// Reads the name that a caller gave to a change.
///
/// # Errors
/// [`Error::InvalidArgument`] for `change_id`.
pub(crate) fn change_id_from_proto(text: &str) -> Result<Option<Uuid>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = Uuid::parse_str(text).map_err(|_| Error::invalid("change_id", "must be a UUID"))?;
    Ok(Some(id))
}

/// Reads a wanted page.
///
/// # Errors
/// [`Error::InvalidArgument`] for `user_id`, `statuses/N`, `page_size`, `external_id`,
/// `created_after` and `created_before`.
pub(crate) fn list_from_proto(request: proto::ListOrdersRequest) -> Result<ListOrders, Error> {
    let mut violations = Violations::default();
    let user_id = violations.check_given(given(&request.user_id), UserId::parse)?;
    let page_size = violations.check(PageSize::new(request.page_size.into()))?;
    let mut statuses = Vec::with_capacity(OrderStatus::ALL.len());
    for (n, status) in request.statuses.iter().enumerate() {
        match status_from_proto(*status) {
            // Repeating a status means nothing, and a filter needs no more than all of them.
            Some(status) if statuses.contains(&status) => {}
            Some(status) => statuses.push(status),
            None => {
                violations.push(format!("statuses/{n}"), unknown_status());
                break;
            }
        }
    }
    let external_id = violations.check_given(given(&request.external_id), ExternalId::parse)?;
    let created_after = check_time("created_after", request.created_after, &mut violations);
    let created_before = check_time("created_before", request.created_before, &mut violations);
    violations.finish(page_size.map(|page_size| ListOrders {
        user_id,
        statuses,
        external_id,
        created_after,
        created_before,
        page_size,
        page_token: Some(request.page_token).filter(|token| !token.is_empty()),
    }))
}

/// Writes a wanted page.
pub(crate) fn list_to_proto(request: &ListOrders) -> proto::ListOrdersRequest {
    proto::ListOrdersRequest {
        user_id: text_of(request.user_id.as_ref().map(UserId::as_str)),
        statuses: request
            .statuses
            .iter()
            .map(|status| status_to_proto(*status).into())
            .collect(),
        page_size: request.page_size.get().into(),
        page_token: text_of(request.page_token.as_deref()),
        created_after: request.created_after.map(time_to_proto),
        created_before: request.created_before.map(time_to_proto),
        external_id: text_of(request.external_id.as_ref().map(ExternalId::as_str)),
    }
}

/// Reads a wish to withdraw an order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id`, `reason`, `etag` and `idempotency_key`.
pub(crate) fn cancel_from_proto(request: proto::CancelOrderRequest) -> Result<CancelOrder, Error> {
    let mut violations = Violations::default();
    let order_id = violations.check(order_id_from_proto(&request.order_id))?;
    let reason = Some(request.reason).filter(|reason| !reason.is_empty());
    if let Some(reason) = &reason {
        violations.check(Cause::check_message("reason", reason))?;
    }
    let if_match = violations.check_given(given(&request.etag), if_match_from_proto)?;
    let idempotency_key =
        violations.check_given(given(&request.idempotency_key), IdempotencyKey::parse)?;
    violations.finish(order_id.map(|order_id| CancelOrder {
        order_id,
        reason,
        if_match,
        idempotency_key,
    }))
}

/// Writes a wish to withdraw an order.
pub(crate) fn cancel_to_proto(request: &CancelOrder) -> proto::CancelOrderRequest {
    proto::CancelOrderRequest {
        order_id: request.order_id.to_string(),
        reason: text_of(request.reason.as_deref()),
        etag: etag_of_request(request.if_match.as_ref()),
        idempotency_key: text_of(request.idempotency_key.as_ref().map(IdempotencyKey::as_str)),
        change_id: String::new(),
    }
}

/// Reads a wish to redrive an order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id` and `etag`.
pub(crate) fn retry_from_proto(request: &proto::RetryOrderRequest) -> Result<RetryOrder, Error> {
    let mut violations = Violations::default();
    let order_id = violations.check(order_id_from_proto(&request.order_id))?;
    let if_match = violations.check_given(given(&request.etag), if_match_from_proto)?;
    violations.finish(order_id.map(|order_id| RetryOrder { order_id, if_match }))
}

/// Writes a wish to redrive an order.
pub(crate) fn retry_to_proto(request: &RetryOrder) -> proto::RetryOrderRequest {
    proto::RetryOrderRequest {
        order_id: request.order_id.to_string(),
        etag: etag_of_request(request.if_match.as_ref()),
        change_id: String::new(),
    }
}

/// Reads a wish to move an order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id`, `status`, `cause/code`, `cause/message` and
/// `etag`.
pub(crate) fn update_from_proto(
    request: &proto::UpdateStatusRequest,
) -> Result<UpdateStatus, Error> {
    let mut violations = Violations::default();
    let order_id = violations.check(order_id_from_proto(&request.order_id))?;
    let status = status_from_proto(request.status);
    if status.is_none() {
        violations.push("status", unknown_status());
    }
    let cause = request
        .cause
        .as_ref()
        .map(|cause| check_cause(cause, &mut violations));
    let if_match = violations.check_given(given(&request.etag), if_match_from_proto)?;
    let update = order_id.zip(status).map(|(order_id, status)| UpdateStatus {
        order_id,
        status,
        cause,
        if_match,
    });
    violations.finish(update)
}

/// Writes a wish to move an order.
pub(crate) fn update_to_proto(request: &UpdateStatus) -> proto::UpdateStatusRequest {
    proto::UpdateStatusRequest {
        order_id: request.order_id.to_string(),
        status: status_to_proto(request.status).into(),
        cause: request.cause.clone().map(cause_to_proto),
        etag: etag_of_request(request.if_match.as_ref()),
        change_id: String::new(),
    }
}

/// Reads a wanted page of a history.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id` and `page_size`.
pub(crate) fn events_from_proto(
    request: &proto::ListOrderEventsRequest,
) -> Result<ListEvents, Error> {
    let mut violations = Violations::default();
    let order_id = violations.check(order_id_from_proto(&request.order_id))?;
    let page_size = violations.check(PageSize::new(request.page_size.into()))?;
    let list = order_id.zip(page_size);
    violations.finish(list.map(|(order_id, page_size)| ListEvents {
        order_id,
        after: request.after_version,
        page_size,
    }))
}

/// Writes a wanted page of a history.
pub(crate) fn events_to_proto(request: &ListEvents) -> proto::ListOrderEventsRequest {
    proto::ListOrderEventsRequest {
        order_id: request.order_id.to_string(),
        after_version: request.after,
        page_size: request.page_size.get().into(),
    }
}

/// Reads the orders to watch.
///
/// # Errors
/// [`Error::InvalidArgument`] for `orders`: none, or more than [`WATCHES_MAX`]; and for
/// `orders/N/order_id`.
pub(crate) fn watches_from_proto(
    request: &proto::WatchOrdersRequest,
) -> Result<Vec<WatchOrder>, Error> {
    check_len("orders", request.orders.len(), WATCHES_MAX)?;
    let mut violations = Violations::default();
    let watches = each_watch("orders", &request.orders, &mut violations)?;
    violations.finish(Some(watches))
}

fn each_watch(
    field: &str,
    watches: &[proto::watch_orders_request::Watch],
    violations: &mut Violations,
) -> Result<Vec<WatchOrder>, Error> {
    let mut read = Vec::with_capacity(watches.len());
    for (n, watch) in watches.iter().enumerate() {
        let order_id = within(field, n, order_id_from_proto(&watch.order_id));
        read.extend(violations.check(order_id)?.map(|order_id| WatchOrder {
            order_id,
            since: watch.since_version,
        }));
    }
    Ok(read)
}

/// The most orders in each list of a request of `Follow`.
const FOLLOWS_MAX: usize = 1_000;

/// Reads which orders to follow, and which no longer.
///
/// # Errors
/// [`Error::InvalidArgument`] with every rule that is broken.
pub(crate) fn follow_from_proto(
    request: &proto::FollowRequest,
) -> Result<(Vec<WatchOrder>, Vec<OrderId>), Error> {
    for (field, len) in [("add", request.add.len()), ("remove", request.remove.len())] {
        if len > FOLLOWS_MAX {
            let rule = format!("must have at most {FOLLOWS_MAX} elements");
            return Err(Error::invalid(field, rule));
        }
    }
    let mut violations = Violations::default();
    let add = each_watch("add", &request.add, &mut violations)?;
    let mut remove = Vec::with_capacity(request.remove.len());
    for (n, order_id) in request.remove.iter().enumerate() {
        let order_id = within("remove", n, order_id_from_proto(order_id));
        remove.extend(violations.check(order_id)?);
    }
    violations.finish(Some((add, remove)))
}

/// Writes which orders to follow from now on, and which no longer: as many requests as their
/// limit asks for.
pub(crate) fn follow_to_proto(changes: &[(OrderId, bool)]) -> Vec<proto::FollowRequest> {
    let request = |changes: &[(OrderId, bool)]| {
        let mut request = proto::FollowRequest::default();
        for (order_id, is_followed) in changes {
            let order_id = order_id.to_string();
            if *is_followed {
                request.add.push(proto::watch_orders_request::Watch {
                    order_id,
                    since_version: None,
                });
            } else {
                request.remove.push(order_id);
            }
        }
        request
    };
    changes.chunks(FOLLOWS_MAX).map(request).collect()
}

/// Writes the orders to watch.
pub(crate) fn watches_to_proto(orders: &[WatchOrder]) -> proto::WatchOrdersRequest {
    let watch = |watch: &WatchOrder| proto::watch_orders_request::Watch {
        order_id: watch.order_id.to_string(),
        since_version: watch.since,
    };
    proto::WatchOrdersRequest {
        orders: orders.iter().map(watch).collect(),
    }
}

/// Absent is empty on the wire.
pub(super) fn text_of(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn etag_of_request(if_match: Option<&IfMatch>) -> String {
    if_match.map(if_match_to_proto).unwrap_or_default()
}

pub(super) fn check_time(
    field: &str,
    time: Option<prost_types::Timestamp>,
    violations: &mut Violations,
) -> Option<Timestamp> {
    let time = time?;
    let read = time_from_proto(time);
    if read.is_none() {
        violations.push(field, "must be a time in the years -9999 to 9999");
    }
    read
}

fn unknown_status() -> String {
    let names = OrderStatus::ALL.map(OrderStatus::as_str).join(", ");
    format!("must be one of {names}")
}
