//! The contents of the tables.

use order_core::OrderRecord;

use super::*;

/// A postponed attempt does not count, so an order may have any number of them.
#[tokio::test]
async fn postponed_attempts_are_kept_up_to_a_limit() {
    let test = Sqlite::make().await;
    let order_id = create(&test.store, test.new_order(Some(LEASE))).await;
    for attempt in 1..=OrderRecord::LEN_MAX + 5 {
        let postponed = Completion {
            took: None,
            token: JobToken { order_id, attempt },
            verdict: Verdict::Retry {
                delay: Duration::ZERO,
                error: "busy".to_owned(),
                is_counted: false,
            },
            trace_parent: None,
        };
        let completed = test.store.complete(&[postponed]).await.remove(0);
        assert!(matches!(completed, Ok(Completed::Applied(None))));
        let claimed = test.store.claim(1, LEASE).await.expect("claim answers");
        assert_eq!(claimed.len(), 1);
    }

    let connection = Connection::open(test.path()).expect("the database opens");
    let sql = "SELECT min(attempt), count(*) FROM order_attempts";
    let kept = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(kept, Ok((6, OrderRecord::LEN_MAX)));
}

/// Without an event sink there is no trigger, so nothing is written to the outbox.
#[tokio::test]
async fn outbox_that_is_off_is_not_there() {
    let test = Sqlite::make().await;
    let by_hand = Connection::open(test.path()).expect("opens");
    let n_triggers = || {
        let count = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'";
        by_hand.query_row(count, [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(n_triggers(), Ok(0));
    test.store.enable().await.expect("is enabled");
    assert_eq!(n_triggers(), Ok(2));

    test.store.disable().await.expect("is disabled");

    assert_eq!(n_triggers(), Ok(0));
}
