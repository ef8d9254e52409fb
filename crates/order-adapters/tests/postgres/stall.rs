//! A proxy that accepts, lets the client log in and goes silent, as one does during a failover;
//! and a pooler that keeps no sessions.

use std::{
    net::SocketAddr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use order_adapters::postgres::ConnectError;
use order_testkit::server::{free_port, process::ChildServer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// Forwards to the server; while it is silent, only the login of new connections.
struct SilentProxy {
    address: SocketAddr,
    is_silent: Arc<AtomicBool>,
    /// Ends all connections that are forwarded now.
    cut: tokio::sync::watch::Sender<()>,
    _accepting: JoinSet<()>,
}

impl SilentProxy {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_silent = Arc::new(AtomicBool::new(false));
        let cut = tokio::sync::watch::Sender::new(());
        let (silent, cuts) = (Arc::clone(&is_silent), cut.clone());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (target, silent) = (target.clone(), Arc::clone(&silent));
                let mut cut = cuts.subscribe();
                connections.spawn(async move {
                    tokio::select! {
                        () = forward(client, &target, &silent) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            is_silent,
            cut,
            _accepting: accepting,
        }
    }

    fn stall(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
        self.cut.send_replace(());
    }

    /// What is open stays silent.
    fn go_on(&self) {
        self.is_silent.store(false, Ordering::SeqCst);
    }
}

/// One byte of a message to the server that begins a statement: Query, Parse or Bind.
fn begins_statement(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(b'Q' | b'P' | b'B'))
}

async fn forward(client: TcpStream, target: &str, is_silent: &AtomicBool) {
    let server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = [0; 8192];
        loop {
            let n = from_client.read(&mut buffer).await.unwrap_or(0);
            if n == 0 {
                return;
            }
            if begins_statement(&buffer[..n]) && is_silent.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            to_server.write_all(&buffer[..n]).await.unwrap_or_default();
        }
    };
    let down = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        () = up => {}
        _ = down => {}
    }
}

fn host_of(url: &str) -> String {
    let config: tokio_postgres::Config = url.parse().unwrap();
    format!("127.0.0.1:{}", config.get_ports()[0])
}

#[tokio::test]
async fn every_pool_works_again_after_connections_were_silent_from_the_start() {
    let database = available!(empty_database());
    let target = host_of(&database.url);
    let proxy = SilentProxy::start(target.clone()).await;
    let url = database.url.replace(&target, &proxy.address.to_string());
    let store = Arc::new(
        PostgresStore::connect(PostgresConfig::new(url), identity())
            .await
            .unwrap(),
    );
    assert!(is_new(&store.create(&[order(1, 100)]).await[0]));

    proxy.stall();
    let mut stalled = JoinSet::new();
    for id in 2..12 {
        let store = Arc::clone(&store);
        stalled.spawn(async move { store.create(&[order(id, 100)]).await.remove(0).is_err() });
    }
    let claiming = Arc::clone(&store);
    stalled.spawn(async move { claiming.claim(1, LEASE).await.is_err() });
    // All that began in the silence has ended by itself.
    while let Some(failed) = stalled.join_next().await {
        assert!(failed.unwrap());
    }
    proxy.go_on();

    let end = Instant::now() + Duration::from_secs(10);
    while store.create(&[order(21, 100)]).await[0].is_err() || store.claim(1, LEASE).await.is_err()
    {
        assert!(Instant::now() < end, "a pool does not work again");
    }
}

