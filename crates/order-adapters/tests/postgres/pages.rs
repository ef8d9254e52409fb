//! What reads of a million orders cost: each is one range of one index.

use jiff::{Timestamp, ToSpan as _};
use order_core::OrderQuery;

use super::*;

/// One order every 100 ms, of a thousand users in turn. Each user has every fifth order in
/// the same status, and the users of every hundred orders share an external id.
const FILL: &str = "INSERT INTO orders (id, user_id, amount_minor, currency, status, version,
        external_id, created_at, updated_at)
    SELECT (lpad(to_hex(ms), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
        'user-' || n % 1000, 1, 'EUR', 1 + n / 1000 % 5, 1,
        CASE WHEN n % 10 = 0 THEN 'name-' || n / 100 END,
        to_timestamp(ms / 1000.0), to_timestamp(ms / 1000.0)
    FROM generate_series(0, 999999) n, LATERAL (SELECT 1700000000000 + n::bigint * 100 AS ms) t";

/// Orders with these statuses have a job, or an event that says CANCELLED.
const FILL_SOURCES: &str = "INSERT INTO jobs (order_id, attempt, due_at)
    SELECT id, CASE status WHEN 1 THEN 0 ELSE 1 END,
        CASE status WHEN 4 THEN 'infinity' ELSE now() END FROM orders
    WHERE status IN (1, 2, 4);
    INSERT INTO order_events (order_id, version, status, at)
    SELECT id, 2, status, created_at FROM orders WHERE status IN (3, 5)";

/// How many orders a page asks for.
const LIMIT: usize = 51;

/// A read, and what it may cost.
struct Case {
    name: &'static str,
    read: Read,
    /// How many orders it finds.
    n_found: usize,
    /// The one index it may use, and how often.
    index: &'static str,
    n_ranges: i64,
    /// How many entries of the index it may look at.
    n_entries_max: i64,
}

enum Read {
    Page(Box<OrderQuery>),
    RecentStates(Vec<UserId>),
}

impl Read {
    async fn run(&self, store: &PostgresStore) -> usize {
        match self {
            Self::Page(query) => store.list(&ctx(), query).await.unwrap().len(),
            Self::RecentStates(users) => store.recent_states(users, LIMIT).await.unwrap().len(),
        }
    }
}

fn user(n: usize) -> UserId {
    UserId::parse(&format!("user-{n}")).unwrap()
}

fn page(name: &'static str, index: &'static str, n_entries_max: i64, query: OrderQuery) -> Case {
    Case {
        name,
        read: Read::Page(Box::new(OrderQuery {
            limit: LIMIT,
            ..query
        })),
        n_found: LIMIT,
        index,
        n_ranges: 1,
        n_entries_max,
    }
}

const IDS: &str = "orders_pkey";
const USERS: &str = "orders_user_id_id_idx";
const NAMES: &str = "orders_external_id_user_id_idx";

fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

/// The bounds of the ids are as far from those of the time as clocks may differ.
fn between(query: OrderQuery) -> OrderQuery {
    OrderQuery {
        created_after: Some(start() + 10.hours()),
        created_before: Some(start() + 20.hours()),
        after: Some(OrderId::floor_at(start() + 10.hours() - 1.minute())),
        before: Some(OrderId::floor_at(start() + 20.hours() + 5.seconds())),
        ..query
    }
}

fn cases() -> Vec<Case> {
    let mut cases = cases_of_lists();
    cases.extend(cases_of_names());
    cases
}

fn cases_of_lists() -> Vec<Case> {
    let all = OrderQuery::default;
    let by_user = || OrderQuery {
        user_id: Some(user(7)),
        ..all()
    };
    let next = |query: OrderQuery| OrderQuery {
        before: Some(OrderId::floor_at(start() + 15.hours())),
        ..query
    };
    let with = |status, query: OrderQuery| OrderQuery {
        statuses: vec![status],
        ..query
    };
    let by_source = |name, query| Case {
        n_ranges: 51,
        ..page(name, IDS, 51, query)
    };
    vec![
        page("all", IDS, 51, all()),
        page("next of all", IDS, 51, next(all())),
        // A status is the same for a thousand orders in a row.
        page("status", IDS, 2_051, with(OrderStatus::Processed, all())),
        // One descent for each order.
        by_source("failed", with(OrderStatus::Failed, all())),
        // Behind orders that wait.
        by_source(
            "processing",
            OrderQuery {
                before: Some(OrderId::floor_at(start() + 99_550.seconds())),
                ..with(OrderStatus::Processing, all())
            },
        ),
        by_source("cancelled", with(OrderStatus::Cancelled, all())),
        by_source(
            "next of cancelled",
            next(with(OrderStatus::Cancelled, all())),
        ),
        // Also reads the claimed jobs that are newer than this page; none of them is PENDING.
        Case {
            n_ranges: 1_051,
            ..page("pending", IDS, 1_051, with(OrderStatus::Pending, all()))
        },
        page("time", IDS, 101, between(all())),
        page("user", USERS, 51, by_user()),
        page("next of user", USERS, 51, next(by_user())),
        page(
            "user and status",
            USERS,
            255,
            with(OrderStatus::Failed, by_user()),
        ),
        page("user and time", USERS, 52, between(by_user())),
    ]
}

fn cases_of_names() -> Vec<Case> {
    let by_name = || OrderQuery {
        external_id: ExternalId::parse("name-5000").ok(),
        ..OrderQuery::default()
    };
    vec![
        Case {
            n_found: 10,
            ..page("external id", NAMES, 10, by_name())
        },
        Case {
            n_found: 1,
            ..page(
                "external id of user",
                NAMES,
                1,
                OrderQuery {
                    user_id: Some(user(10)),
                    ..between(by_name())
                },
            )
        },
        Case {
            name: "recent states",
            read: Read::RecentStates(vec![user(1), user(2), user(3)]),
            n_found: 3 * LIMIT,
            index: USERS,
            n_ranges: 3,
            n_entries_max: 153,
        },
    ]
}

/// A store with one connection for each kind of read, which then keeps its plans.
struct Reader {
    store: PostgresStore,
    pids: Vec<i32>,
}

impl Reader {
    /// Connects and runs a read for the first time.
    async fn new(fixture: &Fixture, case: &Case, n_found: usize) -> Self {
        let before = pids(fixture).await;
        let config = PostgresConfig {
            maintenance_pool: 1,
            ..PostgresConfig::new(&fixture.database.url)
        };
        let store = PostgresStore::connect(config, identity()).await.unwrap();
        assert_eq!(case.read.run(&store).await, n_found, "{}", case.name);
        let mut pids = pids(fixture).await;
        pids.retain(|pid| !before.contains(pid));
        Self { store, pids }
    }

    /// Ends the connections: then they hand in their statistics.
    async fn close(self, fixture: &Fixture) {
        drop(self.store);
        let pids = self.pids;
        let open = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (ARRAY{pids:?})");
        fixture.wait_for(&open, 0).await;
    }
}

async fn pids(fixture: &Fixture) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name IN ('order-system lists', 'order-system maintenance')";
    let rows = fixture.sql.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Checks from which index the only run of a case since the statistics were reset has read,
/// and how much. Runs on the empty table may be counted as well, and have read nothing.
async fn check(fixture: &Fixture, case: &Case) {
    let name = case.name;
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'orders'";
    assert_eq!(fixture.number(scans).await, 0, "{name}");
    let sql = "SELECT indexrelname::text, idx_tup_read FROM pg_stat_user_indexes \
        WHERE relname = 'orders' AND idx_tup_read > 0";
    let used = fixture.sql.query(sql, &[]).await.unwrap();
    let used: Vec<(String, i64)> = used.iter().map(|row| (row.get(0), row.get(1))).collect();
    let [(index, n_entries)] = &used[..] else {
        panic!("{name}: {used:?}");
    };
    assert_eq!(index, case.index, "{name}");
    assert!(*n_entries <= case.n_entries_max, "{name}: {used:?}");
    let sources = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes \
        WHERE relname IN ('jobs', 'order_events')";
    assert!(
        fixture.number(sources).await <= case.n_entries_max,
        "{name}"
    );
}

#[tokio::test]
async fn page_is_one_range_of_one_index() {
    let fixture = available!(fixture());
    // Statistics of a table end the plans for it; here those for an empty one must do. What
    // the orders cost to write does not matter.
    fixture
        .run(
            "ALTER TABLE orders SET (autovacuum_enabled = off, fillfactor = 100);
            ALTER TABLE jobs SET (autovacuum_enabled = off);
            ALTER TABLE jobs SET UNLOGGED;
            ALTER TABLE order_events SET (autovacuum_enabled = off);
            ALTER TABLE order_events SET UNLOGGED;
            ALTER TABLE orders SET UNLOGGED",
        )
        .await;
    fixture.run("VACUUM ANALYZE").await;
    let cases = cases();
    let mut readers = Vec::new();
    for case in &cases {
        readers.push(Reader::new(&fixture, case, 0).await);
    }
    fixture.run(FILL).await;
    fixture.run(FILL_SOURCES).await;
    for (case, reader) in cases.iter().zip(readers) {
        fixture.run("SELECT pg_stat_reset()").await;
        let n_found = case.read.run(&reader.store).await;
        assert_eq!(n_found, case.n_found, "{}", case.name);
        reader.close(&fixture).await;
        check(&fixture, case).await;
    }

    fixture.run("ANALYZE orders, jobs, order_events").await;

    for case in &cases {
        fixture.run("SELECT pg_stat_reset()").await;
        let reader = Reader::new(&fixture, case, case.n_found).await;
        reader.close(&fixture).await;
        check(&fixture, case).await;
        // Nobody else is connected now.
        let ranges = "SELECT sum(idx_scan)::bigint FROM pg_stat_user_indexes \
            WHERE relname = 'orders'";
        let n_ranges = fixture.number(ranges).await;
        assert_eq!(n_ranges, case.n_ranges, "{}", case.name);
    }
}
