//! The limits of the gRPC API.

use std::net::SocketAddr;

use hyper::{Request, body::Bytes};
use order_rpc::proto::{LeaseRequest, WatchOrdersRequest, watch_orders_request::Watch};
use prost::Message;
use tokio::time::timeout;

use super::{Attacker, UNPROCESSED, assert_served, watch};
use crate::{
    support::{Engine, Http, PATIENCE, Shape, System, database, run, start_gateway},
    workers::client,
};

fn attacker(system: &System) -> Attacker {
    Attacker::new(system.grpc_addr())
}

pub(super) fn call(addr: SocketAddr, path: &str) -> Request<()> {
    let request = Request::post(format!("http://{addr}/{path}"));
    let request = request.header("content-type", "application/grpc");
    let request = request
        .header("grpc-timeout", "600S")
        .header("te", "trailers");
    request.body(()).expect("a request")
}

/// A message as it is sent.
pub(super) fn message(message: &impl Message) -> &'static [u8] {
    let bytes = message.encode_to_vec();
    let len = u32::try_from(bytes.len()).expect("short");
    let framed = [&[0], &len.to_be_bytes()[..], &bytes].concat();
    // A test makes one.
    framed.leak()
}

#[test]
fn watches_of_one_address_keep_out_no_other() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
        let order_id = Http::new(system.http_addr()).create_order().await;
        let watches = message(&WatchOrdersRequest {
            orders: vec![Watch {
                order_id,
                since_version: None,
            }],
        });
        let request = call(system.grpc_addr(), "order.v1.OrderService/WatchOrders");
        let mut attacker = attacker(&system);
        attacker.attack(10_001, &request, (watches, true)).await;
        assert_served(&system).await;
        drop(attacker);
        system.stop().await;
    });
}

#[test]
fn feeds_of_one_address_keep_out_no_gateway() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
        let request = call(system.grpc_addr(), "order.v1.OrderService/Follow");
        let mut attacker = attacker(&system);
        attacker.attack(257, &request, (b"", false)).await;

        let gateway = start_gateway(&format!("http://{}", system.grpc_addr())).await;
        let http = Http::new(gateway.addrs.http.expect("an HTTP API"));
        let order_id = http.create_order().await;
        let mut events = watch(&http, &order_id).await;
        let path = format!("/orders/{order_id}/cancel");
        http.post(&path, "{}").await;
        assert_eq!(super::version(&mut events).await, "2");
        drop((attacker, events));
        gateway.stop().await;
        system.stop().await;
    });
}

#[test]
fn workers_at_one_address_that_wait_keep_out_no_other() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &["--workers", "0"]).await;
        let request = call(system.grpc_addr(), "order.v1.WorkerService/Lease");
        let wait = message(&LeaseRequest {
            limit: 1,
            wait: Some(prost_types::Duration {
                seconds: 29,
                nanos: 0,
            }),
            ..LeaseRequest::default()
        });
        let mut attacker = Attacker {
            is_answered: false,
            ..attacker(&system)
        };
        attacker.attack(1_025, &request, (wait, true)).await;
        let lease = LeaseRequest {
            limit: 1,
            ..LeaseRequest::default()
        };
        let leased = client(system.grpc_addr()).lease(lease).await;
        assert!(leased.is_ok(), "{leased:?}");
        drop(attacker);
        system.stop().await;
    });
}

#[test]
fn grpc_connections_of_one_address_keep_out_no_other() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &UNPROCESSED).await;
        let mut attacker = attacker(&system);
        let mut senders: Vec<h2::client::SendRequest<Bytes>> = Vec::new();
        while senders.len() < 1_025 && attacker.connections.try_join_next().is_none() {
            senders.push(attacker.connect().await);
        }
        let turned_away = timeout(PATIENCE, attacker.connections.join_next()).await;
        assert!(turned_away.is_ok(), "{} connections", senders.len());
        assert_served(&system).await;
        drop((senders, attacker));
        system.stop().await;
    });
}
