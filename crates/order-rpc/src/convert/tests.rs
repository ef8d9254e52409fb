use jiff::Timestamp;
use order_core::{
    CancelOrder, Cause, CreateOrder, Error, ListOrders, Money, Order, OrderEvent, OrderId,
    OrderStatus, PageSize, UpdateStatus, UserId, WatchOrder,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    request::{CREATES_MAX, WATCHES_MAX},
    *,
};
use crate::proto;

fn any_id() -> impl Strategy<Value = OrderId> {
    any::<u128>().prop_map(|n| OrderId::from_uuid(Uuid::from_u128(n)))
}

fn any_user() -> impl Strategy<Value = UserId> {
    "\\PC{1,128}".prop_map(|text| UserId::parse(&text).expect("valid"))
}

fn any_money() -> impl Strategy<Value = Money> {
    let currency = prop::sample::select(vec!["USD", "JPY", "KWD"]);
    (1..=Money::MINOR_UNITS_MAX, currency)
        .prop_map(|(n, currency)| Money::from_minor_units(n, currency).expect("valid"))
}

fn any_status() -> impl Strategy<Value = OrderStatus> {
    prop::sample::select(OrderStatus::ALL.to_vec())
}

fn any_cause() -> impl Strategy<Value = Cause> {
    ("[A-Z_]{1,64}", "\\PC{0,500}").prop_map(|(code, message)| Cause::new(code, message))
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (-9_000_000_000_i64..9_000_000_000, 0..1_000_000_000)
        .prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).expect("in range"))
}

prop_compose! {
    fn any_order()(
        id in any_id(),
        user_id in any_user(),
        money in any_money(),
        status in any_status(),
        version in any::<u32>(),
        failure in prop::option::of(any_cause()),
        created_at in any_time(),
        updated_at in any_time(),
    ) -> Order {
        Order { id, user_id, money, status, version, failure, created_at, updated_at }
    }
}

prop_compose! {
    fn any_list()(
        user_id in prop::option::of(any_user()),
        statuses in prop::sample::subsequence(OrderStatus::ALL.to_vec(), 0..=5),
        page_size in 1_i64..=1_000,
        page_token in prop::option::of("[a-z]{1,40}"),
    ) -> ListOrders {
        let page_size = PageSize::new(page_size).expect("valid");
        ListOrders { user_id, statuses, page_size, page_token }
    }
}

proptest! {
    #[test]
    fn order_survives_the_way(order in any_order()) {
        let message = order_to_proto(order.clone());
        let nanos = message.created_at.as_ref().expect("always there").nanos;
        prop_assert!((0..1_000_000_000).contains(&nanos));
        prop_assert_eq!(order_from_proto(Some(message)).expect("valid"), order);
    }

    #[test]
    fn event_survives_the_way(
        order_id in any_id(),
        version in any::<u32>(),
        status in any_status(),
        at in any_time(),
        cause in prop::option::of(any_cause()),
    ) {
        let event = OrderEvent { order_id, version, status, at, cause };
        let message = event_to_proto(event.clone());
        prop_assert_eq!(event_from_proto(message).expect("valid"), event);
    }

    #[test]
    fn create_survives_the_way(
        order_id in prop::option::of(any_id()),
        user_id in any_user(),
        money in any_money(),
    ) {
        let request = CreateOrder { order_id, user_id, money };
        let message = create_to_proto(&request);
        prop_assert_eq!(create_from_proto(&message).expect("valid"), request);
    }

    #[test]
    fn list_survives_the_way(request in any_list()) {
        let message = list_to_proto(&request);
        prop_assert_eq!(list_from_proto(message).expect("valid"), request);
    }

    #[test]
    fn cancel_survives_the_way(
        order_id in any_id(),
        reason in prop::option::of("\\PC{1,500}"),
    ) {
        let request = CancelOrder { order_id, reason };
        let message = cancel_to_proto(&request);
        prop_assert_eq!(cancel_from_proto(message).expect("valid"), request);
    }

    #[test]
    fn update_survives_the_way(
        order_id in any_id(),
        status in any_status(),
        cause in prop::option::of(any_cause()),
    ) {
        let request = UpdateStatus { order_id, status, cause };
        let message = update_to_proto(&request);
        prop_assert_eq!(update_from_proto(&message).expect("valid"), request);
    }

    #[test]
    fn watches_survive_the_way(
        orders in prop::collection::vec((any_id(), prop::option::of(any::<u32>())), 1..=100),
    ) {
        let watch = |(order_id, since)| WatchOrder { order_id, since };
        let orders: Vec<WatchOrder> = orders.into_iter().map(watch).collect();
        let message = watches_to_proto(&orders);
        prop_assert_eq!(watches_from_proto(&message).expect("valid"), orders);
    }
}

