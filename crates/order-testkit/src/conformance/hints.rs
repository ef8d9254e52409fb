//! Hints: what is sent arrives, is shared by the consumers, and comes again only if it was
//! not acknowledged.
//!
//! A hint may always come twice, so the cases ask for sets. They wait for conditions, and
//! long: a broker may take seconds to share its partitions out anew.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use order_core::{HintCapabilities, HintConsumer, HintQueue, OrderId};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use uuid::Uuid;

/// How long a condition may take to become true. Only a failing case waits this long.
const DEADLINE: Duration = Duration::from_mins(1);

/// How long a case tries one thing before it tries the next, where either may be what
/// brings the condition about.
const TRY: Duration = Duration::from_secs(1);

/// The most hints a consumer asks for at once.
const LIMIT: usize = 512;

/// Enough hints for every partition of a broker to get some.
const N_SPREAD: usize = 64;

/// A broker's queue under test, empty and without consumers.
#[async_trait]
pub trait HintSubject: Send + Sync + 'static {
    /// Another handle on the queue, as another process would open it.
    async fn queue(&self) -> Arc<dyn HintQueue>;

    /// What every handle must say that it can do.
    fn capabilities(&self) -> HintCapabilities;

    /// Makes the broker lose all it has: the hints, the queue, the group.
    async fn wipe(&self);

    /// Puts one or more messages into the queue that are no hints. `false` where only hints fit in.
    async fn send_foreign(&self) -> bool;
}

/// Writes one `#[tokio::test]` per case of the contract of `HintQueue`.
///
/// Takes the path of an `async fn() -> Option<impl HintSubject>` that makes a fresh subject
/// for each case. `None` skips the case; the function must then say so on standard error.
#[macro_export]
macro_rules! hint_conformance {
    ($make:path) => {
        $crate::hint_conformance! { $make;
            capabilities_are_told
            hints_arrive
            hints_from_before_the_first_consumer_arrive
            empty_batch_does_no_harm
            large_batch_arrives_in_pieces
            consumers_share_the_hints
            hints_of_a_vanished_consumer_come_to_another
            hints_of_a_closed_consumer_come_to_another
            acknowledged_hints_do_not_come_again
            consumer_goes_on_after_close
            cancelled_receive_does_no_harm
            foreign_messages_are_skipped
            queue_goes_on_after_a_wipe
        }
    };
    ($make:path; $($case:ident)+) => {
        $(
            #[tokio::test]
            async fn $case() {
                if let Some(subject) = $make().await {
                    $crate::conformance::hints::$case(&subject).await;
                }
            }
        )+
    };
}

fn new_hints(n: usize) -> Vec<OrderId> {
    std::iter::repeat_with(|| OrderId::from_uuid(Uuid::from_u128(rand::random())))
        .take(n)
        .collect()
}

async fn send(queue: &dyn HintQueue, hints: &[OrderId]) {
    queue.send(hints).await.expect("hints are sent");
}

async fn receive(consumer: &mut dyn HintConsumer, deadline: Instant) -> Vec<OrderId> {
    let hints = timeout_at(deadline, consumer.receive(LIMIT))
        .await
        .expect("hints arrive in time")
        .expect("hints are received");
    assert!(
        (1..=LIMIT).contains(&hints.len()),
        "{} hints at once",
        hints.len()
    );
    hints
}

/// Receives until all of `wanted` have come, and gives all that came.
async fn receive_all(consumer: &mut dyn HintConsumer, wanted: &[OrderId]) -> BTreeSet<OrderId> {
    let deadline = Instant::now() + DEADLINE;
    let mut missing: BTreeSet<_> = wanted.iter().copied().collect();
    let mut received = BTreeSet::new();
    while !missing.is_empty() {
        for hint in receive(consumer, deadline).await {
            missing.remove(&hint);
            received.insert(hint);
        }
    }
    received
}

async fn acknowledge(consumer: &mut dyn HintConsumer) {
    consumer
        .acknowledge()
        .await
        .expect("hints are acknowledged");
}

/// Every handle says what the broker can do.
pub async fn capabilities_are_told(subject: &dyn HintSubject) {
    let queue = subject.queue().await;
    assert_eq!(queue.capabilities(), subject.capabilities());
    assert_eq!(queue.n_foreign(), 0);
}

/// A consumer that waits gets what another process sends.
pub async fn hints_arrive(subject: &dyn HintSubject) {
    let (near, far) = (subject.queue().await, subject.queue().await);
    let mut consumer = far.consumer();
    let hints = new_hints(3);

    let (received, ()) = tokio::join!(receive_all(&mut *consumer, &hints), send(&*near, &hints));

    assert_eq!(received, hints.into_iter().collect());
}

