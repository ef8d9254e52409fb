//! The length estimates of the core, compared with real answers.

use jiff::Timestamp;
use order_core::{
    Cause, ExternalId, Metadata, Money, Order, OrderEvent, OrderId, OrderStatus, UserId,
};
use order_web::json::{EventBody, OrderBody};
use proptest::prelude::*;
use uuid::Uuid;

/// Text that was accepted by whatever rules: half of it has to be escaped.
fn any_text() -> impl Strategy<Value = String> {
    let chars = prop_oneof![
        any::<char>(),
        prop::sample::select(vec!['"', '\\', '\u{7}', '\n', '\u{7f}', '/'])
    ];
    prop::collection::vec(chars, 0..40).prop_map(String::from_iter)
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    let micros = Timestamp::MIN.as_microsecond()..=Timestamp::MAX.as_microsecond();
    micros.prop_map(|micros| Timestamp::from_microsecond(micros).expect("in range"))
}

prop_compose! {
    fn any_order()(
        id in any::<u128>(),
        user_id in any_text(),
        minor_units in 1_i64..=i64::MAX,
        digits in 0_u8..=4,
        status in prop::sample::select(OrderStatus::ALL.to_vec()),
        version in any::<u32>(),
        metadata in prop::collection::vec(("[\"\\\\a-z]{1,40}", "[\"\\\\ -~é]{0,60}"), 0..5),
        external_id in prop::option::of(any_text()),
        failure in prop::option::of((any_text(), any_text())),
        (created_at, updated_at) in (any_time(), any_time()),
    ) -> Order {
        Order {
            id: OrderId::from_uuid(Uuid::from_u128(id)),
            user_id: UserId::from_accepted(&user_id),
            money: Money::from_accepted(minor_units, "XXX", Some(digits)).expect("accepted"),
            status,
            version,
            metadata: Metadata::new(metadata).expect("valid"),
            external_id: external_id.as_deref().map(ExternalId::from_accepted),
            failure: failure.map(|(code, message)| Cause { code, message }),
            created_at,
            updated_at,
        }
    }
}

proptest! {
    #[test]
    fn length_of_an_order_is_never_underestimated(order in any_order()) {
        let body = serde_json::to_string(&OrderBody::from(&order)).expect("JSON");
        let bound = order.encoded_len_max();
        prop_assert!(body.len() < bound, "{} bytes, not {bound}: {body}", body.len());
        let event: OrderEvent = order.last_event();
        let body = serde_json::to_string(&EventBody::from(&event)).expect("JSON");
        prop_assert!(body.len() < event.encoded_len_max(), "{body}");
    }
}
