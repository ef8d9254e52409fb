use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use order_core::{
    Fingerprint, IdGen as _, IdempotencyKey, KeyClaim, KeyOperation, Money, NewOrder, UserId,
};
use order_testkit::{clock::SeededIds, conformance::identity};
use rusqlite::trace::{TraceEvent, TraceEventCodes};

use super::*;
use crate::sqlite::open;

/// The beginnings of the statements that run while an order is stored.
fn statements_of(connection: &mut Connection, new: &NewOrder) -> Vec<String> {
    let statements = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&statements);
    let note = move |event: TraceEvent<'_>| {
        if let TraceEvent::Stmt(_, sql) = event {
            let words: Vec<_> = sql.split_whitespace().take(3).collect();
            seen.lock().expect("not poisoned").push(words.join(" "));
        }
    };
    connection
        .trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(note))
        .expect("is traced");
    let created = create(connection, 0, new, identity().id)
        .expect("runs")
        .expect("is stored");
    assert!(created.is_new());
    let mut statements = statements.lock().expect("not poisoned");
    std::mem::take(&mut *statements)
}

#[test]
fn order_without_a_key_pays_nothing_for_keys() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("orders.db");
    open::migrate(&path).expect("migrates");
    let mut connection = open::open_writer(&path).expect("opens");
    let ids = SeededIds::new(1);
    let user_id = UserId::parse("user-1").expect("valid");
    let money = Money::parse("1", "USD").expect("valid");
    let keyless = NewOrder::new(ids.order_id(), user_id.clone(), money);
    let keyed = NewOrder {
        id: ids.order_id(),
        key: Some(KeyClaim {
            owner: user_id,
            operation: KeyOperation::CreateOrder,
            key: IdempotencyKey::parse("k").expect("valid"),
            fingerprint: Fingerprint::from_bytes([1; 32]),
            retention: Duration::from_hours(1),
        }),
        ..keyless.clone()
    };

    let of_keyless = statements_of(&mut connection, &keyless);
    let of_keyed = statements_of(&mut connection, &keyed);

    let store = ["INSERT INTO orders", "INSERT INTO jobs"];
    let read = "SELECT id, user_id,";
    assert_eq!(of_keyless, [&store[..], &[read]].concat());
    let look = "SELECT request_hash, order_id";
    let insert_key = "INSERT INTO idempotency_keys";
    assert_eq!(
        of_keyed,
        [&[look], &store[..], &[insert_key, read]].concat()
    );
}
