//! Several processes on one database, with every pair of engines for hints and for events that
//! makes sense.

use futures_util::StreamExt as _;
use order_core::{CreateOrder, Money, OrderId, OrderStatus, UserId, WatchOrder};
use order_testkit::server::{Backend, kafka, redis};

use crate::{
    contract::{self, SLOW},
    support::{Database, Engine, PATIENCE, Running, Shape, System, context, database, run},
    websocket::{connect, hear, say},
};

/// Who carries hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Local,
    Redis,
    Kafka,
}

/// Who passes events between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Events {
    Postgres,
    Redis,
}

/// Nobody listens there: port 1 of this machine.
const REDIS_THAT_IS_AWAY: &str = "redis://127.0.0.1:1";

/// Flags for a pair of engines, in a corner of their own of the brokers that all tests share.
/// `Err` holds what can't be had here.
async fn flags(queue: Queue, events: Events, corner: &str) -> Result<Vec<String>, String> {
    let redis = async || match redis::shared().await {
        Backend::Available(server) => Ok(format!("{}?prefix={corner}", server.url)),
        Backend::Unavailable(reason) => Err(format!("Redis: {reason}")),
    };
    let queue = match queue {
        Queue::Local => "local".to_owned(),
        Queue::Redis => redis().await?,
        Queue::Kafka => match kafka::shared().await {
            Backend::Available(server) => {
                format!("kafka://{}/{corner}?group={corner}", server.brokers)
            }
            Backend::Unavailable(reason) => return Err(format!("Kafka: {reason}")),
        },
    };
    let events = match events {
        Events::Postgres => "postgres".to_owned(),
        Events::Redis => redis().await?,
    };
    Ok(["--queue-url", &queue, "--events-url", &events]
        .map(str::to_owned)
        .to_vec())
}

/// A name nobody else uses.
fn corner() -> String {
    format!("it-{:016x}", rand::random::<u64>())
}

/// The flags, or the end of the test as skipped.
macro_rules! flags {
    ($queue:ident, $events:ident) => {
        match flags(Queue::$queue, Events::$events, &corner()).await {
            Ok(flags) => flags,
            Err(reason) => order_testkit::skip!("{reason}"),
        }
    };
}

/// Starts a service that only serves.
async fn serve_only(database: &Database, flags: &[&str]) -> System {
    let flags = [flags, &["--workers", "0"]].concat();
    System::start(Shape::Split, database, &flags).await
}

/// Orders made through one service, worked on in another process and watched at a second
/// service, which sees each version once.
async fn work_and_events_cross_processes(database: &Database, flags: &[&str]) {
    const ORDERS: usize = 40;
    let making = serve_only(database, flags).await;
    let watching = serve_only(database, flags).await;
    let mut socket = connect(&watching).await;
    say(&mut socket, r#"{"subscribe":{"user":"scale"}}"#).await;
    assert_eq!(hear(&mut socket).await["subscribed"]["user"], "scale");

    let user = UserId::parse("scale").expect("valid");
    let money = Money::parse("100", "USD").expect("valid");
    let requests = vec![CreateOrder::new(user, money); ORDERS];
    let (near, far, ctx) = (making.remote(), watching.remote(), context());
    let made = near.create_orders(&ctx, requests).await;
    let ids: Vec<OrderId> = made
        .expect("answers")
        .into_iter()
        .map(|receipt| receipt.expect("created").order.id)
        .collect();
    let worker = Running::worker(database, flags).await;

    let watches = ids.iter().map(|id| WatchOrder {
        order_id: *id,
        since: Some(0),
    });
    let watch = far.watch_orders(&ctx, watches.collect()).await;
    let mut events = watch.expect("a stream");
    let mut seen = Vec::new();
    while seen.len() < 2 * ORDERS {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        let event = event.expect("in time").expect("open").expect("no error");
        seen.push((event.order_id, event.version, event.status));
    }
    seen.sort_unstable_by_key(|(id, version, _)| (*id, *version));
    let mut expected: Vec<_> = ids
        .iter()
        .flat_map(|id| {
            [
                (*id, 1, OrderStatus::Pending),
                (*id, 2, OrderStatus::Processed),
            ]
        })
        .collect();
    expected.sort_unstable_by_key(|(id, version, _)| (*id, *version));
    assert_eq!(seen, expected);

    let mut n_pushed = 0;
    while n_pushed < ORDERS {
        let event = hear(&mut socket).await;
        n_pushed += usize::from(event["status"] == "PROCESSED");
    }
    drop((events, socket));
    worker.stop().await;
    making.stop().await;
    watching.stop().await;
}

macro_rules! cells {
    ($($name:ident: $queue:ident, $events:ident;)+) => {$(
        mod $name {
            use super::*;

            #[test]
            fn contract_holds() {
                run(async {
                    let database = database!(Engine::Postgres);
                    let flags = flags!($queue, $events);
                    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                    let slow = [SLOW, &flags].concat();
                    let system = System::start(Shape::Split, &database, &slow).await;
                    contract::contract(system.remote()).await;
                    system.stop().await;
                });
            }

            #[test]
            fn processes_share_the_work_and_hear_of_it() {
                run(async {
                    let database = database!(Engine::Postgres);
                    let flags = flags!($queue, $events);
                    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                    work_and_events_cross_processes(&database, &flags).await;
                });
            }
        }
    )+};
}

cells! {
    local_and_postgres: Local, Postgres;
    local_and_redis: Local, Redis;
    redis_and_postgres: Redis, Postgres;
    redis_and_redis: Redis, Redis;
    kafka_and_postgres: Kafka, Postgres;
    kafka_and_redis: Kafka, Redis;
}

#[test]
fn everything_works_without_any_hint_or_notification() {
    run(async {
        // The brokers are away from the start to the end, so every hint and every event is
        // lost: the sweep finds the work, and reconcile the changes.
        let database = database!(Engine::Postgres);
        let flags = [
            "--queue-url",
            REDIS_THAT_IS_AWAY,
            "--events-url",
            REDIS_THAT_IS_AWAY,
        ];
        work_and_events_cross_processes(&database, &flags).await;
    });
}
