//! Events that are kept until they are published, and the right to publish them.

use std::{collections::BTreeMap, slice, sync::Arc, time::Duration};

use order_core::{
    Cause, EventOutbox, ExternalId, Insertion, JobToken, NewOrder, OrderEvent, OrderId,
    OrderStatus, OutboxEntry, Started, Verdict, Version,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    LEASE, Subject,
    scene::{Scene, change_to, only, processing},
};

/// Two relays.
const ANN: Uuid = Uuid::from_u128(1);
const BOB: Uuid = Uuid::from_u128(2);

/// A scene whose outbox is enabled.
async fn enabled(subject: &dyn Subject) -> (Scene<'_>, Arc<dyn EventOutbox>) {
    let outbox = subject.outbox();
    outbox.enable().await.expect("the outbox can be enabled");
    (Scene::new(subject), outbox)
}

async fn read(outbox: &dyn EventOutbox) -> Vec<OutboxEntry> {
    outbox.read(10_000).await.expect("read answers")
}

async fn remove(outbox: &dyn EventOutbox, entries: &[OutboxEntry]) {
    let positions: Vec<_> = entries.iter().map(|entry| entry.position).collect();
    outbox.remove(&positions).await.expect("remove answers");
}

/// What is kept of each order, as it is read.
fn by_order(entries: Vec<OutboxEntry>) -> BTreeMap<OrderId, Vec<OrderEvent>> {
    let mut by_order = BTreeMap::<_, Vec<_>>::new();
    for entry in entries {
        let event = entry.event.expect("the event can be read");
        by_order.entry(event.order_id).or_default().push(event);
    }
    by_order
}

fn versions(events: &[OrderEvent]) -> Vec<Version> {
    events.iter().map(|event| event.version).collect()
}

async fn started(scene: &Scene<'_>, token: JobToken) {
    let started = only(scene.queue.start(&[processing(token)]).await);
    assert!(matches!(started, Started::Applied(Some(_))), "{started:?}");
}

/// An order whose history has many versions: processing, failed, redriven, cancelled.
async fn eventful(scene: &Scene<'_>) -> OrderId {
    let (_, token) = scene.create_leased().await;
    started(scene, token).await;
    let failed = scene.fail(token).await;
    let redriven = scene.move_to(&failed, OrderStatus::Pending).await;
    let cause = Cause::new("CANCELLED_BY_USER", "no longer wanted");
    let change = change_to(&redriven, OrderStatus::Cancelled, Some(cause));
    scene.commit(change).await;
    token.order_id
}

/// What happened before the outbox was enabled is not kept; what happens after is, also to
/// orders from before.
pub async fn outbox_keeps_nothing_until_it_is_enabled(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let outbox = subject.outbox();
    eventful(&scene).await;
    let (order, token) = scene.create_leased().await;
    assert_eq!(read(&*outbox).await, []);

    outbox.enable().await.expect("the outbox can be enabled");

    assert_eq!(read(&*outbox).await, []);
    scene.complete(token, Verdict::Processed).await;
    let kept = by_order(read(&*outbox).await);
    let events = scene.events(order.id).await;
    assert_eq!(kept, BTreeMap::from([(order.id, events[1..].to_vec())]));
}

/// Whatever moves an order, each version is kept, once, as the history has it.
pub async fn every_version_of_every_order_is_kept_once(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    let mut order_ids = vec![eventful(&scene).await];
    order_ids.push(scene.create_due().await.id);
    order_ids.push(scene.create(&scene.keyed_order("k", 1)).await.id);
    let mut slice = scene.new_orders(3, None);
    slice.push(scene.keyed_order("l", 1));
    for created in scene.store.create(&slice).await {
        order_ids.push(created.expect("a new order is stored").order.id);
    }
    let (order, token) = scene.create_leased().await;
    let retry = Verdict::Retry {
        delay: Duration::ZERO,
        error: "not now".to_owned(),
        is_counted: true,
    };
    scene.complete(token, retry).await;
    scene.complete(token, Verdict::Processed).await;
    order_ids.push(order.id);

    let entries = read(&*outbox).await;

    let mut expected = BTreeMap::new();
    for order_id in order_ids {
        expected.insert(order_id, scene.events(order_id).await);
    }
    assert_eq!(by_order(entries), expected);
    let eventful = expected.values().next().expect("it was the first");
    assert_eq!(versions(eventful), [1, 2, 3, 4, 5]);
    assert!(eventful[2].cause.is_some() && eventful[4].cause.is_some());
}

