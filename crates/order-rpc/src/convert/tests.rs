use jiff::Timestamp;
use order_core::{
    CallContext, CancelOrder, Cause, CreateOrder, Deadline, Error, ExternalId, IdempotencyKey,
    IfMatch, ListEvents, ListOrders, Metadata, Money, Order, OrderEvent, OrderId, OrderStatus,
    PageSize, RequestId, RetryOrder, StreamTicket, TicketGrant, TicketSecret, TraceParent,
    UpdateStatus, UserId, WatchOrder,
};
use proptest::prelude::*;
use prost::Message as _;
use uuid::Uuid;

use super::*;

mod admin;
mod refusals;
mod workers;

fn any_id() -> impl Strategy<Value = OrderId> {
    any::<u128>().prop_map(|n| OrderId::from_uuid(Uuid::from_u128(n)))
}

fn any_user() -> impl Strategy<Value = UserId> {
    "\\PC{1,128}".prop_filter_map("has blanks at its ends", |text| UserId::parse(&text).ok())
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

fn any_metadata() -> impl Strategy<Value = Metadata> {
    prop::collection::vec(("\\PC{1,40}", "\\PC{0,500}"), 0..4)
        .prop_map(|entries| Metadata::new(entries).expect("valid"))
}

fn any_external_id() -> impl Strategy<Value = Option<ExternalId>> {
    let named = |text: String| ExternalId::parse(&text).ok();
    prop::option::of("\\PC{1,128}".prop_filter_map("has blanks at its ends", named))
}

fn any_key() -> impl Strategy<Value = Option<IdempotencyKey>> {
    prop::option::of("[!-~]{1,255}".prop_map(|text| IdempotencyKey::parse(&text).expect("valid")))
}

fn any_precondition() -> impl Strategy<Value = Option<IfMatch>> {
    let versions = prop::collection::vec(any::<u32>(), 0..3).prop_map(IfMatch::Versions);
    prop::option::of(prop_oneof![Just(IfMatch::Any), versions])
}

prop_compose! {
    fn any_order()(
        id in any_id(),
        user_id in any_user(),
        money in any_money(),
        status in any_status(),
        version in any::<u32>(),
        metadata in any_metadata(),
        external_id in any_external_id(),
        failure in prop::option::of(any_cause()),
        created_at in any_time(),
        updated_at in any_time(),
    ) -> Order {
        Order {
            id, user_id, money, status, version, metadata, external_id, failure, created_at,
            updated_at,
        }
    }
}

prop_compose! {
    fn any_create()(
        order_id in prop::option::of(any_id()),
        user_id in any_user(),
        money in any_money(),
        metadata in any_metadata(),
        external_id in any_external_id(),
        idempotency_key in any_key(),
    ) -> CreateOrder {
        CreateOrder { order_id, user_id, money, metadata, external_id, idempotency_key, trace_parent: None, request_id: None }
    }
}

/// Sampled, not sampled, or none.
pub(super) fn any_trace() -> impl Strategy<Value = Option<TraceParent>> {
    let sampled = prop::option::of((1_u128.., 1_u64.., any::<bool>()));
    sampled.prop_map(|position| {
        let (trace, span, is_sampled) = position?;
        let flags = u8::from(is_sampled);
        TraceParent::parse(&format!("00-{trace:032x}-{span:016x}-{flags:02x}"))
    })
}

prop_compose! {
    fn any_list()(
        user_id in prop::option::of(any_user()),
        statuses in prop::sample::subsequence(OrderStatus::ALL.to_vec(), 0..=5),
        external_id in any_external_id(),
        created_after in prop::option::of(any_time()),
        created_before in prop::option::of(any_time()),
        page_size in 1_i64..=1_000,
        page_token in prop::option::of("[a-z]{1,40}"),
    ) -> ListOrders {
        let page_size = PageSize::new(page_size).expect("valid");
        ListOrders {
            user_id, statuses, external_id, created_after, created_before, page_size, page_token,
        }
    }
}

proptest! {
    #[test]
    fn order_survives_the_way(order in any_order()) {
        let message = order_to_proto(order.clone());
        let nanos = message.created_at.as_ref().expect("always there").nanos;
        prop_assert!((0..1_000_000_000).contains(&nanos));
        prop_assert_eq!(&message.etag, &format!("\"{}\"", order.version));
        prop_assert_eq!(order_from_proto(Some(message)).expect("valid"), order);
    }

    #[test]
    fn event_survives_the_way(
        order_id in any_id(),
        user_id in any_user(),
        version in any::<u32>(),
        status in any_status(),
        at in any_time(),
        cause in prop::option::of(any_cause()),
        trace_parent in any_trace(),
    ) {
        let event = OrderEvent { order_id, user_id, version, status, at, cause, trace_parent };
        let message = event_to_proto(event.clone());
        let trace_parent = TraceParent::sampled(event.trace_parent.as_ref());
        prop_assert_eq!(event_from_proto(message).expect("valid"), OrderEvent { trace_parent, ..event });
    }

    #[test]
    fn size_of_a_page_is_never_underestimated(orders in prop::collection::vec(any_order(), 0..4)) {
        let bound = |len_max: fn(&Order) -> usize| orders.iter().map(len_max).sum::<usize>();
        let events = orders.iter().map(Order::last_event).map(event_to_proto).collect();
        let history = crate::proto::ListOrderEventsResponse { events, ..Default::default() };
        let event_bound = bound(|order| order.last_event().encoded_len_max());
        prop_assert!(history.encoded_len() <= event_bound);
        let order_bound = bound(Order::encoded_len_max);
        let page = crate::proto::ListOrdersResponse {
            orders: orders.into_iter().map(order_to_proto).collect(),
            next_page_token: String::new(),
        };
        prop_assert!(page.encoded_len() <= order_bound);
    }

    #[test]
    fn create_survives_the_way(request in any_create()) {
        let message = create_to_proto(&request);
        prop_assert_eq!(create_from_proto(message).expect("valid"), request);
    }

    #[test]
    fn size_of_a_create_is_never_underestimated(
        requests in prop::collection::vec(any_create(), 0..4),
        state in "(a=[b-z]{0,500})?",
    ) {
        let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let ctx = CallContext {
            trace_parent: trace.map(|trace| trace.with_state([state.as_str()])),
            ..CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE)
        };
        let bound: usize = requests.iter().map(|request| bytes_max(request, Some(&ctx))).sum();
        let requests = requests.iter().map(|request| with_origin(create_to_proto(request), &ctx));
        let requests = requests.collect();
        let batch = crate::proto::BatchCreateOrdersRequest { requests };
        prop_assert!(batch.encoded_len() <= bound);
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
        if_match in any_precondition(),
        idempotency_key in any_key(),
    ) {
        let request = CancelOrder { order_id, reason, if_match, idempotency_key };
        let message = cancel_to_proto(&request);
        prop_assert_eq!(cancel_from_proto(message).expect("valid"), request);
    }

    #[test]
    fn retry_survives_the_way(order_id in any_id(), if_match in any_precondition()) {
        let request = RetryOrder { order_id, if_match };
        let message = retry_to_proto(&request);
        prop_assert_eq!(retry_from_proto(&message).expect("valid"), request);
    }

    #[test]
    fn update_survives_the_way(
        order_id in any_id(),
        status in any_status(),
        cause in prop::option::of(any_cause()),
        if_match in any_precondition(),
    ) {
        let request = UpdateStatus { order_id, status, cause, if_match };
        let message = update_to_proto(&request);
        prop_assert_eq!(update_from_proto(&message).expect("valid"), request);
    }

    #[test]
    fn page_of_events_survives_the_way(
        order_id in any_id(),
        after in any::<u32>(),
        page_size in 1_i64..=1_000,
    ) {
        let page_size = PageSize::new(page_size).expect("valid");
        let request = ListEvents { order_id, after, page_size };
        let message = events_to_proto(&request);
        prop_assert_eq!(events_from_proto(&message).expect("valid"), request);
    }

    #[test]
    fn ticket_survives_the_way(
        secret in any::<[u8; 32]>(),
        user_id in any_user(),
        expires_at in any_time(),
    ) {
        let grant = TicketGrant { user_id };
        let secret = TicketSecret::from_bytes(secret);
        let ticket = StreamTicket { secret, grant: grant.clone(), expires_at };
        let message = ticket_to_proto(&ticket);
        prop_assert_eq!(ticket_from_proto(&message, grant).expect("valid"), ticket);
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
