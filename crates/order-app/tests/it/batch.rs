//! Batches of orders by HTTP, in one process and cut in two.

use serde_json::{Value, json};

use crate::{
    contract::SLOW,
    support::{Engine, Http, Shape, System, database, run, start_gateway},
};

async fn post_batch(http: &Http, orders: &Value) -> Vec<Value> {
    let body = json!({ "orders": orders }).to_string();
    let answer = http.post("/orders:batch", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut answer = answer.json();
    let results = answer["results"].take();
    serde_json::from_value(results).expect("results")
}

/// The outcome of each order: the code of its problem, or whether it is a replay.
fn outcomes(results: &[Value]) -> Vec<String> {
    let outcome = |result: &Value| match &result["problem"]["code"] {
        Value::String(code) => code.clone(),
        _ => format!("replayed: {}", result["replayed"]),
    };
    results.iter().map(outcome).collect()
}

#[test]
fn orders_of_a_batch_are_answered_each_for_itself() {
    run(async {
        for shape in [Shape::AllInOne, Shape::Split] {
            for engine in [Engine::Sqlite, Engine::Postgres] {
                let database = database!(engine);
                let system = System::start(shape, &database, SLOW).await;
                let http = Http::new(system.http_addr());
                let order = |key: &str, amount: &str| json!({"user_id": "u", "amount": amount, "idempotency_key": key});
                let named = json!({"user_id": "u", "amount": 1, "external_id": "cart-1"});
                let orders = json!([
                    order("a", "1.50"),
                    {"user_id": "", "amount": -1},
                    named,
                    named,
                    order("a", "2"),
                    {"user_id": "u", "amount": 7},
                ]);

                let results = post_batch(&http, &orders).await;

                let expected = [
                    "replayed: false",
                    "INVALID_ARGUMENT",
                    "replayed: false",
                    "EXTERNAL_ID_TAKEN",
                    "IDEMPOTENCY_KEY_REUSED",
                    "replayed: false",
                ];
                assert_eq!(outcomes(&results), expected);
                let errors = &results[1]["problem"]["errors"];
                assert_eq!(errors[0]["pointer"], "/orders/1/user_id");
                assert_eq!(errors[1]["pointer"], "/orders/1/amount");
                for n in [0, 2, 5] {
                    let stored = &results[n]["order"];
                    let id = stored["order_id"].as_str().expect("an id");
                    let read = http.get(&format!("/orders/{id}")).await;
                    assert_eq!(read.json(), *stored);
                }
                let taken = results[2]["order"]["order_id"].as_str().expect("an id");
                let existing = &results[3]["problem"]["existing_order"];
                assert_eq!(*existing, format!("/orders/{taken}"));

                let again = post_batch(&http, &orders).await;
                assert_eq!(again[0]["order"], results[0]["order"]);
                assert_eq!(again[0]["replayed"], true);
                // A key is the same one alone.
                let body = r#"{"user_id":"u","amount":1.5}"#;
                let key = [("idempotency-key", "a")];
                let alone = http.send_with(hyper::Method::POST, "/orders", &key, Some(body));
                assert_eq!(alone.await.json(), results[0]["order"]);
                system.stop().await;
            }
        }
    });
}

#[test]
fn orders_of_a_batch_are_processed() {
    run(async {
        for shape in [Shape::AllInOne, Shape::Split] {
            let database = database!(Engine::Sqlite);
            let system = System::start(shape, &database, &[]).await;
            let http = Http::new(system.http_addr());
            let orders = vec![json!({"user_id": "u", "amount": 1}); 100];
            for result in post_batch(&http, &json!(orders)).await {
                let id = result["order"]["order_id"].as_str().expect("an id");
                http.wait_for_status(id, "PROCESSED").await;
            }
            system.stop().await;
        }
    });
}

/// The id is there because the order may have been stored.
#[test]
fn orders_of_a_batch_without_a_service_have_ids_or_may_be_sent_again() {
    run(async {
        let port = order_testkit::server::free_port().expect("a port");
        let gateway = start_gateway(&format!("http://127.0.0.1:{port}")).await;
        let http = Http::new(gateway.addrs.http.expect("an HTTP API"));
        let orders = json!([
            {"user_id": "u", "amount": 1},
            {"user_id": "u", "amount": 1, "idempotency_key": "k"},
        ]);

        let results = post_batch(&http, &orders).await;

        for (result, is_keyed) in results.iter().zip([false, true]) {
            let problem = &result["problem"];
            assert_eq!(problem["status"], 503);
            assert_eq!(problem["code"], "SERVICE_UNAVAILABLE");
            assert_eq!(problem["retryable"], is_keyed);
            assert_eq!(problem["order_id"].is_string(), !is_keyed);
        }
        assert_eq!(results.len(), 2);
        gateway.stop().await;
    });
}
