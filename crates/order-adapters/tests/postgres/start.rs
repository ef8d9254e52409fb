//! Starting up: migrations, and databases that cannot be used.

use super::*;

#[tokio::test]
async fn replicas_migrate_at_the_same_time() {
    let database = available!(empty_database());
    let config = PostgresConfig::new(&database.url);

    let (one, other, third) = tokio::join!(
        PostgresStore::migrate(config.clone()),
        PostgresStore::migrate(config.clone()),
        PostgresStore::connect(config.clone()),
    );

    let n_applied = one.unwrap().len() + other.unwrap().len();
    assert!(n_applied == 6 || n_applied == 0, "{n_applied}");
    third.unwrap().check(&ctx()).await.unwrap();
    assert!(PostgresStore::migrate(config).await.unwrap().is_empty());
}

#[tokio::test]
async fn newer_schema_is_used_and_older_one_is_not_ready() {
    let fixture = available!(fixture());
    fixture
        .run("INSERT INTO refinery_schema_history (version, name) VALUES (999, 'next')")
        .await;
    let config = PostgresConfig::new(&fixture.database.url);
    assert!(PostgresStore::connect(config).await.is_ok());

    fixture
        .run("DELETE FROM refinery_schema_history WHERE version > 4")
        .await;

    let error = fixture.store.check(&ctx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// The error of connecting as `user` to `database` on the server at `url`.
async fn refused(url: &str, user: &str, database: &str) -> ConnectError {
    let server: tokio_postgres::Config = url.parse().unwrap();
    let port = server.get_ports()[0];
    let url = format!("postgres://{user}:secret@127.0.0.1:{port}/{database}");
    let error = PostgresStore::connect(PostgresConfig::new(url)).await.err();
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
    let error = PostgresStore::connect(PostgresConfig::new("sqlite:x")).await;
    assert!(matches!(error, Err(ConnectError::InvalidUrl { .. })));
}

#[tokio::test]
async fn absent_server_is_waited_for_until_the_timeout() {
    let port = order_testkit::server::free_port().unwrap();
    let config = PostgresConfig {
        startup_timeout: Duration::from_millis(400),
        ..PostgresConfig::new(format!("postgres://u:secret@127.0.0.1:{port}/orders"))
    };

    let error = PostgresStore::connect(config).await.err().unwrap();

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
