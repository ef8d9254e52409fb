//! Bad rows, broken connections, killed servers and callers that go away.

use futures_util::future::join_all;
use order_core::OrderQuery;

use super::*;

/// All orders.
fn one_page() -> OrderQuery {
    OrderQuery {
        limit: 10,
        ..OrderQuery::default()
    }
}

#[tokio::test]
async fn refused_row_fails_alone() {
    let fixture = available!(fixture());
    fixture
        .run("ALTER TABLE orders ADD CHECK (amount_minor <> 666)")
        .await;
    let mut slice = orders(20);
    slice[3] = order(4, 666);
    slice[19] = order(20, 666);

    let created = fixture.store.create(&slice).await;

    let refused: Vec<_> = (0..20).filter(|idx| !is_new(&created[*idx])).collect();
    assert_eq!(refused, [3, 19]);
    let Err(error @ Error::Internal { source: Some(_) }) = &created[3] else {
        panic!("{:?}", created[3]);
    };
    assert!(error.chain().contains("violates check constraint"));
    assert_eq!(fixture.number("SELECT count(*) FROM jobs").await, 18);
}

#[tokio::test]
async fn refused_order_gives_its_id_and_its_key_to_the_next() {
    let fixture = available!(fixture());
    fixture
        .run("ALTER TABLE orders ADD CHECK (amount_minor <> 666)")
        .await;
    let refused = NewOrder {
        money: order(1, 666).money,
        ..keyed(1, "k", 1)
    };
    let slice = [refused, order(1, 100), keyed(2, "k", 2), keyed(3, "k", 2)];

    let created = fixture.store.create(&slice).await;

    assert!(matches!(created[0], Err(Error::Internal { .. })));
    assert!(is_new(&created[1]) && is_new(&created[2]), "{created:?}");
    let same_key = Some(Insertion::SameKey);
    assert_eq!(created[3].as_ref().ok().map(|c| c.insertion), same_key);
}

#[tokio::test]
async fn refused_verdict_fails_alone() {
    let fixture = available!(fixture());
    let slice = orders(3);
    fixture.store.create(&slice).await;
    let completions: Vec<_> = tokens(&slice)
        .into_iter()
        .zip(["A", "\0", "C"])
        .map(|(token, code)| Completion {
            took: None,
            token,
            verdict: Verdict::Failed(Cause {
                code: code.to_owned(),
                message: "no".to_owned(),
            }),
            trace_parent: None,
        })
        .collect();

    let done = fixture.store.complete(&completions).await;

    assert!(matches!(
        done[..],
        [
            Ok(Completed::Applied(Some(_))),
            Err(Error::Internal { .. }),
            Ok(Completed::Applied(Some(_)))
        ]
    ));
    let buried = "SELECT count(*) FROM jobs WHERE due_at = 'infinity'";
    assert_eq!(fixture.number(buried).await, 2);
}

/// Counts statements of the store that are in the middle of `sleepy`.
const N_ASLEEP: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event = 'PgSleep'";

/// Ends the connections of the store whose statements are in the middle of `sleepy`.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event = 'PgSleep'";

impl Fixture {
    /// Makes the first insert of an order sleep, shorter than the statement timeout.
    async fn make_first_insert_sleepy(&self) {
        self.run(
            "CREATE SEQUENCE inserts;
            CREATE FUNCTION sleepy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('inserts') = 1 THEN PERFORM pg_sleep(4); END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER sleepy BEFORE INSERT ON orders
                FOR EACH ROW EXECUTE FUNCTION sleepy()",
        )
        .await;
    }

    /// Makes every read of an order sleep, shorter than the statement timeout and than the
    /// interval at which the server looks whether its client is still there; what wakes up
    /// by itself leaves a trace.
    async fn make_reads_sleepy(&self) {
        self.run(
            "CREATE SEQUENCE woken_up;
            CREATE FUNCTION sleepy() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_sleep(4);
                RETURN nextval('woken_up') > 0;
            END $$;
            ALTER TABLE orders RENAME TO stored_orders;
            CREATE VIEW orders AS SELECT * FROM stored_orders WHERE sleepy()",
        )
        .await;
    }

    async fn has_woken_up(&self) -> bool {
        self.number("SELECT is_called::int::bigint FROM woken_up")
            .await
            == 1
    }
}

