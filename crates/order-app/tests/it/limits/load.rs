//! Work that one client asks for as fast as it is done.

use hyper::{Request, body::Bytes};
use order_rpc::proto::{BatchCreateOrdersRequest, CreateOrderRequest, Money};

use super::{
    Attacker, STREAMS_PER_CONNECTION, UNPROCESSED, assert_served,
    grpc::{call, message},
    read_to_end,
};
use crate::support::{Engine, Http, Shape, System, database, run, wait_for};

impl Attacker {
    /// Sends a request again and again, `n` of them at a time.
    async fn flood(&mut self, n: usize, request: &Request<()>, body: &'static [u8]) {
        for first in (0..n).step_by(STREAMS_PER_CONNECTION) {
            let sender = self.connect().await;
            for _ in first..n.min(first + STREAMS_PER_CONNECTION) {
                let (mut sender, request) = (sender.clone(), request.clone());
                self.streams.spawn(async move {
                    while let Ok(ready) = sender.ready().await {
                        sender = ready;
                        let Ok((response, mut sent)) = sender.send_request(request.clone(), false)
                        else {
                            break;
                        };
                        // Whether it is taken is seen by the answer.
                        let _ = sent.send_data(Bytes::from_static(body), true);
                        if let Ok(response) = response.await {
                            read_to_end(response.into_body()).await;
                        }
                    }
                });
            }
        }
    }
}

#[test]
fn lists_of_one_address_keep_out_no_other() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
            let addr = system.http_addr();
            let http = Http::new(addr);
            for _ in 0..1_000 {
                http.create_order().await;
            }
            let request = Request::get(format!("http://{addr}/orders?page_size=1000"));
            let request = request.body(()).expect("a request");
            let mut attacker = Attacker::new(addr);
            attacker.flood(1_000, &request, b"").await;
            assert_served(&system).await;
            assert_served(&system).await;
            drop(attacker);
            system.stop().await;
        }
    });
}

#[test]
fn batches_of_one_address_keep_out_no_other() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
            let addr = system.grpc_addr();
            let order = CreateOrderRequest {
                user_id: "attacker".to_owned(),
                money: Some(Money {
                    minor_units: 1,
                    ..Money::default()
                }),
                ..CreateOrderRequest::default()
            };
            let batch = message(&BatchCreateOrdersRequest {
                requests: vec![order; 1_000],
            });
            let request = call(addr, "order.v1.OrderService/BatchCreateOrders");
            let mut attacker = Attacker::new(addr);
            attacker.flood(16, &request, batch).await;
            let http = Http::new(system.http_addr());
            wait_for("the attack has begun", async || {
                let page = http.get("/orders?user_id=attacker&page_size=1").await;
                (page.json()["orders"].as_array()?.len() == 1).then_some(())
            })
            .await;
            assert_served(&system).await;
            assert_served(&system).await;
            drop(attacker);
            system.stop().await;
        }
    });
}