/// What changes nothing is no event.
pub async fn refused_writes_leave_no_entry(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    let named = NewOrder {
        external_id: ExternalId::parse("x").ok(),
        ..scene.keyed_order("k", 1)
    };
    let order = scene.create(&named).await;
    let (_, token) = scene.create_leased().await;
    let entries = read(&*outbox).await;
    assert_eq!(entries.len(), 2);

    assert_eq!(scene.create_one(&named).await.insertion, Insertion::SameId);
    let same_key = scene.create_one(&scene.keyed_order("k", 1)).await;
    assert_eq!(same_key.insertion, Insertion::SameKey);
    let other_content = NewOrder {
        money: order_core::Money::from_minor_units(1, "EUR").expect("a valid amount"),
        key: None,
        ..named.clone()
    };
    let name_taken = NewOrder {
        id: scene.id(),
        key: None,
        ..named.clone()
    };
    for refused in [other_content, name_taken, scene.keyed_order("k", 2)] {
        let answer = scene.store.create(slice::from_ref(&refused)).await;
        assert!(answer[0].is_err(), "{answer:?}");
    }
    let mut stale = change_to(&order, OrderStatus::Cancelled, None);
    stale.expected_version = 7;
    scene.commit(stale).await;
    let old = JobToken {
        attempt: token.attempt + 1,
        ..token
    };
    scene.complete(old, Verdict::Processed).await;

    assert_eq!(read(&*outbox).await, entries);
}

/// However often it is enabled, an event is kept once.
pub async fn enabling_twice_keeps_events_once(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    let order_id = eventful(&scene).await;

    outbox
        .enable()
        .await
        .expect("the outbox is enabled already");

    assert_eq!(read(&*outbox).await.len(), 5, "nothing was lost");
    scene.create_due().await;
    assert_eq!(read(&*outbox).await.len(), 6);
    assert_eq!(scene.events(order_id).await.len(), 5);
}

/// Disabling forgets what is kept; enabling begins anew.
pub async fn disabled_outbox_is_empty_and_keeps_nothing(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    eventful(&scene).await;
    let before = read(&*outbox).await;

    for _ in 0..2 {
        outbox.disable().await.expect("the outbox can be disabled");
    }

    assert_eq!(read(&*outbox).await, []);
    eventful(&scene).await;
    assert_eq!(read(&*outbox).await, []);
    outbox.enable().await.expect("the outbox can be enabled");
    scene.create_due().await;
    let after = read(&*outbox).await;
    assert_eq!(after.len(), 1);
    assert!(before.iter().all(|old| old.position < after[0].position));
}

/// The outbox belongs to the database: who enabled it does not matter.
pub async fn events_of_every_process_are_kept(subject: &dyn Subject) {
    let Some(other) = subject.another_store().await else {
        return;
    };
    let (scene, outbox) = enabled(subject).await;
    let new = scene.new_order(None);

    only(other.create(slice::from_ref(&new)).await);

    let kept = by_order(read(&*outbox).await);
    assert_eq!(kept, BTreeMap::from([(new.id, scene.events(new.id).await)]));
}

/// What is removed stays away, the rest stays there, and what is unknown does no harm.
pub async fn removed_entries_do_not_come_back(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    eventful(&scene).await;
    let entries = read(&*outbox).await;

    for _ in 0..2 {
        remove(&*outbox, &entries[..2]).await;
        assert_eq!(read(&*outbox).await, entries[2..]);
    }
    outbox.remove(&[]).await.expect("nothing is removed");
    outbox.remove(&[i64::MAX, -1]).await.expect("are ignored");

    assert_eq!(read(&*outbox).await, entries[2..]);
}

/// A relay that is late in removing what it published removes nothing else.
pub async fn positions_are_never_used_again(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    eventful(&scene).await;
    let old = read(&*outbox).await;
    remove(&*outbox, &old).await;
    eventful(&scene).await;
    let new = read(&*outbox).await;

    remove(&*outbox, &old).await;

    assert_eq!(read(&*outbox).await, new);
    assert_eq!(new.len(), old.len());
}

