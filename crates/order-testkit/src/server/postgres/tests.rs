use super::*;
use crate::server::Backend;
use crate::skip;

async fn count(url: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::select! {
        rows = client.query_one("SELECT count(*) FROM t", &[]) => rows.unwrap().get(0),
        _ = connection => panic!("the connection was lost"),
    }
}

#[tokio::test]
async fn committed_rows_survive_a_kill_and_a_restart() {
    if let Err(reason) = Installation::find() {
        skip!("PostgreSQL: {reason}");
    }
    let mut server = PostgresServer::start(&[("fsync", "off")]).await.unwrap();
    execute(
        &server.url(),
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)",
    )
    .await
    .unwrap();

    server.kill().await.unwrap();
    assert!(execute(&server.url(), "SELECT 1").await.is_err());

    server.restart().await.unwrap();
    assert_eq!(count(&server.url()).await, 2);

    let before = server.id();
    server.restart().await.unwrap();
    assert_ne!(server.id(), before);
    assert_eq!(count(&server.url()).await, 2);
}

#[tokio::test]
async fn a_dropped_server_leaves_no_process_and_no_file() {
    if let Err(reason) = Installation::find() {
        skip!("PostgreSQL: {reason}");
    }
    let server = PostgresServer::start(&[("fsync", "off")]).await.unwrap();
    let directory = server.directory.path().to_owned();
    let process = server.id().unwrap();
    assert!(is_alive(process));

    drop(server);

    assert!(!is_alive(process));
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    if let Err(reason) = Installation::find() {
        skip!("PostgreSQL: {reason}");
    }
    let error = PostgresServer::start(&[("no_such_setting", "1")])
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("no_such_setting"),
        "{error:#}"
    );
}

#[tokio::test]
async fn tests_share_a_server_and_not_a_database() {
    let shared = match shared().await {
        Backend::Available(shared) => shared,
        Backend::Unavailable(reason) => skip!("PostgreSQL: {reason}"),
    };
    let one = database(&shared).await.unwrap();
    let other = database(&shared).await.unwrap();
    execute(&one.url, "CREATE TABLE t (n int)").await.unwrap();
    execute(&other.url, "CREATE TABLE t (n int)").await.unwrap();

    let url = one.url.clone();
    drop(one);
    assert!(execute(&url, "SELECT 1").await.is_err());
    assert_eq!(count(&other.url).await, 0);
}