/// Nobody has to listen when a hint is sent.
pub async fn hints_from_before_the_first_consumer_arrive(subject: &dyn HintSubject) {
    let hints = new_hints(N_SPREAD);
    send(&*subject.queue().await, &hints).await;

    let queue = subject.queue().await;
    receive_all(&mut *queue.consumer(), &hints).await;
}

/// Sending nothing is no error and sends nothing.
pub async fn empty_batch_does_no_harm(subject: &dyn HintSubject) {
    let queue = subject.queue().await;
    let hints = new_hints(1);
    send(&*queue, &[]).await;
    send(&*queue, &hints).await;

    receive_all(&mut *queue.consumer(), &hints).await;
}

/// A batch of any size arrives completely, never more at once than was asked for.
pub async fn large_batch_arrives_in_pieces(subject: &dyn HintSubject) {
    let queue = subject.queue().await;
    let mut consumer = queue.consumer();
    let hints = new_hints(5000);
    send(&*queue, &hints).await;

    let received = receive_all(&mut *consumer, &hints).await;

    assert_eq!(received.len(), hints.len());
}

/// What the consumers of [`consumers_share_the_hints`] get, by consumer.
async fn next_share(
    takers: &mut JoinSet<(usize, Box<dyn HintConsumer>, Vec<OrderId>)>,
    deadline: Instant,
) -> (usize, Vec<OrderId>) {
    let (idx, consumer, hints) = timeout_at(deadline, takers.join_next())
        .await
        .expect("hints arrive in time")
        .expect("there are consumers")
        .expect("consumers do not panic");
    take_share(takers, idx, consumer, deadline);
    (idx, hints)
}

fn take_share(
    takers: &mut JoinSet<(usize, Box<dyn HintConsumer>, Vec<OrderId>)>,
    idx: usize,
    mut consumer: Box<dyn HintConsumer>,
    deadline: Instant,
) {
    takers.spawn(async move {
        let hints = receive(&mut *consumer, deadline).await;
        acknowledge(&mut *consumer).await;
        (idx, consumer, hints)
    });
}

/// Two consumers get all hints between them and, once both are at work, no hint twice.
pub async fn consumers_share_the_hints(subject: &dyn HintSubject) {
    let deadline = Instant::now() + DEADLINE;
    let queues = [subject.queue().await, subject.queue().await];
    let mut takers = JoinSet::new();
    for (idx, queue) in queues.iter().enumerate() {
        take_share(&mut takers, idx, queue.consumer(), deadline);
    }
    let is_shared = subject.capabilities().is_shared;
    // Both have their share of the queue when both have got something.
    let mut at_work = BTreeSet::new();
    let mut missing = BTreeSet::new();
    while is_shared && at_work.len() < queues.len() {
        assert!(Instant::now() < deadline, "one consumer gets nothing");
        let hints = new_hints(N_SPREAD);
        send(&*queues[0], &hints).await;
        missing.extend(hints);
        while let Ok((idx, hints)) = timeout(TRY, next_share(&mut takers, deadline)).await {
            at_work.insert(idx);
            missing.retain(|hint| !hints.contains(hint));
            if missing.is_empty() {
                break;
            }
        }
    }

    let sent: BTreeSet<_> = new_hints(1000).into_iter().collect();
    send(&*queues[1], &sent.iter().copied().collect::<Vec<_>>()).await;
    missing.extend(sent.iter().copied());

    let mut n_received = 0;
    while !missing.is_empty() {
        let (_, hints) = next_share(&mut takers, deadline).await;
        n_received += hints.iter().filter(|hint| sent.contains(hint)).count();
        missing.retain(|hint| !hints.contains(hint));
    }
    if is_shared {
        assert_eq!(n_received, sent.len(), "hints came twice");
    }
}

/// What a consumer got and did not acknowledge when its process died comes to another.
pub async fn hints_of_a_vanished_consumer_come_to_another(subject: &dyn HintSubject) {
    if !subject.capabilities().redelivers {
        return;
    }
    let hints = new_hints(N_SPREAD);
    let queue = subject.queue().await;
    send(&*queue, &hints).await;
    let mut consumer = queue.consumer();
    receive_all(&mut *consumer, &hints).await;
    drop((consumer, queue));

    let other = subject.queue().await;
    receive_all(&mut *other.consumer(), &hints).await;
}

/// So does what a consumer had when it left in good order.
pub async fn hints_of_a_closed_consumer_come_to_another(subject: &dyn HintSubject) {
    if !subject.capabilities().redelivers {
        return;
    }
    let hints = new_hints(N_SPREAD);
    let (queue, other) = (subject.queue().await, subject.queue().await);
    send(&*queue, &hints).await;
    let mut consumer = queue.consumer();
    receive_all(&mut *consumer, &hints).await;
    consumer.close().await;

    receive_all(&mut *other.consumer(), &hints).await;
}

