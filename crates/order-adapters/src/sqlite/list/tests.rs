use order_core::{ExternalId, OrderId};
use rusqlite::StatementStatus;
use tempfile::TempDir;

use super::*;
use crate::sqlite::open;

/// Enough that walking all of them would show.
const ORDERS: i64 = 100_000;

/// Steps of SQLite's virtual machine for a page, with much room: a row takes about 40.
const STEPS_MAX: i32 = 10_000;

/// Order n has id n and was stored at microsecond n. There are 100 users, and 50 of them share
/// each external id.
const FILL: &str = "\
INSERT INTO orders
  (id, user_id, amount_minor, currency, status, version, external_id, created_at, updated_at)
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers LIMIT :orders)
SELECT unhex(printf('%032x', n)), 'user-' || (n % 100), 100, 'USD', 1 + n % 5, 1,
       iif(n % 2, 'external-' || (n / 100), NULL), n, n
FROM numbers";

fn full_database() -> (Connection, TempDir) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("orders.db");
    open::migrate(&path).expect("migrates");
    let connection = open::open_writer(&path).expect("opens");
    let n_orders = connection.execute(FILL, named_params! { ":orders": ORDERS });
    assert_eq!(n_orders.ok(), usize::try_from(ORDERS).ok());
    (connection, directory)
}

fn id(n: i64) -> OrderId {
    let n = u128::try_from(n).expect("not negative");
    OrderId::from_uuid(uuid::Uuid::from_u128(n))
}

fn at(n: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(n).ok()
}

/// How SQLite says that it goes about a statement.
fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut explain = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .expect("is explained");
    // The plan is the same whatever the parameters are, so they are left out.
    let details = explain.raw_query().mapped(|row| row.get("detail"));
    details.map(|detail| detail.expect("is text")).collect()
}

struct Case {
    query: OrderQuery,
    plan: &'static str,
    n_found: usize,
}

fn cases() -> [Case; 5] {
    let middle = OrderQuery {
        after: Some(id(ORDERS / 2)),
        before: Some(id(ORDERS / 2 + 1_000)),
        created_after: at(ORDERS / 2 + 10),
        created_before: at(ORDERS / 2 + 990),
        limit: 51,
        ..OrderQuery::default()
    };
    let user_id = UserId::parse("user-3").ok();
    let external_id = ExternalId::parse("external-500").ok();
    let by_key = "SEARCH orders USING PRIMARY KEY (id>? AND id<?)";
    [
        Case {
            query: OrderQuery {
                limit: 51,
                ..OrderQuery::default()
            },
            plan: by_key,
            n_found: 51,
        },
        Case {
            query: middle.clone(),
            plan: by_key,
            n_found: 51,
        },
        Case {
            query: OrderQuery {
                user_id: user_id.clone(),
                ..middle
            },
            plan: "SEARCH orders USING INDEX orders_user_id_id_idx (user_id=? AND id>? AND id<?)",
            n_found: 9,
        },
        Case {
            query: OrderQuery {
                external_id: external_id.clone(),
                user_id,
                limit: 51,
                ..OrderQuery::default()
            },
            plan: "SEARCH orders USING INDEX orders_external_id_user_id_idx \
                   (external_id=? AND user_id=? AND id>? AND id<?)",
            n_found: 1,
        },
        Case {
            query: OrderQuery {
                external_id,
                limit: 51,
                ..OrderQuery::default()
            },
            plan: "SEARCH orders USING INDEX orders_external_id_user_id_idx (external_id=?)",
            n_found: 50,
        },
    ]
}