/// A pooler before the database, in transaction mode.
async fn pgbouncer(
    database_url: &str,
    settings: &str,
) -> Result<(ChildServer, String, tempfile::TempDir), String> {
    let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .ok_or("not installed")?;
    let config: tokio_postgres::Config = database_url.parse().unwrap();
    let (name, user) = (config.get_dbname().unwrap(), config.get_user().unwrap());
    let port = free_port().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.txt");
    std::fs::write(&users, format!("\"{user}\" \"\"\n")).unwrap();
    let ini = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
        listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
        pool_mode = transaction\n{settings}\n",
        config.get_ports()[0],
        users.display(),
    );
    let file = dir.path().join("pgbouncer.ini");
    std::fs::write(&file, ini).unwrap();
    // It refuses to run as root, and must be able to read its files.
    let mut command = Command::new("chmod");
    command.args(["-R", "a+rX"]).arg(dir.path());
    command.status().unwrap();
    let mut command = Command::new(program);
    if is_root() {
        command.args(["-u", "nobody"]);
    }
    command.arg(&file);
    let server = ChildServer::spawn(&mut command).map_err(|error| error.to_string())?;
    let end = Instant::now() + DEADLINE;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < end, "PgBouncer does not listen");
        sleep(Duration::from_millis(10)).await;
    }
    let url = format!("postgres://{user}@127.0.0.1:{port}/{name}");
    Ok((server, url, dir))
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[tokio::test]
async fn pooler_that_keeps_no_sessions_is_refused_with_a_sentence() {
    let database = available!(empty_database());
    for settings in ["", "ignore_startup_parameters = options"] {
        let (_server, url, _dir) = match pgbouncer(&database.url, settings).await {
            Ok(pooler) => pooler,
            Err(reason) => skip!("PgBouncer: {reason}"),
        };

        let refused = PostgresStore::connect(PostgresConfig::new(url), identity()).await;

        let error = refused
            .err()
            .expect("a pooler in transaction mode is refused");
        assert!(matches!(error, ConnectError::Pooler { .. }), "{error:?}");
        assert!(error.to_string().contains("connect to PostgreSQL directly"));
    }
}

#[tokio::test]
async fn database_that_is_not_utf8_is_refused_before_it_is_migrated() {
    let database = available!(empty_database());
    let (sql, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(async { connection.await.unwrap_or_default() });
    let config: tokio_postgres::Config = database.url.parse().unwrap();
    let name = format!("{}_latin1", config.get_dbname().unwrap());
    let create = format!(
        "CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    );
    sql.batch_execute(&create).await.unwrap();
    let url = database.url.replace(config.get_dbname().unwrap(), &name);

    let refused = PostgresStore::connect(PostgresConfig::new(&*url), identity()).await;

    let error = refused.err().expect("LATIN1 is refused");
    assert!(
        error.to_string().contains("create it with ENCODING 'UTF8'"),
        "{error}"
    );
    let (other, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    connections.spawn(async { connection.await.unwrap_or_default() });
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(
        other.query_one(tables, &[]).await.unwrap().get::<_, i64>(0),
        0
    );
    drop(other);
    sql.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await
        .unwrap();
}

/// A commit that was told to wait for a standby no longer is not durable on it.
#[tokio::test]
async fn commit_that_may_not_be_replicated_is_no_success() {
    let Ok(server) = PostgresServer::start(&[]).await else {
        skip!("a PostgreSQL of its own");
    };
    let store = PostgresStore::connect(PostgresConfig::new(server.url()), identity())
        .await
        .unwrap();
    let (sql, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(async { connection.await.unwrap_or_default() });
    wait_for_standby(&sql, &server.url(), "gone", &mut connections).await;
    let slice = [order(1, 100)];
    let mut cancelling = JoinSet::new();
    let create = store.create(&slice);
    cancelling.spawn(async move {
        loop {
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                WHERE wait_event = 'SyncRep'";
            sql.batch_execute(cancel).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    });

    let created = create.await;

    assert!(
        matches!(created[..], [Err(Error::StoreUnavailable { .. })]),
        "{created:?}"
    );
    // Nor is what a repetition finds.
    let again = store.create(&slice).await;
    assert!(
        matches!(again[..], [Err(Error::StoreUnavailable { .. })]),
        "{again:?}"
    );
    let found = store.find(&ctx(), slice[0].id).await.unwrap();
    assert!(found.is_some(), "it is there, on this server");
}
