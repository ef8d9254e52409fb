//! Following orders over a service that comes and goes.

use std::sync::Arc;

use order_app::ctl::{Colours, ExitStatus};
use order_core::{Error, OrderId, OrderStatus};
use tokio_util::sync::CancellationToken;

use crate::{
    fake::{FakeApi, event, shutting_down},
    support::{orderctl, orderctl_until},
};

fn id(n: u128) -> OrderId {
    OrderId::from_uuid(uuid::Uuid::from_u128(n))
}

/// Version and status of each event that was printed.
fn printed(out: &str) -> Vec<(u64, String)> {
    out.lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let version = event["version"].as_u64().expect("a version");
            (
                version,
                event["status"].as_str().expect("a status").to_owned(),
            )
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_resumed_from_the_last_versions() {
    let api = Arc::new(FakeApi::new());
    let (a, b) = (id(1), id(2));
    api.state().streams.extend([
        Ok(vec![
            Ok(event(a, 1, OrderStatus::Pending)),
            Ok(event(b, 4, OrderStatus::Pending)),
            Ok(event(a, 2, OrderStatus::Processing)),
            Err(shutting_down()),
        ]),
        Err(Error::service_unavailable("connection refused")),
        Ok(vec![]),
        Ok(vec![
            Ok(event(a, 3, OrderStatus::Failed)),
            Ok(event(b, 5, OrderStatus::Cancelled)),
        ]),
    ]);
    let (a, b) = (a.to_string(), b.to_string());
    let args = ["watch", &a, &b, &a, "--until-final", "--output=json"];
    let watched = orderctl(&api, &args).await;
    assert_eq!(watched.status, ExitStatus::Ok, "{watched:?}");
    let expected = [
        (1, "PENDING"),
        (4, "PENDING"),
        (2, "PROCESSING"),
        (3, "FAILED"),
        (5, "CANCELLED"),
    ];
    assert_eq!(
        printed(&watched.out),
        expected.map(|(version, status)| (version, status.to_owned()))
    );
    assert_eq!(
        api.state().watched,
        [
            [None, None],
            [Some(2), Some(4)],
            [Some(2), Some(4)],
            [Some(2), Some(4)],
        ]
    );
    assert_eq!(
        watched.err,
        "the service is shutting down; watching again\n\
         the order service is unavailable: connection refused; watching again\n\
         the order service is unavailable: the stream has ended; watching again\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_there_is_told_at_once() {
    let api = Arc::new(FakeApi::new());
    api.state().streams.push_back(Err(shutting_down()));
    let watched = orderctl(&api, &["watch", &id(1).to_string()]).await;
    assert_eq!(watched.status, ExitStatus::Unavailable);
    assert_eq!(
        watched.err,
        "error: SHUTTING_DOWN: the service is shutting down\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_away_is_given_up() {
    let api = Arc::new(FakeApi::new());
    let lost = (0..1_000).map(|_| Err(shutting_down()));
    let opened = Ok(vec![Ok(event(id(1), 1, OrderStatus::Pending))]);
    api.state().streams.extend([opened].into_iter().chain(lost));
    let watched = orderctl(&api, &["watch", &id(1).to_string(), "--quiet"]).await;
    assert_eq!(watched.status, ExitStatus::Unavailable);
    assert_eq!(
        watched.err,
        "error: SHUTTING_DOWN: the service is shutting down\n"
    );
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_by_waiting_ends_the_watch() {
    let api = Arc::new(FakeApi::new());
    api.state().streams.push_back(Ok(vec![
        Ok(event(id(1), 1, OrderStatus::Pending)),
        Err(Error::OrderNotFound { order_id: id(1) }),
    ]));
    let watched = orderctl(&api, &["watch", &id(1).to_string()]).await;
    assert_eq!(watched.status, ExitStatus::NotFound);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_the_watch() {
    let api = Arc::new(FakeApi::new());
    let opened = Ok(vec![
        Ok(event(id(1), 1, OrderStatus::Pending)),
        Err(shutting_down()),
    ]);
    api.state().streams.push_back(opened);
    let stop = CancellationToken::new();
    let args = ["watch", &id(1).to_string(), "--output=json"];
    let watch = orderctl_until(&api, &args, &stop, Colours::default());
    // The watch is opened again, and then nothing comes for an hour.
    let interrupt = async {
        tokio::time::sleep(std::time::Duration::from_hours(1)).await;
        stop.cancel();
    };
    let (watched, ()) = tokio::join!(watch, interrupt);
    assert_eq!(watched.status, ExitStatus::Interrupted);
    assert_eq!(printed(&watched.out), [(1, "PENDING".to_owned())]);
    assert_eq!(
        watched.err,
        "the service is shutting down; watching again\n"
    );
    assert_eq!(api.state().watched, [[None], [Some(1)]]);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_was_settled_at_the_version_seen_ends_the_watch() {
    let api = Arc::new(FakeApi::new());
    orderctl(&api, &["create", "--user=u", "--amount=1"]).await;
    let order_id = *api.state().orders.keys().next().expect("created");
    api.change(order_id, |order| {
        order.status = OrderStatus::Processed;
        order.version = 2;
    });
    let args = ["watch", &order_id.to_string(), "--since=2", "--until-final"];
    let watched = orderctl(&api, &args).await;
    assert_eq!((watched.status, watched.out.as_str()), (ExitStatus::Ok, ""));
    assert!(api.state().watched.is_empty());
}