/// The fields that an error blames, in their order.
fn fields<T: std::fmt::Debug>(result: Result<T, Error>) -> Vec<String> {
    match result {
        Err(Error::InvalidArgument { violations }) => {
            violations.into_iter().map(|v| v.field).collect()
        }
        other => panic!("unexpected {other:?}"),
    }
}

fn create(
    order_id: &str,
    user_id: &str,
    minor_units: i64,
    currency: &str,
) -> proto::CreateOrderRequest {
    proto::CreateOrderRequest {
        order_id: order_id.to_owned(),
        user_id: user_id.to_owned(),
        money: Some(proto::Money {
            currency: currency.to_owned(),
            minor_units,
        }),
    }
}

#[test]
fn create_reports_every_broken_field() {
    let bad = create("x", "", 0, "USD");
    assert_eq!(
        fields(create_from_proto(&bad)),
        ["order_id", "user_id", "money/minor_units"]
    );
    let bad = create("", "u", 1, "usd");
    assert_eq!(fields(create_from_proto(&bad)), ["money/currency"]);
    let bad = proto::CreateOrderRequest {
        money: None,
        ..create("", "u", 1, "USD")
    };
    assert_eq!(fields(create_from_proto(&bad)), ["money"]);
}

#[test]
fn missing_currency_is_the_default_one() {
    let request = create_from_proto(&create("", "u", 5, "")).expect("valid");
    assert_eq!(
        (request.money.minor_units(), request.money.currency()),
        (5, "USD")
    );
    assert_eq!(request.order_id, None);
}

#[test]
fn batch_names_fields_by_position_and_has_limits() {
    let requests = [create("", "u", 1, ""), create("", "", -1, "")];
    let mut results = creates_from_proto(&requests).expect("a valid length");
    assert_eq!(
        fields(results.remove(1)),
        ["requests/1/user_id", "requests/1/money/minor_units"]
    );
    assert!(results.remove(0).is_ok());
    assert_eq!(fields(creates_from_proto(&[])), ["requests"]);
    let many = vec![create("", "u", 1, ""); CREATES_MAX];
    assert!(creates_from_proto(&many).is_ok());
    let too_many = vec![create("", "u", 1, ""); CREATES_MAX + 1];
    assert_eq!(fields(creates_from_proto(&too_many)), ["requests"]);
}

#[test]
fn list_reports_every_broken_field() {
    let bad = proto::ListOrdersRequest {
        user_id: "\u{7}".to_owned(),
        statuses: vec![1, 0],
        page_size: -1,
        page_token: String::new(),
    };
    assert_eq!(
        fields(list_from_proto(bad)),
        ["user_id", "page_size", "statuses/1"]
    );
    let repeated = proto::ListOrdersRequest {
        statuses: vec![1; 10_000],
        ..Default::default()
    };
    let request = list_from_proto(repeated).expect("valid");
    assert_eq!(request.statuses, [OrderStatus::Pending]);
}

#[test]
fn update_and_cancel_report_every_broken_field() {
    let bad = proto::UpdateStatusRequest {
        order_id: "x".to_owned(),
        status: 99,
        cause: Some(proto::Cause {
            code: "NOT OK".to_owned(),
            message: "x".repeat(501),
        }),
    };
    assert_eq!(
        fields(update_from_proto(&bad)),
        ["order_id", "status", "cause/code", "cause/message"]
    );
    let bad = proto::CancelOrderRequest {
        order_id: String::new(),
        reason: "\n".to_owned(),
    };
    assert_eq!(fields(cancel_from_proto(bad)), ["order_id", "reason"]);
}

#[test]
fn watch_reports_every_broken_field_and_has_limits() {
    let watch = |id: &str| proto::watch_orders_request::Watch {
        order_id: id.to_owned(),
        since_version: None,
    };
    let request = |orders| proto::WatchOrdersRequest { orders };
    assert_eq!(
        fields(watches_from_proto(&request(vec![watch("x"), watch("y")]))),
        ["orders/0/order_id", "orders/1/order_id"]
    );
    assert_eq!(fields(watches_from_proto(&request(vec![]))), ["orders"]);
    let id = "0198c5a0-5d5c-7abc-8def-0123456789ab";
    let too_many = request(vec![watch(id); WATCHES_MAX + 1]);
    assert_eq!(fields(watches_from_proto(&too_many)), ["orders"]);
}

#[test]
fn broken_answer_is_an_internal_error() {
    assert!(matches!(
        order_from_proto(None),
        Err(Error::Internal { source: Some(_) })
    ));
    let event = proto::OrderEvent::default();
    assert!(matches!(
        event_from_proto(event),
        Err(Error::Internal { source: Some(_) })
    ));
}