#[test]
fn lists_are_ranges_of_an_index_among_many_orders() {
    let (connection, _directory) = full_database();
    // Statistics, which somebody may gather by hand, must not lead the planner astray.
    for statistics in ["", "ANALYZE"] {
        connection.execute_batch(statistics).expect("runs");
        for case in cases() {
            // The counters begin anew with the statement.
            connection.flush_prepared_statement_cache();
            let sql = statement(&case.query);

            let found = list(&connection, &case.query).expect("answers");

            assert_eq!(found.len(), case.n_found, "{:?}", case.query);
            let plan = plan(&connection, &sql);
            let (search, rest) = plan.split_first().expect("a plan has steps");
            assert_eq!(search, case.plan, "{sql}");
            // The users who share an external id are few; their orders are sorted.
            let is_sorted = sql == BY_EXTERNAL_ID;
            let sort = ["USE TEMP B-TREE FOR ORDER BY"];
            assert_eq!(rest, &sort[..usize::from(is_sorted)], "{sql}");
            let ran = connection.prepare_cached(&sql).expect("is cached");
            assert_eq!(ran.get_status(StatementStatus::Run), 1);
            assert_eq!(ran.get_status(StatementStatus::FullscanStep), 0, "{sql}");
            let n_steps = ran.get_status(StatementStatus::VmStep);
            assert!(n_steps < STEPS_MAX, "{n_steps} steps: {sql}");
        }
        assert_eq!(
            plan(&connection, RECENT_STATES).first().map(String::as_str),
            Some("SEARCH orders USING INDEX orders_user_id_id_idx (user_id=?)")
        );
    }
}

#[test]
fn times_between_microseconds_are_rounded_away_from_what_they_exclude() {
    let time = |nanos| Timestamp::from_nanosecond(nanos).expect("in range");
    for (nanos, floor, ceil) in [
        (0, 0, 0),
        (1, 0, 1),
        (999, 0, 1),
        (1_000, 1, 1),
        (-1, -1, 0),
        (-1_000, -1, -1),
        (-1_001, -2, -1),
    ] {
        assert_eq!(micros_floor(time(nanos)), floor, "{nanos}");
        assert_eq!(micros_ceil(time(nanos)), ceil, "{nanos}");
    }
}

/// Only the oldest orders are not PROCESSED: a walk through all would read nearly all.
const FILL_SOURCES: &str = "\
UPDATE orders SET status = CASE WHEN created_at >= 400 THEN 3 ELSE 1 + created_at % 5 END;
INSERT INTO jobs (order_id, attempt, attempts_before, due_at)
SELECT id, status > 1, 0, iif(status = 4, 9223372036854775807, 0) FROM orders
WHERE status IN (1, 2, 4);
INSERT INTO order_events (order_id, version, status, at)
SELECT id, 2, 5, 0 FROM orders WHERE status = 5;";

#[test]
fn lists_by_status_read_only_orders_of_that_status() {
    use OrderStatus::{Cancelled, Failed, Pending, Processing};
    let (connection, _directory) = full_database();
    connection.execute_batch(FILL_SOURCES).expect("fills");
    for statistics in ["", "ANALYZE"] {
        connection.execute_batch(statistics).expect("runs");
        for statuses in [
            &[Pending][..],
            &[Processing],
            &[Failed],
            &[Cancelled],
            &[Pending, Processing, Failed, Cancelled],
        ] {
            connection.flush_prepared_statement_cache();
            let query = OrderQuery {
                statuses: statuses.to_vec(),
                limit: 51,
                ..OrderQuery::default()
            };

            let found = list(&connection, &query).expect("answers");

            assert_eq!(found.len(), 51, "{statuses:?}");
            let is_wanted = |order: &Order| statuses.contains(&order.status);
            assert!(found.iter().all(is_wanted), "{statuses:?}");
            assert!(found.is_sorted_by(|newer, older| newer.id > older.id));
            let sql = statement(&query);
            let plan = plan(&connection, &sql);
            assert!(
                !plan.iter().any(|step| step.contains("TEMP B-TREE")),
                "{plan:?}"
            );
            let ran = connection.prepare_cached(&sql).expect("is cached");
            assert_eq!(ran.get_status(StatementStatus::Run), 1);
            let n_steps = ran.get_status(StatementStatus::VmStep);
            assert!(n_steps < STEPS_MAX, "{n_steps} steps: {plan:?}");
        }
    }
}