/// Slices as long as they get.
pub async fn large_slices_are_kept_and_removed(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    let tokens = scene.create_many_leased(512).await;
    let starts: Vec<_> = tokens.iter().copied().map(processing).collect();
    for started in scene.queue.start(&starts).await {
        started.expect("start answers");
    }

    let kept = by_order(outbox.read(1_000).await.expect("read answers"));

    assert_eq!(kept.values().map(Vec::len).sum::<usize>(), 1_000);
    let rest = read(&*outbox).await;
    assert_eq!(rest.len(), 1_024);
    remove(&*outbox, &rest).await;
    assert_eq!(read(&*outbox).await, []);
}

/// However little is read at once, the versions of an order come one after the other.
pub async fn entries_of_an_order_are_read_by_version(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    for _ in 0..3 {
        eventful(&scene).await;
    }
    let tokens = scene.create_many_leased(4).await;
    let starts: Vec<_> = tokens.iter().copied().map(processing).collect();
    scene.queue.start(&starts).await;
    assert_eq!(outbox.read(0).await.expect("read answers"), []);

    let mut entries = Vec::new();
    loop {
        let read = outbox.read(3).await.expect("read answers");
        assert!(read.len() <= 3);
        if read.is_empty() {
            break;
        }
        remove(&*outbox, &read).await;
        entries.extend(read);
    }

    let n_versions = by_order(entries)
        .into_values()
        .map(|events| {
            let versions = versions(&events);
            let last = Version::try_from(versions.len()).expect("few versions");
            assert_eq!(versions, (1..=last).collect::<Vec<_>>());
            last
        })
        .collect::<Vec<_>>();
    assert_eq!(n_versions, [5, 5, 5, 2, 2, 2, 2]);
}

async fn acquire(outbox: &dyn EventOutbox, relay: Uuid, lease: Duration) -> bool {
    let acquired = outbox.acquire(relay, lease).await;
    acquired.expect("acquire answers")
}

/// Whoever has the right keeps it, and nobody else can give it back.
pub async fn right_to_publish_is_exclusive(subject: &dyn Subject) {
    let outbox = subject.outbox();
    assert!(acquire(&*outbox, ANN, LEASE).await);
    assert!(!acquire(&*outbox, BOB, LEASE).await);
    assert!(acquire(&*outbox, ANN, LEASE).await, "a renewal");

    outbox.release(BOB).await.expect("release answers");
    assert!(!acquire(&*outbox, BOB, LEASE).await);

    for _ in 0..2 {
        outbox.release(ANN).await.expect("release answers");
    }
    assert!(acquire(&*outbox, BOB, LEASE).await);
    assert!(!acquire(&*outbox, ANN, LEASE).await);
}

/// A right that ran out may be renewed by whoever had it, or taken by another.
pub async fn right_to_publish_ends_with_its_lease(subject: &dyn Subject) {
    let outbox = subject.outbox();
    assert!(acquire(&*outbox, ANN, Duration::ZERO).await);
    subject.tick().await;
    assert!(
        acquire(&*outbox, ANN, Duration::ZERO).await,
        "a late renewal"
    );
    subject.tick().await;

    assert!(acquire(&*outbox, BOB, LEASE).await);

    assert!(!acquire(&*outbox, ANN, LEASE).await);
    outbox.release(ANN).await.expect("release answers");
    assert!(!acquire(&*outbox, ANN, LEASE).await, "it is no longer hers");
}

/// Of many relays at once one gets the right.
pub async fn one_of_many_concurrent_relays_gets_the_right(subject: &dyn Subject) {
    let mut calls = JoinSet::new();
    for n in 0..8 {
        let outbox = subject.outbox();
        calls.spawn(async move { acquire(&*outbox, Uuid::from_u128(n), LEASE).await });
    }

    let acquired = calls.join_all().await;

    assert_eq!(acquired.iter().filter(|acquired| **acquired).count(), 1);
}

/// An entry whose event is gone is read without it, so that it can be removed; the others keep
/// their events.
pub async fn entry_without_its_event_holds_up_no_others(subject: &dyn Subject) {
    let (scene, outbox) = enabled(subject).await;
    let (gone, token) = scene.create_leased().await;
    scene.complete(token, Verdict::Processed).await;
    let other = scene.create_due().await;
    if !subject.remove_order(gone.id).await {
        return;
    }

    let entries = read(&*outbox).await;

    let events: Vec<_> = entries.iter().map(|entry| entry.event.as_ref()).collect();
    let other = scene.events(other.id).await;
    assert_eq!(events, [None, None, other.first()]);
    remove(&*outbox, &entries).await;
    assert_eq!(read(&*outbox).await, []);
}
