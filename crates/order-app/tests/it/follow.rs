//! A gateway follows the orders of all its clients over one stream to the service.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use order_core::{
    CreateOrder, ListOrders, Money, OrderApi, OrderId, OrderStatus, RetryOrder, UpdateStatus,
    UserId,
};
use order_rpc::proto::{
    FollowRequest, FollowResponse, order_service_client::OrderServiceClient,
    watch_orders_request::Watch,
};
use order_testkit::server::process::Signal;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tonic::{Code, Status, Streaming};

use crate::{
    positions::Sse,
    processes::{self, Ports},
    support::{
        Engine, Http, PATIENCE, Running, context, database, run, start_gateway, start_gateway_with,
        wait_for,
    },
};

const EVENT_STREAM: [(&str, &str); 1] = [("accept", "text/event-stream")];

/// HTTP/2 connections, with as many event streams as a connection may have: more than the
/// gateway could pass on one by one.
const CONNECTIONS: usize = 43;
const STREAMS_PER_CONNECTION: usize = 100;

async fn create(api: &Arc<dyn OrderApi>, n: usize) -> Vec<OrderId> {
    let user = UserId::parse("user-1").expect("valid");
    let money = Money::parse("1", "USD").expect("valid");
    let mut ids = Vec::new();
    while ids.len() < n {
        let requests = vec![CreateOrder::new(user.clone(), money); 100.min(n - ids.len())];
        let receipts = api.create_orders(&context(), requests).await;
        let receipts = receipts.expect("answers").into_iter();
        ids.extend(receipts.map(|receipt| receipt.expect("created").order.id));
    }
    ids
}

async fn move_to(api: &Arc<dyn OrderApi>, order_id: OrderId, status: OrderStatus) {
    let request = UpdateStatus {
        order_id,
        status,
        cause: None,
        if_match: None,
    };
    // A replica may have been killed a moment ago.
    wait_for("the order moves", async || {
        api.update_status(&context(), request.clone()).await.ok()
    })
    .await;
}

async fn open(http: &Http, order_id: OrderId) -> Sse {
    let path = format!("/orders/{order_id}/events");
    let response = http.open(Method::GET, &path, &EVENT_STREAM, None).await;
    Sse::new(response.expect("an answer"))
}

/// The version of the next event.
async fn version(events: &mut Sse) -> u32 {
    let event = events.next().await.expect("the stream goes on");
    event.id.expect("a position").parse().expect("a version")
}

async fn connect(addr: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    let connection = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
    let (sender, connection) = connection.await.expect("HTTP/2");
    tokio::task::spawn_local(connection);
    sender
}

async fn open_http2(
    connection: &SendRequest<Empty<Bytes>>,
    addr: SocketAddr,
    order_id: OrderId,
) -> Response<Incoming> {
    let request = Request::get(format!("http://{addr}/orders/{order_id}/events"))
        .header("accept", "text/event-stream")
        .body(Empty::new())
        .expect("a request");
    let mut connection = connection.clone();
    timeout(PATIENCE, connection.send_request(request))
        .await
        .expect("in time")
        .expect("an answer")
}

/// Reads until the text has come.
async fn read_until(body: &mut Incoming, wanted: &str) {
    let mut text = String::new();
    while !text.contains(wanted) {
        let frame = timeout(PATIENCE, body.frame()).await.expect("in time");
        let frame = frame.expect("open").expect("no error");
        let bytes = frame.into_data().expect("data");
        text.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
    }
}

#[test]
fn event_streams_keep_no_other_call_out() {
    run(async {
        let database = database!(Engine::Postgres);
        let service = Running::service_with(&database.url, &["--workers", "0"]).await;
        let url = format!("http://{}", service.addrs.grpc.expect("gRPC"));
        let limit = ["--http-max-connections-per-address", "10000"];
        let gateway = start_gateway_with(&url, &limit).await;
        let addr = gateway.addrs.http.expect("an HTTP API");
        let orders = create(&service.api, CONNECTIONS * STREAMS_PER_CONNECTION).await;
        let mut streams = Vec::new();
        for orders in orders.chunks(STREAMS_PER_CONNECTION) {
            let connection = connect(addr).await;
            let opened = orders.iter().map(|id| open_http2(&connection, addr, *id));
            for response in join_all(opened).await {
                assert_eq!(response.status(), 200);
                streams.push(response.into_body());
            }
        }

        let http = Http::new(addr);
        http.create_order().await;
        let ready = Http::new(gateway.addrs.admin.expect("health"))
            .get("/readyz")
            .await;
        assert_eq!(ready.status, 200, "{ready:?}");
        // All of them are alive, the first to the last.
        for idx in [0, orders.len() / 2, orders.len() - 1] {
            move_to(&service.api, orders[idx], OrderStatus::Processed).await;
            read_until(&mut streams[idx], "event: end").await;
        }
        drop(streams);
        gateway.stop().await;
        service.stop().await;
    });
}

