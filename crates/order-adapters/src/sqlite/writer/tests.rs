use std::sync::{Arc, mpsc as sync_mpsc};

use futures_util::{future::join_all, poll};
use order_core::{CallContext, Deadline, OrderStore as _, RequestId};
use order_testkit::{clock::SimClock, conformance::identity};
use uuid::Uuid;

use super::{super::SqliteStore, *};

fn writer() -> Writer {
    let connection = Connection::open_in_memory().expect("opens");
    connection
        .execute_batch(
            "CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT;
            CREATE TABLE orders (id, created_at)",
        )
        .expect("creates");
    let clock = TxClock::new(Arc::new(SimClock::new()), &connection).expect("reads");
    Writer::spawn(connection, clock).expect("spawns")
}

fn insert(connection: &Connection, n: i64) -> rusqlite::Result<()> {
    connection
        .execute("INSERT INTO numbers VALUES (?1)", [n])
        .map(drop)
}

async fn insert_one(writer: &Writer, n: i64) -> Result<(), Error> {
    let call = move |tx: &Tx<'_>| tx.unit(|connection, _| insert(connection, n));
    writer.run(1, call).await.flatten()
}

async fn numbers(writer: &Writer) -> Vec<i64> {
    let read = |connection: &Connection, _| {
        connection
            .prepare("SELECT n FROM numbers ORDER BY n")?
            .query_map([], |row| row.get(0))?
            .collect()
    };
    let call = move |tx: &Tx<'_>| tx.unit(read);
    writer.run(1, call).await.flatten().expect("reads")
}

#[tokio::test]
async fn failing_unit_takes_back_its_own_part_only() {
    let writer = writer();
    let call = |tx: &Tx<'_>| {
        [(11, 1), (12, 2), (13, 1), (14, 3)].map(|(first, second)| {
            tx.unit(|connection, _| {
                insert(connection, first)?;
                insert(connection, second)
            })
        })
    };

    let answers = writer.run(4, call).await.expect("commits");

    let is_ok = answers.map(|answer| answer.is_ok());
    assert_eq!(is_ok, [true, true, false, true]);
    assert_eq!(numbers(&writer).await, [1, 2, 3, 11, 12, 14]);
}

#[tokio::test]
async fn panic_in_a_unit_fails_it_alone_and_the_thread_lives_on() {
    let writer = writer();
    let call = |tx: &Tx<'_>| {
        [1, 2, 3].map(|n| {
            tx.unit(|connection, _| {
                insert(connection, n)?;
                assert_ne!(n, 2, "two is too many");
                Ok(())
            })
        })
    };

    let answers = writer.run(3, call).await.expect("commits");

    let [Ok(()), Err(error), Ok(())] = answers else {
        panic!("{answers:?}");
    };
    assert!(
        error.chain().contains("two is too many"),
        "{}",
        error.chain()
    );
    assert_eq!(numbers(&writer).await, [1, 3]);
}

#[tokio::test]
async fn lost_transaction_fails_everybody_in_it_and_nobody_after_it() {
    let writer = writer();
    let call = |tx: &Tx<'_>| {
        let before = tx.unit(|connection, _| insert(connection, 1));
        // What SQLite does by itself when the disk is full.
        let full = tx.unit(|connection, _| connection.execute_batch("ROLLBACK"));
        let after = tx.unit(|connection, _| insert(connection, 2));
        [before, full, after]
    };

    let answers = writer.run(3, call).await;

    assert!(
        matches!(answers, Err(Error::StoreUnavailable { .. })),
        "{answers:?}"
    );
    insert_one(&writer, 3).await.expect("the next one commits");
    assert_eq!(numbers(&writer).await, [3]);
}

#[tokio::test]
async fn calls_that_wait_share_a_transaction() {
    let writer = writer();
    let (entered, has_entered) = oneshot::channel();
    let (leave, may_leave) = sync_mpsc::channel::<()>();
    let gate = writer.run(1, move |_| {
        let _ = entered.send(());
        let _ = may_leave.recv();
    });
    let waiting = join_all((0..100).map(|n| insert_one(&writer, n)));
    tokio::pin!(gate, waiting);
    assert!(poll!(&mut gate).is_pending());
    has_entered.await.expect("the first call runs");
    assert!(poll!(&mut waiting).is_pending());

    leave.send(()).expect("the first call waits");

    gate.await.expect("commits");
    assert!(waiting.await.iter().all(Result::is_ok));
    let stats = writer.stats();
    assert_eq!((stats.transactions.get(), stats.units.get()), (2, 101));
}

