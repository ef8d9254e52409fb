//! Tickets for streams, lists page by page, and readiness.

use std::time::Duration;

use order_core::{
    Cause, Clock as _, Error, ListEvents, ListOrders, OrderApi as _, OrderEvent, OrderStatus,
    PageSize, RESPONSE_BYTES_MAX, TICKET_LIFETIME, TicketGrant, TicketOffice as _, TicketSecret,
    UpdateStatus,
    supervisor::{STEP_TIME_MAX, Task},
};
use tokio::task::JoinSet;

use super::{Rig, ctx, user, wanted};

#[tokio::test(start_paused = true)]
async fn ticket_is_redeemed_once_within_its_lifetime() {
    let rig = Rig::new();
    let grant = TicketGrant { user_id: user() };
    let mut tickets = Vec::new();
    for _ in 0..2 {
        let ticket = rig.service.create_ticket(&ctx(), grant.clone()).await;
        tickets.push(ticket.expect("is issued"));
    }
    let [first, late] = &tickets[..] else {
        panic!("two tickets were issued");
    };
    assert_ne!(first.secret, late.secret);
    assert_eq!(first.expires_at, rig.clock.now() + TICKET_LIFETIME);
    let redeem = async |text: &str| rig.service.redeem_ticket(&ctx(), text).await;
    let is_invalid = |answer| matches!(answer, Err(Error::TicketInvalid));

    let last_moment = Duration::from_millis(1);
    rig.clock
        .sleep(TICKET_LIFETIME.saturating_sub(last_moment))
        .await;
    let redeemed = redeem(&first.secret.to_text()).await;
    assert_eq!(redeemed.expect("is redeemed"), grant);
    assert!(is_invalid(redeem(&first.secret.to_text()).await));

    rig.clock.sleep(last_moment).await;
    assert!(is_invalid(redeem(&late.secret.to_text()).await));
    let unknown = TicketSecret::from_bytes([0; 32]).to_text();
    for text in ["", "not a ticket", &unknown] {
        assert!(is_invalid(redeem(text).await), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_lead_to_the_end_under_the_same_filters_only() {
    let rig = Rig::new();
    let mut expected = Vec::new();
    for minor_units in 1..=5 {
        expected.insert(0, rig.create(wanted(minor_units)).await);
    }
    let mut request = ListOrders {
        user_id: Some(user()),
        page_size: PageSize::new(2).expect("valid"),
        ..ListOrders::default()
    };

    let mut orders = Vec::new();
    loop {
        let page = rig.service.list_orders(&ctx(), request.clone()).await;
        let page = page.expect("the list answers");
        orders.extend(page.orders);
        rig.create(wanted(9)).await;
        let Some(token) = page.next_page_token else {
            break;
        };
        let elsewhere = ListOrders {
            statuses: vec![OrderStatus::Pending],
            page_token: Some(token.clone()),
            ..request.clone()
        };
        let refused = rig.service.list_orders(&ctx(), elsewhere).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
        request.page_token = Some(token);
    }

    assert_eq!(orders, expected);
}

/// As an older version may have stored them: today's rules keep every history short enough.
#[tokio::test(start_paused = true)]
async fn history_with_long_causes_comes_in_pages_that_fit_into_an_answer() {
    let rig = Rig::new();
    let order = rig.create(wanted(1)).await;
    for status in [OrderStatus::Failed, OrderStatus::Pending].repeat(4) {
        let request = UpdateStatus {
            order_id: order.id,
            status,
            cause: Some(Cause {
                code: "OLD".to_owned(),
                message: "m".repeat(1_500_000),
            }),
            if_match: None,
        };
        let moved = rig.service.update_status(&ctx(), request).await;
        moved.expect("the state machine has this move");
    }
    let mut request = ListEvents {
        order_id: order.id,
        after: 0,
        page_size: PageSize::MAX,
    };

    let mut versions = Vec::new();
    loop {
        let page = rig.service.list_events(&ctx(), request).await;
        let page = page.expect("the history answers");
        let lens = page.events.iter().map(OrderEvent::encoded_len_max);
        assert!(lens.sum::<usize>() <= RESPONSE_BYTES_MAX);
        versions.extend(page.events.iter().map(|event| event.version));
        let Some(last) = versions.last().filter(|_| page.has_more) else {
            break;
        };
        request.after = *last;
    }

    assert!(versions.into_iter().eq(1..=9));
}

#[tokio::test(start_paused = true)]
async fn probes_of_a_second_share_an_answer() {
    let rig = Rig::new();
    rig.store.set_partitioned(true);
    for _ in 0..100 {
        let refused = rig.service.check_ready(&ctx()).await;
        assert!(matches!(refused, Err(Error::StoreUnavailable { .. })));
    }
    assert_eq!(rig.store.n_faults(), 1);
    rig.store.set_partitioned(false);

    tokio::time::sleep(Duration::from_secs(1)).await;

    assert!(rig.service.check_ready(&ctx()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn service_with_a_stuck_task_is_not_ready() {
    let rig = Rig::new();
    let task = Task::new("test", STEP_TIME_MAX, |beat| async move {
        beat.busy();
        std::future::pending::<()>().await;
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(rig.supervisor.run(task));

    tokio::time::sleep(STEP_TIME_MAX / 2).await;
    assert!(rig.service.check_ready(&ctx()).await.is_ok());
    tokio::time::sleep(STEP_TIME_MAX / 2 + Duration::from_secs(1)).await;

    let refused = rig.service.check_ready(&ctx()).await;
    assert!(
        matches!(refused, Err(Error::ServiceUnavailable { .. })),
        "{refused:?}"
    );
}
