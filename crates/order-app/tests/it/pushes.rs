//! Pushes in the record of an order, and on its page of the console.

use hyper::Method;
use order_core::{AdminApi, OrderId, PushRecord};
use serde_json::json;

use crate::{
    positions::Sse,
    support::{Engine, Http, Shape, System, context, database, run, wait_for},
    websocket::{connect, hear, say},
};

/// Reads the pushes of an order until there are so many.
async fn pushes(admin: &impl AdminApi, order_id: OrderId, n: usize) -> Vec<PushRecord> {
    wait_for("the pushes are recorded", async || {
        let record = admin.record(&context(), order_id).await;
        let record = record.expect("a record");
        assert_eq!(record.silent_processes, 0);
        (record.pushes.len() >= n).then_some(record.pushes)
    })
    .await
}

#[test]
fn record_tells_how_many_watchers_got_a_version() {
    run(async {
        for shape in [Shape::AllInOne, Shape::Split] {
            let database = database!(Engine::Sqlite);
            let system = System::start(shape, &database, &["--processor-delay", "1h"]).await;
            let http = Http::new(system.http_addr());
            let mut socket = connect(&system).await;
            let id = http.create_order().await;
            let subscribe = json!({"id": 1, "subscribe": {"order": id}});
            say(&mut socket, subscribe.to_string()).await;
            assert_eq!(hear(&mut socket).await["id"], 1);
            let path = format!("/orders/{id}/events");
            let accept = [("accept", "text/event-stream")];
            let stream = http.open(Method::GET, &path, &accept, None).await;
            let mut events = Sse::new(stream.expect("an answer"));
            assert!(events.next().await.is_some(), "the state so far");
            let path = format!("/orders/{id}/cancel");
            assert_eq!(http.send(Method::POST, &path, None).await.status, 200);
            hear(&mut socket).await;
            assert!(events.next().await.is_some(), "the change");

            let order_id = id.parse().expect("an id");
            let recorded = pushes(&*system.operator(), order_id, 1).await;
            let [PushRecord { process, push }] = recorded.as_slice() else {
                panic!("unexpected {recorded:?}");
            };
            assert_eq!(push.version, 2);
            let expected = match shape {
                Shape::AllInOne => ("order-system ", 2, 0),
                Shape::Split => ("order-service ", 1, 1),
            };
            assert!(process.starts_with(expected.0), "{process}");
            assert_eq!((push.clients, push.gateways), (expected.1, expected.2));

            // The console of a gateway knows the pushes of the gateway, too.
            let process = system.gateway.as_ref().unwrap_or(&system.service);
            let console = Http::new(process.addrs.console.expect("a console"));
            let shown: &[&str] = match shape {
                Shape::AllInOne => &["2 clients"],
                Shape::Split => &["1 client and 1 gateway", "1 client"],
            };
            wait_for("the page has all pushes", async || {
                let page = console.get(&format!("/console/orders/{order_id}")).await;
                let page = String::from_utf8_lossy(&page.body).into_owned();
                let has = |watchers: &&str| {
                    let text = format!("Pushed to {watchers} <span class=\"quiet\">version 2<");
                    page.contains(&text)
                };
                shown.iter().all(has).then_some(())
            })
            .await;
            drop((socket, events));
            system.stop().await;
        }
    });
}
