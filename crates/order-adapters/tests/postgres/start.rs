//! Starting up: migrations, and databases that cannot be used.

use super::*;

#[tokio::test]
async fn replicas_migrate_at_the_same_time() {
    let database = available!(empty_database());
    let config = PostgresConfig::new(&database.url);

    let (one, other, third) = tokio::join!(
        PostgresStore::migrate(config.clone()),
        PostgresStore::migrate(config.clone()),
        PostgresStore::connect(config.clone(), identity()),
    );

    let n_applied = one.unwrap().len() + other.unwrap().len();
    assert!(n_applied == 13 || n_applied == 0, "{n_applied}");
    third.unwrap().check(&ctx()).await.unwrap();
    assert!(PostgresStore::migrate(config).await.unwrap().is_empty());
}

/// Keeps every migration from being recorded until COMMIT.
async fn lock_history(client: &Client) {
    for sql in [
        "CREATE TABLE refinery_schema_history (version int4 PRIMARY KEY, \
         name varchar(255), applied_on varchar(255), checksum varchar(255))",
        "BEGIN",
        "LOCK TABLE refinery_schema_history IN SHARE MODE",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
}

/// A migration tries again and again to lock a table, and holds up nobody behind it for long.
#[tokio::test]
async fn migration_waits_for_a_table_that_is_in_use() {
    let database = available!(empty_database());
    let (raw, _connection) = raw_connection(&database.url).await;
    lock_history(&raw).await;
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
        WHERE c.relname = 'refinery_schema_history' AND NOT l.granted";
    let migrating = PostgresStore::migrate(PostgresConfig::new(&database.url));
    let releasing = async {
        for n_waiting in [1, 0, 1] {
            wait_for(&raw, waiting, n_waiting).await;
        }
        raw.batch_execute("COMMIT").await.unwrap();
    };

    let (names, ()) = tokio::join!(migrating, releasing);

    let names = names.unwrap();
    assert!(names[0].contains("create_orders"), "{names:?}");
}

#[tokio::test]
async fn migration_that_never_gets_its_table_says_what_to_do() {
    let database = available!(empty_database());
    let (raw, _connection) = raw_connection(&database.url).await;
    lock_history(&raw).await;
    let config = PostgresConfig {
        startup_timeout: Duration::from_secs(1),
        ..PostgresConfig::new(&database.url)
    };

    let error = PostgresStore::migrate(config).await.unwrap_err();

    assert!(matches!(error, ConnectError::Migration { .. }), "{error:?}");
    let text = order_core::error_chain(&error);
    assert!(text.contains("in use by another transaction"), "{text}");
    assert!(text.contains("STARTUP_TIMEOUT"), "{text}");
}

#[tokio::test]
async fn newer_schema_is_used_and_older_one_is_not_ready() {
    let fixture = available!(fixture());
    fixture
        .run("INSERT INTO refinery_schema_history (version, name) VALUES (999, 'next')")
        .await;
    let config = PostgresConfig::new(&fixture.database.url);
    assert!(PostgresStore::connect(config, identity()).await.is_ok());

    fixture
        .run("DELETE FROM refinery_schema_history WHERE version > 4")
        .await;

    let error = fixture.store.check(&ctx()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnavailable);
}

/// An update of the operating system may change every other collation, which breaks indexes.
#[tokio::test]
async fn indexed_texts_are_compared_by_their_bytes() {
    let fixture = available!(fixture());
    let others = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid, \
        unnest(i.indcollation) AS used (id) \
        WHERE c.relnamespace = 'public'::regnamespace \
        AND used.id NOT IN (0, '\"C\"'::regcollation)";
    assert_eq!(fixture.number(others).await, 0);
}

#[tokio::test]
async fn settings_of_the_database_do_not_weaken_a_session() {
    let fixture = available!(fixture());
    fixture
        .run(
            "DO $do$ BEGIN
                EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',
                    current_database());
                EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable',
                    current_database());
            END $do$;
            CREATE FUNCTION refuse_weak() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF current_setting('synchronous_commit') <> 'on'
                    OR current_setting('transaction_isolation') <> 'read committed'
                THEN
                    RAISE 'commits are %, transactions %', current_setting('synchronous_commit'),
                        current_setting('transaction_isolation');
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER refuse_weak AFTER INSERT ON orders EXECUTE FUNCTION refuse_weak()",
        )
        .await;

    let created = fixture.connect().await.create(&orders(1)).await;

    assert!(is_new(&created[0]), "{created:?}");
}

/// The error of connecting as `user` to `database` on the server at `url`.
async fn refused(url: &str, user: &str, database: &str) -> ConnectError {
    let server: tokio_postgres::Config = url.parse().unwrap();
    let port = server.get_ports()[0];
    let url = format!("postgres://{user}:secret@127.0.0.1:{port}/{database}");
    let error = PostgresStore::connect(PostgresConfig::new(url), identity())
        .await
        .err();
    let error = error.expect("the server refuses");
    assert!(
        !format!("{error:?} {error}").contains("secret"),
        "{error:?}"
    );
    error
}

#[tokio::test]
async fn what_waiting_cannot_heal_fails_at_once() {
    let database = available!(empty_database());
    let error = refused(&database.url, "nobody", "postgres").await;
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let user = database.url.parse::<tokio_postgres::Config>().unwrap();
    let user = user.get_user().unwrap();
    let error = refused(&database.url, user, "no_such_database").await;
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let error = PostgresStore::connect(PostgresConfig::new("sqlite:x"), identity()).await;
    assert!(matches!(error, Err(ConnectError::InvalidUrl { .. })));
}

#[tokio::test]
async fn absent_server_is_waited_for_until_the_timeout() {
    let port = order_testkit::server::free_port().unwrap();
    let config = PostgresConfig {
        startup_timeout: Duration::from_millis(400),
        ..PostgresConfig::new(format!("postgres://u:secret@127.0.0.1:{port}/orders"))
    };

    let error = PostgresStore::connect(config, identity())
        .await
        .err()
        .unwrap();

    assert!(
        matches!(error, ConnectError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("127.0.0.1:{port}/orders"))
    );
    assert!(!format!("{error:?} {error}").contains("secret"));
}