/// Makes writes fail as on a full disk; reads succeed.
#[tokio::test]
async fn store_on_a_full_disk_is_not_ready_until_there_is_room() {
    let fixture = available!(fixture());
    assert!(is_new(&fixture.store.create(&orders(1)).await[0]));
    fixture
        .run(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';
            END $$;
            CREATE TRIGGER full_disk BEFORE INSERT ON orders EXECUTE FUNCTION full_disk();
            CREATE TRIGGER full_disk BEFORE INSERT ON secrets EXECUTE FUNCTION full_disk()",
        )
        .await;
    assert!(fixture.store.check(&ctx()).await.is_ok(), "no write failed");

    let refused = fixture.store.create(&[order(2, 100)]).await;

    assert!(
        matches!(refused[..], [Err(Error::StoreUnavailable { .. })]),
        "{refused:?}"
    );
    for _ in 0..2 {
        let full = fixture.store.check(&ctx()).await;
        assert!(
            matches!(full, Err(Error::StoreUnavailable { .. })),
            "{full:?}"
        );
    }
    assert!(fixture.store.find(&ctx(), order(1, 100).id).await.is_ok());
    fixture.run("DROP FUNCTION full_disk CASCADE").await;
    fixture.store.check(&ctx()).await.expect("is ready again");
    assert_eq!(fixture.number("SELECT count(*) FROM secrets").await, 0);
}

#[tokio::test]
async fn write_is_repeated_when_its_connection_breaks() {
    let fixture = available!(fixture());
    fixture.make_first_insert_sleepy().await;
    let store = Arc::clone(&fixture.store);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { store.create(&[order(1, 100)]).await });
    fixture.wait_for(N_ASLEEP, 1).await;

    assert_eq!(fixture.number(TERMINATE).await, 1);

    let created = tasks.join_next().await.unwrap().unwrap();
    assert!(is_new(&created[0]), "{created:?}");
    assert_eq!(fixture.number("SELECT last_value FROM inserts").await, 2);
    assert_eq!(fixture.number("SELECT count(*) FROM orders").await, 1);
}

#[tokio::test]
async fn dropped_write_happens_not_at_all() {
    let fixture = available!(fixture());
    fixture.make_first_insert_sleepy().await;
    {
        let slice = orders(1);
        let create = fixture.store.create(&slice);
        tokio::select! {
            created = create => panic!("{created:?}"),
            () = fixture.wait_for(N_ASLEEP, 1) => {}
        }
    }
    fixture.wait_for(N_ASLEEP, 0).await;

    assert_eq!(fixture.number("SELECT count(*) FROM orders").await, 0);
    assert!(is_new(&fixture.store.create(&orders(1)).await[0]));
}

#[tokio::test]
async fn dropped_read_is_cancelled() {
    let fixture = available!(fixture());
    fixture.store.create(&orders(1)).await;
    fixture.make_reads_sleepy().await;
    {
        let ctx = ctx();
        let find = fixture.store.find(&ctx, order(1, 100).id);
        tokio::select! {
            found = find => panic!("{found:?}"),
            () = fixture.wait_for(N_ASLEEP, 1) => {}
        }
    }

    fixture.wait_for(N_ASLEEP, 0).await;

    assert!(!fixture.has_woken_up().await);
    assert!(fixture.store.check(&ctx()).await.is_ok());
}

#[tokio::test]
async fn dropped_reads_cost_no_connections() {
    let fixture = available!(fixture());
    fixture.store.create(&orders(1)).await;
    fixture.make_reads_sleepy().await;
    let first = "SELECT min(pid)::bigint FROM pg_stat_activity \
        WHERE application_name = 'order-system lists' AND datname = current_database()";
    let mut first_pid = None;
    for _ in 0..5 {
        let (ctx, query) = (ctx(), one_page());
        let list = fixture.store.list(&ctx, &query);
        tokio::select! {
            found = list => panic!("{found:?}"),
            () = fixture.wait_for(N_ASLEEP, 1) => {}
        }
        // The last statement before the connection goes back to its pool.
        let settled = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' \
            AND datname = current_database() AND query = 'SELECT pg_sleep(0.05)'";
        fixture.wait_for(settled, 1).await;
        let pid = fixture.number(first).await;
        assert_eq!(*first_pid.get_or_insert(pid), pid, "another connection");
    }
    assert!(!fixture.has_woken_up().await);
}