/// What was acknowledged is done with, whoever comes next.
pub async fn acknowledged_hints_do_not_come_again(subject: &dyn HintSubject) {
    let (queue, other) = (subject.queue().await, subject.queue().await);
    let done = new_hints(N_SPREAD);
    send(&*queue, &done).await;
    let mut consumer = queue.consumer();
    receive_all(&mut *consumer, &done).await;
    acknowledge(&mut *consumer).await;
    consumer.close().await;

    let later = new_hints(N_SPREAD);
    send(&*queue, &later).await;
    let received = receive_all(&mut *other.consumer(), &later).await;

    assert_eq!(received, later.into_iter().collect());
}

/// A consumer that was closed joins again when it is used; closing needs no connection,
/// and acknowledging nothing is no error.
pub async fn consumer_goes_on_after_close(subject: &dyn HintSubject) {
    let queue = subject.queue().await;
    let mut consumer = queue.consumer();
    consumer.close().await;
    for _ in 0..2 {
        let hints = new_hints(1);
        send(&*queue, &hints).await;
        receive_all(&mut *consumer, &hints).await;
        acknowledge(&mut *consumer).await;
        acknowledge(&mut *consumer).await;
        consumer.close().await;
    }
}

/// A receive that is dropped, waiting or in the middle of something, leaves a consumer
/// that gets what is sent afterwards.
pub async fn cancelled_receive_does_no_harm(subject: &dyn HintSubject) {
    let queue = subject.queue().await;
    let mut consumer = queue.consumer();
    for micros in [0, 100, 300, 1000, 3000, 10_000, 30_000] {
        send(&*queue, &new_hints(1)).await;
        let patience = Duration::from_micros(micros);
        let _got_or_lost = timeout(patience, consumer.receive(LIMIT)).await;
        let _got_or_lost = timeout(patience, consumer.receive(LIMIT)).await;
    }

    let hints = new_hints(N_SPREAD);
    send(&*queue, &hints).await;
    receive_all(&mut *consumer, &hints).await;
    acknowledge(&mut *consumer).await;
}

/// A message that is no hint is counted and does not stop what comes after it.
pub async fn foreign_messages_are_skipped(subject: &dyn HintSubject) {
    const N_FOREIGN: u64 = 3;
    let deadline = Instant::now() + DEADLINE;
    let queue = subject.queue().await;
    let mut consumer = queue.consumer();
    let mut sent = BTreeSet::new();
    for _ in 0..N_FOREIGN {
        let hints = new_hints(1);
        if !subject.send_foreign().await {
            return;
        }
        send(&*queue, &hints).await;
        sent.extend(hints);
    }
    let wanted: Vec<_> = sent.iter().copied().collect();
    let mut received = receive_all(&mut *consumer, &wanted).await;
    acknowledge(&mut *consumer).await;
    // In another partition they may come later than all hints.
    while queue.n_foreign() < N_FOREIGN {
        let hints = new_hints(N_SPREAD);
        send(&*queue, &hints).await;
        sent.extend(hints);
        received.extend(receive(&mut *consumer, deadline).await);
        acknowledge(&mut *consumer).await;
    }

    assert!(received.is_subset(&sent), "a foreign message is a hint");
}

/// A broker that lost everything is put in order again by whoever uses it.
pub async fn queue_goes_on_after_a_wipe(subject: &dyn HintSubject) {
    let queue = subject.queue().await;
    let mut consumer = queue.consumer();
    let before = new_hints(N_SPREAD);
    send(&*queue, &before).await;
    receive_all(&mut *consumer, &before).await;

    subject.wipe().await;

    // What was received before the wipe may be acknowledged after it; nobody has to care.
    let _gone = consumer.acknowledge().await;
    let deadline = Instant::now() + DEADLINE;
    // It works as before when a whole batch arrives. Until then hints may be lost, even those
    // that were sent: a consumer may still wait for what the old queue would have had next.
    loop {
        assert!(Instant::now() < deadline, "hints are lost after a wipe");
        let hints = new_hints(N_SPREAD);
        let _sent_or_lost = queue.send(&hints).await;
        let mut missing: BTreeSet<_> = hints.into_iter().collect();
        while let Ok(received) = timeout(TRY, consumer.receive(LIMIT)).await {
            let Ok(received) = received else {
                sleep(TRY / 10).await;
                break;
            };
            missing.retain(|hint| !received.contains(hint));
            if missing.is_empty() {
                acknowledge(&mut *consumer).await;
                return;
            }
        }
    }
}