#[test]
fn restart_of_the_service_is_not_noticed_by_those_who_wait() {
    run(async {
        let database = database!(Engine::Postgres);
        let grpc = format!("127.0.0.1:{}", Ports::free().grpc);
        let service = Running::service_at(&database.url, &grpc, &["--workers", "0"]).await;
        let gateway = start_gateway(&format!("http://{grpc}")).await;
        let http = Http::new(gateway.addrs.http.expect("an HTTP API"));
        let order_id = create(&service.api, 1).await[0];
        let mut events = open(&http, order_id).await;
        assert_eq!(version(&mut events).await, 1);
        let waiting = async {
            let prefer = [("prefer", "wait=20")];
            let order = Some(r#"{"user_id":"user-2","amount":1}"#);
            http.send_with(Method::POST, "/orders", &prefer, order)
                .await
        };
        let restart = async {
            let list = ListOrders {
                user_id: Some(UserId::parse("user-2").expect("valid")),
                ..ListOrders::default()
            };
            wait_for("the order that is waited for", async || {
                let page = service.api.list_orders(&context(), list.clone()).await;
                page.expect("a page").orders.pop()
            })
            .await;
            service.stop().await;
            Running::service_at(&database.url, &grpc, &[]).await
        };

        let (answer, service) = tokio::join!(waiting, restart);

        assert_eq!(answer.json()["status"], "PROCESSED", "{answer:?}");
        assert_eq!(answer.header("preference-applied"), Some("wait=20"));
        assert_eq!(version(&mut events).await, 2);
        gateway.stop().await;
        service.stop().await;
    });
}

#[test]
fn replica_that_is_killed_costs_no_version() {
    run(async {
        const ROUNDS: u32 = 12;
        let database = database!(Engine::Postgres);
        let ports = [Ports::free(), Ports::free()];
        let settings = [("WORKERS", "0"), ("EVENTS_URL", "postgres")];
        let mut replicas = [
            processes::start(&database, &ports[0], &settings).await,
            processes::start(&database, &ports[1], &settings).await,
        ];
        let urls = ports
            .each_ref()
            .map(|p| format!("http://127.0.0.1:{}", p.grpc));
        let gateway = start_gateway(&urls.join(",")).await;
        let http = Http::new(gateway.addrs.http.expect("an HTTP API"));
        let order_id = create(&gateway.api, 1).await[0];
        let mut streams = [open(&http, order_id).await, open(&http, order_id).await];
        let moves = async {
            for round in 0..ROUNDS {
                // Each of the two is killed in its turn, so that the stream is lost for certain.
                if round % 4 == 1 {
                    let idx = usize::from(round % 8 == 5);
                    replicas[idx].signal(Signal::Kill).expect("running");
                    replicas[idx]
                        .wait_for_exit(PATIENCE)
                        .await
                        .expect("it ends");
                }
                move_to(&gateway.api, order_id, OrderStatus::Failed).await;
                let retry = RetryOrder {
                    order_id,
                    if_match: None,
                };
                wait_for("the order is retried", async || {
                    gateway
                        .api
                        .retry_order(&context(), retry.clone())
                        .await
                        .ok()
                })
                .await;
                if round % 4 == 1 {
                    let idx = usize::from(round % 8 == 5);
                    replicas[idx] = processes::start(&database, &ports[idx], &settings).await;
                }
            }
        };
        let reads = join_all(streams.iter_mut().map(async |events| {
            for expected in 1..=2 * ROUNDS + 1 {
                assert_eq!(version(events).await, expected);
            }
        }));

        tokio::join!(moves, reads);

        drop(streams);
        gateway.stop().await;
        for replica in replicas {
            replica.signal(Signal::Terminate).expect("running");
            replica.wait_for_exit(PATIENCE).await.expect("it stops");
        }
    });
}

/// A stream of the contract itself.
struct Feed {
    requests: mpsc::Sender<FollowRequest>,
    answers: Streaming<FollowResponse>,
}

impl Feed {
    async fn open(service: &Running) -> Result<Self, Status> {
        let url = format!("http://{}", service.addrs.grpc.expect("gRPC"));
        let channel = tonic::transport::Endpoint::from_shared(url).expect("a URL");
        let channel = channel.connect().await.expect("connected");
        let (requests, mut sent) = mpsc::channel(8);
        let sent = futures_util::stream::poll_fn(move |cx| sent.poll_recv(cx));
        let answers = OrderServiceClient::new(channel).follow(sent).await?;
        Ok(Self {
            requests,
            answers: answers.into_inner(),
        })
    }

    async fn send(&self, add: &[(&str, Option<u32>)], remove: &[&str]) {
        let watch = |(order_id, since_version): &(&str, Option<u32>)| Watch {
            order_id: (*order_id).to_owned(),
            since_version: *since_version,
        };
        let request = FollowRequest {
            add: add.iter().map(watch).collect(),
            remove: remove.iter().map(|id| (*id).to_owned()).collect(),
        };
        self.requests.send(request).await.expect("open");
    }

    async fn next(&mut self) -> Result<FollowResponse, Status> {
        let message = timeout(PATIENCE, self.answers.message());
        message.await.expect("in time").map(|m| m.expect("open"))
    }

    /// The versions of the events of the next message, and whether it is an answer.
    async fn versions(&mut self) -> (Vec<u32>, bool) {
        let message = self.next().await.expect("a message");
        let versions = message.events.iter().map(|event| event.version);
        (versions.collect(), message.answer.is_some())
    }
}

#[test]
fn each_request_is_answered_once() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let service = Running::service_with(&database.url, &["--workers", "0"]).await;
            let orders = create(&service.api, 3).await;
            let ids: Vec<_> = orders.iter().map(ToString::to_string).collect();
            let mut feed = Feed::open(&service).await.expect("open");

            let unknown = "0198c5a0-5d5c-7abc-8def-0123456789ab";
            let add = [(ids[0].as_str(), None), (unknown, None), (&ids[1], Some(1))];
            feed.send(&add, &[]).await;
            let answer = feed.next().await.expect("an answer");
            let known: BTreeSet<_> = answer.events.iter().map(|e| e.order_id.as_str()).collect();
            assert_eq!(known, BTreeSet::from([ids[0].as_str()]));
            let refusals = answer.answer.expect("an answer").refusals;
            assert_eq!(refusals.len(), 1);
            assert_eq!(refusals[0].order_id, unknown);
            let error = refusals[0].error.as_ref().expect("a status");
            assert_eq!(error.code, i32::from(Code::NotFound));

            move_to(&service.api, orders[0], OrderStatus::Failed).await;
            assert_eq!(feed.versions().await, (vec![2], false));
            move_to(&service.api, orders[1], OrderStatus::Failed).await;
            assert_eq!(feed.versions().await, (vec![2], false));
            // One that is followed no longer is silent, and one that comes back is not.
            feed.send(&[], &[&ids[0]]).await;
            assert_eq!(feed.versions().await, (vec![], true));
            move_to(&service.api, orders[0], OrderStatus::Pending).await;
            feed.send(&[(&ids[0], Some(2)), (&ids[2], None)], &[]).await;
            let (mut versions, is_answer) = feed.versions().await;
            versions.sort_unstable();
            assert_eq!((versions, is_answer), (vec![1, 3], true));

            drop(feed);
            service.stop().await;
        }
    });
}

#[test]
fn broken_rules_and_a_drain_end_the_stream_with_a_reason() {
    run(async {
        let database = database!(Engine::Sqlite);
        let service = Running::service(&database.url).await;
        let mut feed = Feed::open(&service).await.expect("open");
        feed.send(&[("no-id", None)], &[]).await;
        let status = feed.next().await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("add/0/order_id"), "{status:?}");

        let mut feed = Feed::open(&service).await.expect("open");
        let many = vec![("0198c5a0-5d5c-7abc-8def-0123456789ab", None); 1001];
        feed.send(&many, &[]).await;
        let status = feed.next().await.expect_err("refused");
        assert!(
            status.message().contains("add: must have at most 1000"),
            "{status:?}"
        );

        let mut feed = Feed::open(&service).await.expect("open");
        service.begin_stop();
        let status = feed.next().await.expect_err("cut");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("shutting down"), "{status:?}");
        drop(feed);
        service.ended().await;
    });
}