#[tokio::test]
async fn slow_lists_take_connections_from_nobody_else() {
    let fixture = available!(fixture());
    fixture.store.create(&orders(1)).await;
    fixture.make_reads_sleepy().await;
    let (ctx, query) = (ctx(), one_page());
    let lists = join_all((0..16).map(|_| fixture.store.list(&ctx, &query)));
    let others = async {
        fixture.wait_for(N_ASLEEP, 2).await;
        assert!(fixture.store.check(&ctx).await.is_ok());
        let ticket = NewTicket {
            digest: [1; 32],
            grant: TicketGrant {
                user_id: order(1, 100).user_id,
            },
            lifetime: LEASE,
        };
        assert!(fixture.store.put_ticket(&ticket).await.is_ok());
        assert!(fixture.store.claim(1, LEASE).await.is_ok());
    };
    tokio::select! {
        lists = lists => panic!("{lists:?}"),
        () = others => {}
    }
}

#[tokio::test]
async fn slow_reads_leave_a_connection_to_readiness() {
    let fixture = available!(fixture());
    fixture.store.create(&orders(1)).await;
    fixture.make_reads_sleepy().await;
    let config = PostgresConfig {
        requests_pool: 1,
        ..PostgresConfig::new(&fixture.database.url)
    };
    let store = PostgresStore::connect(config, identity()).await.unwrap();
    let ctx = ctx();
    let probe = async {
        fixture.wait_for(N_ASLEEP, 1).await;
        store.check(&ctx).await.expect("the store is ready");
    };
    tokio::select! {
        found = store.find(&ctx, order(1, 100).id) => panic!("{found:?}"),
        () = probe => {}
    }
}

#[tokio::test]
async fn workers_outside_take_no_connections_from_those_inside() {
    let fixture = available!(fixture());
    let inside = &fixture.store;
    inside.create(&orders(1)).await;
    let waiting: Vec<_> = (2..18).map(due).collect();
    inside.create(&waiting).await;
    fixture.make_reads_sleepy().await;
    let outside = inside.for_remote_workers().unwrap();
    let claims = join_all((0..16).map(|_| outside.claim(1, LEASE)));
    let others = async {
        let deadline = Instant::now() + DEADLINE;
        while fixture.number(N_ASLEEP).await < 2 {
            assert!(Instant::now() < deadline, "no claim is under way");
            sleep(Duration::from_millis(5)).await;
        }
        let extended = inside.extend(&tokens(&orders(1)), LEASE).await;
        assert_eq!(extended.expect("is extended"), [Extended::Applied]);
    };
    tokio::select! {
        claims = claims => panic!("{claims:?}"),
        () = others => {}
    }
}

#[tokio::test]
async fn read_ends_with_its_deadline() {
    let fixture = available!(fixture());
    fixture.store.create(&orders(1)).await;
    fixture.make_reads_sleepy().await;
    let ctx = CallContext {
        deadline: Deadline::at((Instant::now() + Duration::from_millis(100)).into_std()),
        ..ctx()
    };

    let found = fixture.store.find(&ctx, order(1, 100).id).await;

    assert!(matches!(found, Err(Error::DeadlineExceeded)), "{found:?}");
    fixture.wait_for(N_ASLEEP, 0).await;
    assert!(!fixture.has_woken_up().await);
}

#[tokio::test]
async fn server_that_was_killed_loses_nothing_and_is_used_again() {
    let Ok(mut server) = PostgresServer::start(&[]).await else {
        skip!("a PostgreSQL of its own");
    };
    let store = PostgresStore::connect(PostgresConfig::new(server.url()), identity())
        .await
        .unwrap();
    assert!(store.create(&orders(1)).await.iter().all(is_new));
    store.claim(1, LEASE).await.unwrap();

    server.kill().await.unwrap();
    let refused = store.create(&[order(2, 100)]).await;
    assert!(
        matches!(refused[..], [Err(Error::StoreUnavailable { .. })]),
        "{refused:?}"
    );

    server.restart().await.unwrap();
    assert!(is_new(&store.create(&[order(2, 100)]).await[0]));
    let again = store.create(&orders(1)).await;
    assert!(matches!(
        again[..],
        [Ok(Created {
            insertion: Insertion::SameId,
            ..
        })]
    ));
    assert!(store.start(&starts(&tokens(&orders(1)))).await[0].is_ok());
}
