//! Requests, which anybody sends and the service reads.

use order_core::{
    CancelOrder, Cause, CreateOrder, Error, ListOrders, Money, OrderId, OrderStatus, PageSize,
    UpdateStatus, UserId, Violation, WatchOrder,
};

use super::order::{cause_to_proto, money_to_proto, status_from_proto, status_to_proto};
use crate::proto;

/// The most orders of one batch.
pub(crate) const CREATES_MAX: usize = 1000;

/// The most orders of one watch.
pub(crate) const WATCHES_MAX: usize = 100;

/// Collects the broken rules of one message, so that a caller learns of all at once.
#[derive(Default)]
struct Checker {
    violations: Vec<Violation>,
}

impl Checker {
    /// Keeps the value; moves the broken rules here, their fields renamed by `rename`.
    fn keep<T>(
        &mut self,
        checked: Result<T, Error>,
        rename: impl Fn(String) -> String,
    ) -> Result<Option<T>, Error> {
        match checked {
            Ok(value) => Ok(Some(value)),
            Err(Error::InvalidArgument { violations }) => {
                self.violations
                    .extend(violations.into_iter().map(|violation| Violation {
                        field: rename(violation.field),
                        rule: violation.rule,
                    }));
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    fn refuse(&mut self, field: &str, rule: impl Into<String>) {
        self.violations.push(Violation::new(field, rule));
    }

    fn into_error(self) -> Error {
        Error::InvalidArgument {
            violations: self.violations,
        }
    }
}

fn same_name(field: String) -> String {
    field
}

/// Where the parts of an amount stand in the messages.
fn money_field(field: String) -> String {
    match field.as_str() {
        "amount" => "money/minor_units".to_owned(),
        "currency" => "money/currency".to_owned(),
        _ => field,
    }
}

/// Reads the id of an order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id`.
pub(crate) fn order_id_from_proto(text: &str) -> Result<OrderId, Error> {
    OrderId::parse_field("order_id", text)
}

/// Reads a wanted order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id`, `user_id`, `money`, `money/minor_units` and
/// `money/currency`.
pub(crate) fn create_from_proto(request: &proto::CreateOrderRequest) -> Result<CreateOrder, Error> {
    let mut checker = Checker::default();
    let order_id = match request.order_id.as_str() {
        "" => Some(None),
        text => checker
            .keep(order_id_from_proto(text), same_name)?
            .map(Some),
    };
    let user_id = checker.keep(UserId::parse(&request.user_id), same_name)?;
    let money = match &request.money {
        None => {
            checker.refuse("money", "must be given");
            None
        }
        Some(money) => checker.keep(money_from_proto(money), money_field)?,
    };
    match (order_id, user_id, money) {
        (Some(order_id), Some(user_id), Some(money)) => Ok(CreateOrder {
            order_id,
            user_id,
            money,
        }),
        _ => Err(checker.into_error()),
    }
}

/// Writes a wanted order.
pub(crate) fn create_to_proto(request: &CreateOrder) -> proto::CreateOrderRequest {
    proto::CreateOrderRequest {
        order_id: request
            .order_id
            .map(|id| id.to_string())
            .unwrap_or_default(),
        user_id: request.user_id.as_str().to_owned(),
        money: Some(money_to_proto(request.money)),
    }
}

/// Reads the wanted orders of a batch, each for itself; fields are named from the batch:
/// `requests/3/user_id`.
///
/// # Errors
/// The outer one is [`Error::InvalidArgument`] for `requests`: none, or more than
/// [`CREATES_MAX`].
pub(crate) fn creates_from_proto(
    requests: &[proto::CreateOrderRequest],
) -> Result<Vec<Result<CreateOrder, Error>>, Error> {
    check_len("requests", requests.len(), CREATES_MAX)?;
    let create = |(n, request)| match create_from_proto(request) {
        Err(Error::InvalidArgument { violations }) => Err(Error::InvalidArgument {
            violations: violations
                .into_iter()
                .map(|v| Violation::new(format!("requests/{n}/{}", v.field), v.rule))
                .collect(),
        }),
        other => other,
    };
    Ok(requests.iter().enumerate().map(create).collect())
}

/// Reads a wanted page.
///
/// # Errors
/// [`Error::InvalidArgument`] for `user_id`, `statuses/N` and `page_size`.
pub(crate) fn list_from_proto(request: proto::ListOrdersRequest) -> Result<ListOrders, Error> {
    let mut checker = Checker::default();
    let user_id = match request.user_id.as_str() {
        "" => None,
        text => checker.keep(UserId::parse(text), same_name)?,
    };
    let page_size = checker.keep(PageSize::new(request.page_size.into()), same_name)?;
    let mut statuses = Vec::with_capacity(OrderStatus::ALL.len());
    for (n, status) in request.statuses.iter().enumerate() {
        match status_from_proto(*status) {
            // Repeating a status means nothing, and a filter needs no more than all of them.
            Some(status) if statuses.contains(&status) => {}
            Some(status) => statuses.push(status),
            None => {
                checker.refuse(&format!("statuses/{n}"), unknown_status());
                break;
            }
        }
    }
    match page_size {
        Some(page_size) if checker.violations.is_empty() => Ok(ListOrders {
            user_id,
            statuses,
            page_size,
            page_token: Some(request.page_token).filter(|token| !token.is_empty()),
        }),
        _ => Err(checker.into_error()),
    }
}

/// Writes a wanted page.
pub(crate) fn list_to_proto(request: &ListOrders) -> proto::ListOrdersRequest {
    proto::ListOrdersRequest {
        user_id: request
            .user_id
            .as_ref()
            .map(|user| user.as_str().to_owned())
            .unwrap_or_default(),
        statuses: request
            .statuses
            .iter()
            .map(|status| status_to_proto(*status).into())
            .collect(),
        page_size: request.page_size.get().into(),
        page_token: request.page_token.clone().unwrap_or_default(),
    }
}

/// Reads a wish to withdraw an order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id` and `reason`.
pub(crate) fn cancel_from_proto(request: proto::CancelOrderRequest) -> Result<CancelOrder, Error> {
    let mut checker = Checker::default();
    let order_id = checker.keep(order_id_from_proto(&request.order_id), same_name)?;
    let reason = Some(request.reason).filter(|reason| !reason.is_empty());
    if let Some(reason) = &reason {
        checker.keep(Cause::check_message("reason", reason), same_name)?;
    }
    match order_id {
        Some(order_id) if checker.violations.is_empty() => Ok(CancelOrder { order_id, reason }),
        _ => Err(checker.into_error()),
    }
}

/// Writes a wish to withdraw an order.
pub(crate) fn cancel_to_proto(request: &CancelOrder) -> proto::CancelOrderRequest {
    proto::CancelOrderRequest {
        order_id: request.order_id.to_string(),
        reason: request.reason.clone().unwrap_or_default(),
    }
}

/// Reads a wish to move an order.
///
/// # Errors
/// [`Error::InvalidArgument`] for `order_id`, `status`, `cause/code` and `cause/message`.
pub(crate) fn update_from_proto(
    request: &proto::UpdateStatusRequest,
) -> Result<UpdateStatus, Error> {
    let mut checker = Checker::default();
    let order_id = checker.keep(order_id_from_proto(&request.order_id), same_name)?;
    let status = status_from_proto(request.status);
    if status.is_none() {
        checker.refuse("status", unknown_status());
    }
    let cause = request
        .cause
        .as_ref()
        .map(|cause| check_cause(cause, &mut checker));
    match (order_id, status) {
        (Some(order_id), Some(status)) if checker.violations.is_empty() => Ok(UpdateStatus {
            order_id,
            status,
            cause,
        }),
        _ => Err(checker.into_error()),
    }
}

/// Writes a wish to move an order.
pub(crate) fn update_to_proto(request: &UpdateStatus) -> proto::UpdateStatusRequest {
    proto::UpdateStatusRequest {
        order_id: request.order_id.to_string(),
        status: status_to_proto(request.status).into(),
        cause: request.cause.clone().map(cause_to_proto),
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
    let mut checker = Checker::default();
    let mut watches = Vec::with_capacity(request.orders.len());
    for (n, watch) in request.orders.iter().enumerate() {
        let order_id = order_id_from_proto(&watch.order_id);
        if let Some(order_id) = checker.keep(order_id, |field| format!("orders/{n}/{field}"))? {
            watches.push(WatchOrder {
                order_id,
                since: watch.since_version,
            });
        }
    }
    if checker.violations.is_empty() {
        Ok(watches)
    } else {
        Err(checker.into_error())
    }
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

fn check_len(field: &str, len: usize, len_max: usize) -> Result<(), Error> {
    if (1..=len_max).contains(&len) {
        return Ok(());
    }
    let rule = format!("must have 1 to {len_max} elements");
    Err(Error::invalid(field, rule))
}

fn money_from_proto(money: &proto::Money) -> Result<Money, Error> {
    let currency = match money.currency.as_str() {
        "" => Money::CURRENCY_DEFAULT,
        code => code,
    };
    Money::from_minor_units(money.minor_units, currency)
}

/// [`Cause::new`] cuts what does not fit; a client is told instead.
fn check_cause(cause: &proto::Cause, checker: &mut Checker) -> Cause {
    let kept = Cause::new(cause.code.as_str(), cause.message.as_str());
    if kept.code.is_empty() || kept.code != cause.code {
        let rule = format!(
            "must have 1 to {} letters, digits and underscores",
            Cause::CODE_LEN_MAX
        );
        checker.refuse("cause/code", rule);
    }
    if kept.message != cause.message {
        let rule = format!(
            "must have at most {} characters and no control characters",
            Cause::MESSAGE_CHARS_MAX
        );
        checker.refuse("cause/message", rule);
    }
    kept
}

fn unknown_status() -> String {
    let names = OrderStatus::ALL.map(OrderStatus::as_str).join(", ");
    format!("must be one of {names}")
}