#[tokio::test]
async fn call_whose_caller_hung_up_runs_all_the_same() {
    let writer = writer();
    {
        let dropped = insert_one(&writer, 1);
        tokio::pin!(dropped);
        // A first poll queues the call; if it is answered by then, that is as good.
        let _ = poll!(&mut dropped);
    }
    assert_eq!(numbers(&writer).await, [1]);
}

#[tokio::test]
async fn close_finishes_what_waits_and_refuses_what_comes() {
    let writer = writer();
    let waiting = join_all((0..10).map(|n| insert_one(&writer, n)));
    tokio::pin!(waiting);
    let _ = poll!(&mut waiting);

    writer.close();

    assert!(waiting.await.iter().all(Result::is_ok));
    let refused = insert_one(&writer, 11).await;
    assert!(matches!(refused, Err(Error::ShuttingDown { .. })));
    writer.close();
}

#[tokio::test]
async fn panic_outside_of_a_unit_fails_its_transaction_and_the_thread_lives_on() {
    let writer = writer();
    let call = |tx: &Tx<'_>| {
        let before = tx.unit(|connection, _| insert(connection, 1));
        assert!(before.is_err(), "the first panics");
    };

    let failed = writer.run(1, call).await;

    assert!(
        matches!(failed, Err(Error::StoreUnavailable { .. })),
        "{failed:?}"
    );
    writer.check().await.expect("the thread lives");
    insert_one(&writer, 2).await.expect("commits");
    assert_eq!(numbers(&writer).await, [2]);
}

/// Lets the database file grow by `n_pages` from now on.
async fn limit_pages(store: &SqliteStore, n_pages: i64) {
    let limit = move |connection: &Connection, _: i64| {
        let count = "PRAGMA page_count";
        let len: i64 = connection.query_row(count, [], |row| row.get(0))?;
        connection.pragma_update(None, "max_page_count", len + n_pages)
    };
    store.write(limit).await.expect("is limited");
}

/// SQLite answers as on a full disk when the file has as many pages as it may have.
#[tokio::test]
async fn store_on_a_full_disk_is_not_ready_until_there_is_room() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("orders.db");
    let store = SqliteStore::open(&path, Arc::new(SimClock::new()), &identity()).expect("opens");
    let ctx = CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE);
    store.check(&ctx).await.expect("is ready");
    limit_pages(&store, 4).await;

    let grow = |connection: &Connection, _: i64| {
        let fill = "INSERT INTO secrets VALUES ('filling', randomblob(100000))";
        connection.execute(fill, [])
    };
    let refused = store.write(grow).await;
    assert!(
        matches!(refused, Err(Error::StoreUnavailable { .. })),
        "{refused:?}"
    );
    for _ in 0..2 {
        let full = store.check(&ctx).await;
        assert!(
            matches!(full, Err(Error::StoreUnavailable { .. })),
            "{full:?}"
        );
    }

    limit_pages(&store, 1_000).await;
    for _ in 0..2 {
        store.check(&ctx).await.expect("is ready again");
    }
    let count = |connection: &Connection, _: i64| {
        connection.query_row("SELECT count(*) FROM secrets", [], |row| row.get(0))
    };
    let n_left: i64 = store.write(count).await.expect("reads");
    assert_eq!(n_left, 0, "the probe left something behind");
}

/// One page that cannot be read does not make a store unready that writes all others.
#[tokio::test]
async fn probe_decides_whether_a_failure_was_of_the_disk() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("orders.db");
    let store = SqliteStore::open(&path, Arc::new(SimClock::new()), &identity()).expect("opens");
    let ctx = CallContext::new(RequestId::from_uuid(Uuid::nil()), Deadline::NONE);
    let corrupt = |_: &Connection, _: i64| -> rusqlite::Result<()> {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        Err(rusqlite::Error::SqliteFailure(code, None))
    };

    assert!(store.write(corrupt).await.is_err());

    store.check(&ctx).await.expect("other writes succeed");
}
