//! Tickets for streams, and the secret that seals page tokens.

use std::time::Duration;

use order_core::{TICKET_LIFETIME, TicketGrant};
use tokio::task::JoinSet;

use super::{
    LEASE, Subject,
    scene::{Scene, new_ticket, user},
};

async fn take(scene: &Scene<'_>, n: u8) -> Option<TicketGrant> {
    let taken = scene.store.take_ticket(&[n; 32]).await;
    taken.expect("take_ticket answers")
}

/// A ticket opens one stream of its user.
pub async fn ticket_is_taken_once(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    for ticket in [new_ticket(1, LEASE), new_ticket(2, LEASE)] {
        scene.store.put_ticket(&ticket).await.expect("is stored");
    }

    let grant = TicketGrant {
        user_id: user("user-1"),
    };
    assert_eq!(take(&scene, 1).await, Some(grant.clone()));
    assert_eq!(take(&scene, 1).await, None);
    assert_eq!(take(&scene, 2).await, Some(grant));
    assert_eq!(take(&scene, 3).await, None, "nobody made this one");
}

/// A caller that missed the answer stores its ticket again; it is still one ticket.
pub async fn ticket_that_is_stored_twice_is_one(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let ticket = new_ticket(1, LEASE);
    for _ in 0..2 {
        scene.store.put_ticket(&ticket).await.expect("is stored");
    }
    assert_eq!(take(&scene, 1).await, Some(ticket.grant));
    assert_eq!(take(&scene, 1).await, None);
}

/// Of many takers at once one gets the ticket.
pub async fn one_of_many_concurrent_takers_gets_the_ticket(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let ticket = new_ticket(1, LEASE);
    scene.store.put_ticket(&ticket).await.expect("is stored");
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let store = subject.store();
        calls.spawn(async move { store.take_ticket(&[1; 32]).await });
    }

    let taken = calls.join_all().await;

    let granted: Vec<_> = taken
        .into_iter()
        .filter_map(|taken| taken.expect("take_ticket answers"))
        .collect();
    assert_eq!(granted, [ticket.grant]);
}

/// A ticket ends when its lifetime is over, counted from when it was stored.
pub async fn expired_ticket_is_worth_nothing(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let expired = new_ticket(1, Duration::ZERO);
    scene.store.put_ticket(&expired).await.expect("is stored");
    subject.tick().await;
    assert_eq!(take(&scene, 1).await, None);

    // Orders around it tell the database's time.
    let earliest = scene.create_due().await.created_at + TICKET_LIFETIME;
    let ticket = new_ticket(2, TICKET_LIFETIME);
    let expires_at = scene.store.put_ticket(&ticket).await.expect("is stored");
    let latest = scene.create_due().await.created_at + TICKET_LIFETIME;
    assert!(
        (earliest..=latest).contains(&expires_at),
        "{earliest}, {expires_at}, {latest}"
    );
}

/// Whoever asks for the secret gets the same, however often and through which handle.
pub async fn page_token_key_is_shared(subject: &dyn Subject) {
    let scene = Scene::new(subject);
    let mut stores = vec![subject.store(), subject.store()];
    stores.extend(subject.another_store().await);
    let mut calls = JoinSet::new();
    for store in stores {
        calls.spawn(async move { store.page_token_key().await.expect("answers") });
    }

    let keys = calls.join_all().await;

    let now = scene.store.page_token_key().await.expect("answers");
    assert!(keys.iter().all(|key| *key == now));
    let mut bytes = now.as_bytes().to_vec();
    bytes.dedup();
    assert!(bytes.len() > 8, "this is not random");
}
