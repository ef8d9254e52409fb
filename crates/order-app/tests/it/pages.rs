//! Pages of orders that do not fit into one answer, in one process and cut in two.

use std::sync::Arc;

use order_core::{
    CreateOrder, ListOrders, Metadata, Money, OrderApi, PageSize, RESPONSE_BYTES_MAX, UserId,
};

use crate::support::{Engine, Http, Shape, System, context, database, run};

/// How many orders there are. Their metadata is twice as long as an answer.
const N_ORDERS: usize = 120;

/// An order with much metadata, which is longer as JSON than as protobuf.
fn large_order() -> CreateOrder {
    let value = format!("{}{}", "\u{10ffff}".repeat(250), "\"".repeat(250));
    let entries = (0..Metadata::LEN_MAX).map(|n| (n.to_string(), value.clone()));
    CreateOrder {
        metadata: Metadata::new(entries).expect("valid"),
        ..CreateOrder::new(
            UserId::parse("large").expect("valid"),
            Money::from_minor_units(1, "USD").expect("valid"),
        )
    }
}

/// The ids of a list by HTTP, page by page.
async fn ids_by_http(http: &Http) -> Vec<Vec<String>> {
    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/orders?page_size=1000&page_token={token}");
        let answer = http.get(&path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let n_bytes = answer.body.len();
        assert!(n_bytes <= RESPONSE_BYTES_MAX, "{n_bytes} bytes");
        let page = answer.json();
        let orders = page["orders"].as_array().expect("orders");
        let id = |order: &serde_json::Value| order["order_id"].as_str().map(str::to_owned);
        pages.push(orders.iter().filter_map(id).collect());
        match page["next_page_token"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => return pages,
        }
    }
}

/// The same by gRPC, whose client reads no longer answers.
async fn ids_by_grpc(api: &Arc<dyn OrderApi>) -> Vec<Vec<String>> {
    let mut list = ListOrders {
        page_size: PageSize::MAX,
        ..ListOrders::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = api.list_orders(&context(), list.clone()).await;
        let page = page.expect("a page");
        let id = |order: &order_core::Order| order.id.to_string();
        pages.push(page.orders.iter().map(id).collect());
        match page.next_page_token {
            Some(token) => list.page_token = Some(token),
            None => return pages,
        }
    }
}

#[test]
fn pages_of_large_orders_fit_into_answers_and_lead_to_every_order_once() {
    run(async {
        for shape in [Shape::AllInOne, Shape::Split] {
            for engine in [Engine::Sqlite, Engine::Postgres] {
                let database = database!(engine);
                let system = System::start(shape, &database, &["--processor-delay", "1h"]).await;
                let remote = system.remote();
                let orders = vec![large_order(); N_ORDERS];
                let created = remote.create_orders(&context(), orders).await;
                let created = created.expect("answers").into_iter();
                let id = |created: Result<order_core::Receipt, _>| {
                    created.expect("created").order.id.to_string()
                };
                let mut expected: Vec<_> = created.map(id).collect();
                expected.sort_unstable_by(|a, b| b.cmp(a));

                let http = Http::new(system.http_addr());
                for pages in [ids_by_http(&http).await, ids_by_grpc(&remote).await] {
                    assert_eq!(pages.concat(), expected);
                    // Pages are short because their orders are long and for no other reason.
                    let n_pages = pages.len();
                    assert!((3..=4).contains(&n_pages), "{n_pages} pages");
                }
                system.stop().await;
            }
        }
    });
}
