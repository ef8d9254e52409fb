//! Lists, histories, and what a client attaches to an order.

use std::sync::Arc;

use order_core::{
    CreateOrder, Error, ExternalId, ListEvents, ListOrders, Metadata, Order, OrderApi, OrderId,
    OrderStatus, PageSize, TicketGrant, UserId, Version,
};

use super::{create, created, move_to};
use crate::support::context;

/// The history of an order after a version.
pub(super) fn events_after(order_id: OrderId, after: Version) -> ListEvents {
    ListEvents {
        order_id,
        after,
        page_size: PageSize::DEFAULT,
    }
}

fn list_of(user: &str) -> ListOrders {
    ListOrders {
        user_id: Some(UserId::parse(user).expect("valid")),
        ..ListOrders::default()
    }
}

async fn orders_of(api: &Arc<dyn OrderApi>, user: &str, n: usize) -> Vec<Order> {
    let mut orders = Vec::new();
    for _ in 0..n {
        let receipt = api.create_order(&context(), create(None, user, "1")).await;
        orders.push(receipt.expect("created").order);
    }
    orders.sort_unstable_by_key(|order| std::cmp::Reverse(order.id));
    orders
}

async fn list(api: &Arc<dyn OrderApi>, request: ListOrders) -> Vec<OrderId> {
    let page = api.list_orders(&context(), request).await.expect("a page");
    page.orders.iter().map(|order| order.id).collect()
}

fn ids(orders: &[Order]) -> Vec<OrderId> {
    orders.iter().map(|order| order.id).collect()
}

async fn metadata_comes_back_as_it_was(api: Arc<dyn OrderApi>) {
    let entries = [("note", "süß \"quoted\" \\ '"), ("empty", ""), ("Ω/~", "1")];
    let entries = entries.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = CreateOrder {
        metadata: Metadata::new(entries).expect("valid"),
        external_id: ExternalId::parse("Bestellung 7 ✓").ok(),
        ..create(None, "reader-0", "1")
    };
    let receipt = api.create_order(&context(), request.clone()).await;
    let order = receipt.expect("created").order;
    let found = api.get_order(&context(), order.id).await.expect("found");
    assert_eq!(found, order);
    assert_eq!(found.metadata, request.metadata);
    assert_eq!(found.external_id, request.external_id);
    let by_name = ListOrders {
        external_id: request.external_id,
        ..ListOrders::default()
    };
    assert_eq!(list(&api, by_name).await, [order.id]);
}

async fn a_list_goes_through_all_pages(api: Arc<dyn OrderApi>) {
    let orders = orders_of(&api, "lister", 5).await;
    created(&api).await;
    let mut request = ListOrders {
        page_size: PageSize::new(2).expect("valid"),
        ..list_of("lister")
    };
    let mut listed = Vec::new();
    loop {
        let page = api.list_orders(&context(), request.clone()).await;
        let page = page.expect("a page");
        listed.extend(page.orders.into_iter().map(|order| order.id));
        match page.next_page_token {
            Some(token) => request.page_token = Some(token),
            None => break,
        }
    }
    assert_eq!(listed, ids(&orders));
}

async fn a_token_is_bound_to_its_list(api: Arc<dyn OrderApi>) {
    orders_of(&api, "sealed", 2).await;
    let first = ListOrders {
        page_size: PageSize::new(1).expect("valid"),
        ..list_of("sealed")
    };
    let page = api.list_orders(&context(), first.clone()).await;
    let token = page.expect("a page").next_page_token.expect("a token");
    let mut tampered = token.clone().into_bytes();
    tampered[5] = if tampered[5] == b'A' { b'B' } else { b'A' };
    let tampered = String::from_utf8(tampered).expect("ASCII");
    let refused = [
        ListOrders {
            page_token: Some("garbage".to_owned()),
            ..first.clone()
        },
        ListOrders {
            page_token: Some(tampered),
            ..first.clone()
        },
        ListOrders {
            page_token: Some(token),
            statuses: vec![OrderStatus::Pending],
            ..first
        },
    ];
    for request in refused {
        let refused = api.list_orders(&context(), request).await;
        assert!(
            matches!(refused, Err(Error::InvalidArgument { ref violations }) if violations[0].field == "page_token"),
            "{refused:?}"
        );
    }
}

async fn filters_are_exact(api: Arc<dyn OrderApi>) {
    let orders = orders_of(&api, "filters", 3).await;
    let [newest, middle, oldest] = &orders[..] else {
        panic!("three orders");
    };
    let done = move_to(middle.id, OrderStatus::Processed);
    api.update_status(&context(), done).await.expect("moved");
    let with = |list: ListOrders| ListOrders {
        user_id: list_of("filters").user_id,
        ..list
    };
    let after = with(ListOrders {
        created_after: Some(oldest.created_at),
        ..ListOrders::default()
    });
    assert_eq!(list(&api, after).await, [newest.id, middle.id]);
    let before = with(ListOrders {
        created_before: Some(newest.created_at),
        ..ListOrders::default()
    });
    assert_eq!(list(&api, before).await, [middle.id, oldest.id]);
    let between = with(ListOrders {
        created_after: Some(oldest.created_at),
        created_before: Some(newest.created_at),
        statuses: vec![OrderStatus::Processed, OrderStatus::Failed],
        ..ListOrders::default()
    });
    assert_eq!(list(&api, between).await, [middle.id]);
}

async fn the_history_is_read_page_by_page(api: Arc<dyn OrderApi>) {
    let order = created(&api).await;
    for status in [OrderStatus::Failed, OrderStatus::Pending] {
        api.update_status(&context(), move_to(order.id, status))
            .await
            .expect("moved");
    }
    let whole = api.list_events(&context(), events_after(order.id, 0)).await;
    let whole = whole.expect("a page");
    let statuses: Vec<_> = whole.events.iter().map(|e| (e.version, e.status)).collect();
    assert_eq!(
        statuses,
        [
            (1, OrderStatus::Pending),
            (2, OrderStatus::Failed),
            (3, OrderStatus::Pending)
        ]
    );
    assert_eq!((whole.order.version, whole.has_more), (3, false));
    assert!(whole.events.iter().all(|e| e.user_id == order.user_id));
    let one = ListEvents {
        page_size: PageSize::new(1).expect("valid"),
        ..events_after(order.id, 1)
    };
    let page = api.list_events(&context(), one).await.expect("a page");
    assert_eq!(page.events, whole.events[1..2]);
    assert!(page.has_more);
    let end = api.list_events(&context(), events_after(order.id, 3)).await;
    assert_eq!(end.expect("a page").events, []);
}

async fn a_ticket_is_for_its_user(api: Arc<dyn OrderApi>) {
    let grant = TicketGrant {
        user_id: UserId::parse("user-1").expect("valid"),
    };
    let ticket = api.create_ticket(&context(), grant.clone()).await;
    let ticket = ticket.expect("a ticket");
    assert_eq!(ticket.grant, grant);
    let other = api.create_ticket(&context(), grant).await;
    assert_ne!(other.expect("a ticket").secret, ticket.secret);
}

/// Runs every case against one way to reach the service.
pub(super) async fn contract(api: Arc<dyn OrderApi>) {
    metadata_comes_back_as_it_was(Arc::clone(&api)).await;
    a_list_goes_through_all_pages(Arc::clone(&api)).await;
    a_token_is_bound_to_its_list(Arc::clone(&api)).await;
    filters_are_exact(Arc::clone(&api)).await;
    the_history_is_read_page_by_page(Arc::clone(&api)).await;
    a_ticket_is_for_its_user(api).await;
}
