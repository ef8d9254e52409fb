//! What is wrong with a connection is told apart, and never with the password.

use order_adapters::redis::{RedisEventConfig, RedisEventTransport};
use order_core::{BrokerError, EventTransport, HintQueue, OrderId};
use order_testkit::server::free_port;
use tokio::time::timeout;
use uuid::Uuid;

use super::*;
use crate::events::{Recorder, order};

const PASSWORD: &str = "open-sesame";

pub(crate) fn is_unreachable(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Unreachable { .. })
}

fn is_refused(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Refused { .. })
}

/// What sending, receiving and listening end with.
async fn errors(url: &str) -> Vec<BrokerError> {
    let queue = queue(url);
    let transport = RedisEventTransport::new(&parse(url), RedisEventConfig::default());
    let hint = OrderId::from_uuid(Uuid::nil());
    let errors = async {
        vec![
            queue.send(&[hint]).await.unwrap_err(),
            queue.consumer().receive(1).await.unwrap_err(),
            transport
                .listen(Recorder::new(&[order(1)]))
                .await
                .unwrap_err(),
        ]
    };
    let errors = timeout(DEADLINE, errors).await.expect("in time");
    for error in &errors {
        let chain = error.chain();
        assert!(chain.contains("://127.0.0.1:"), "{chain}");
        assert!(!chain.contains(PASSWORD), "{chain}");
    }
    errors
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", free_port().unwrap());
    for error in errors(&url).await {
        assert!(is_unreachable(&error), "{}", error.chain());
    }
}

#[tokio::test]
async fn wrong_password_is_refused() {
    let server = available!(own_server(&[("requirepass", "another")]));
    let address = server.url().rsplit_once('@').unwrap().1.to_owned();
    for url in [
        format!("redis://:{PASSWORD}@{address}"),
        format!("redis://nobody:{PASSWORD}@{address}"),
        format!("redis://{address}"),
    ] {
        for error in errors(&url).await {
            assert!(is_refused(&error), "{url}: {}", error.chain());
        }
    }
    queue(&server.url()).send(&[]).await.unwrap();
}

#[tokio::test]
async fn missing_privilege_is_refused() {
    let server = available!(own_server(&[]));
    let raw = Raw::connect(&server.url()).await;
    raw.run::<()>(&format!("ACL SETUSER guest on >{PASSWORD} +hello +ping"))
        .await;
    let address = server.url().split_off("redis://".len());
    for error in errors(&format!("redis://guest:{PASSWORD}@{address}")).await {
        assert!(is_refused(&error), "{}", error.chain());
    }
}

#[tokio::test]
async fn certificate_has_to_be_trusted() {
    if let Err(reason) = is_installed() {
        skip!("Redis: {reason:#}");
    }
    let server = match RedisServer::start_with_tls().await {
        Err(reason) if reason.to_string() == "openssl is not installed" => skip!("{reason}"),
        server => server.unwrap(),
    };
    let url = server.tls_url().unwrap();
    for error in errors(&url).await {
        assert!(is_refused(&error), "{}", error.chain());
        assert!(error.chain().contains("certificate"), "{}", error.chain());
    }

    let trusting = queue(&format!("{url}?ca={}", server.certificate().display()));
    let hints = [OrderId::from_uuid(Uuid::nil())];
    trusting.send(&hints).await.unwrap();
    assert_eq!(trusting.consumer().receive(5).await.unwrap(), hints);
}

#[tokio::test]
async fn server_that_answers_wrongly_has_failed() {
    let (url, prefix) = available!(private());
    let raw = Raw::connect(&url).await;
    raw.run::<()>(&format!("SET {prefix}:jobs x")).await;
    let queue = queue(&url);
    for error in [
        queue
            .send(&[OrderId::from_uuid(Uuid::nil())])
            .await
            .unwrap_err(),
        queue.consumer().receive(1).await.unwrap_err(),
    ] {
        let is_failed = matches!(error, BrokerError::Failed { .. });
        assert!(is_failed, "{}", error.chain());
        assert!(error.chain().contains("WRONGTYPE"), "{}", error.chain());
    }
}

#[tokio::test]
async fn server_that_stands_still_is_unreachable() {
    let server = available!(own_server(&[]));
    let config = RedisEventConfig {
        ping_interval: Duration::from_millis(20),
    };
    let transport = RedisEventTransport::new(&parse(&server.url()), config);
    let recorder = Recorder::new(&[]);
    let queue = queue(&server.url());
    queue
        .send(&[OrderId::from_uuid(Uuid::nil())])
        .await
        .unwrap();
    let listening = transport.listen(recorder.clone());
    let sending = async {
        recorder.wait_for_resyncs(1).await;
        server.freeze().unwrap();
        // One on a connection that exists, and one that has to make it.
        let old = queue.send(&[OrderId::from_uuid(Uuid::nil())]).await;
        let new = queue.send(&[OrderId::from_uuid(Uuid::nil())]).await;
        [old.unwrap_err(), new.unwrap_err()]
    };

    let (lost, unsent) = tokio::join!(listening, sending);

    for error in [lost.unwrap_err()].into_iter().chain(unsent) {
        assert!(is_unreachable(&error), "{}", error.chain());
    }
    server.thaw().unwrap();
    queue
        .send(&[OrderId::from_uuid(Uuid::nil())])
        .await
        .unwrap();
}
