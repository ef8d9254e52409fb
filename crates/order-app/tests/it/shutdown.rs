//! Stopping under load: nothing accepted fails, no job is lost, every lease is given back.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use http_body_util::Empty;
use hyper::{Method, body::Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use order_testkit::server::process::{ChildServer, Signal};
use tokio::net::TcpStream;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    processes::{Ports, command, start, wait_for_work},
    support::{Database, Engine, Http, PATIENCE, database, run, wait_for},
};

/// A lease so long that a job comes back only if it was released.
const LEASE_LONG: (&str, &str) = ("LEASE", "1h");

/// What clients of a system that is being stopped see.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    created: AtomicUsize,
    refused: AtomicUsize,
    failed: AtomicUsize,
}

async fn post_until_stopped(http: Arc<Http>, load: Arc<Load>) {
    while !load.stop.load(Ordering::Relaxed) {
        let body = r#"{"user_id":"user-1","amount":100}"#;
        match http.try_send(Method::POST, "/orders", Some(body)).await {
            Ok(answer) if answer.status == 201 => load.created.fetch_add(1, Ordering::Relaxed),
            Ok(answer) => panic!("answered {answer:?}"),
            Err(error) if error.is_connect() => {
                load.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            // A connection that ends between two requests shows up at the next one; only
            // an answer that was cut would be a failure.
            Err(error) if error.to_string().contains("SendRequest") => {
                load.failed.fetch_add(1, Ordering::Relaxed)
            }
            Err(error) => panic!("{error:?}"),
        };
    }
}

#[test]
fn sigterm_under_load_loses_nothing_and_gives_leases_back() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            stop_under_load(&database).await;
        }
    });
}

async fn stop_under_load(database: &Database) {
    let ports = Ports::free();
    // A job takes longer than the drain, so that leases are held when the signal comes.
    let process = start(database, &ports, &[LEASE_LONG, ("PROCESSOR_DELAY", "1h")]).await;
    let idle = idle_http2_connection(ports.http).await;
    let (mut silent, _) = connect_async(format!("ws://127.0.0.1:{}/ws", ports.ws))
        .await
        .expect("a WebSocket");

    let http = Arc::new(Http::new(([127, 0, 0, 1], ports.http).into()));
    let load = Arc::new(Load::default());
    let clients: Vec<_> = (0..16)
        .map(|_| tokio::task::spawn_local(post_until_stopped(Arc::clone(&http), Arc::clone(&load))))
        .collect();
    wait_for("the load is on", async || {
        (load.created.load(Ordering::Relaxed) > 200).then_some(())
    })
    .await;
    stop(process).await;
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client saw a failed request");
    }
    assert_eq!(load.failed.load(Ordering::Relaxed), 0, "requests were cut");
    let closed = tokio::time::timeout(PATIENCE, async {
        loop {
            // On a slow machine a ping may have come before the end.
            let frame = silent.next().await;
            if !matches!(frame, Some(Ok(Message::Ping(_)))) {
                return frame;
            }
        }
    });
    let closed = closed.await.expect("in time");
    assert!(
        matches!(closed, Some(Ok(Message::Close(Some(_))))),
        "{closed:?}"
    );
    drop(idle);

    // The leases last an hour: only released jobs are processed now.
    let process = start(database, &ports, &[LEASE_LONG]).await;
    let n_processed = wait_for_all_processed(&ports).await;
    let n_created = load.created.load(Ordering::Relaxed);
    assert!(
        n_processed >= n_created,
        "{n_created} acknowledged, {n_processed} processed"
    );
    stop(process).await;
}

/// Sends SIGTERM and checks that the process ends cleanly and in time.
async fn stop(process: ChildServer) {
    process.signal(Signal::Terminate).expect("running");
    let status = process
        .wait_for_exit(Duration::from_secs(15))
        .await
        .expect("it stops");
    assert!(status.success(), "{status}:\n{}", process.output());
}

/// An HTTP/2 connection that says nothing. Dropping what is returned closes it.
async fn idle_http2_connection(port: u16) -> impl Sized {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("connected");
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .expect("HTTP/2");
    tokio::task::spawn_local(connection);
    sender
}

/// Waits until no order is PENDING and returns how many are PROCESSED.
async fn wait_for_all_processed(ports: &Ports) -> usize {
    let http = Http::new(([127, 0, 0, 1], ports.http).into());
    wait_for("every order is PROCESSED", async || {
        let pending = http.get("/orders?status=PENDING&page_size=1").await.json();
        (pending["orders"].as_array().map(Vec::len) == Some(0)).then_some(())
    })
    .await;
    let mut n_processed = 0;
    let mut token = String::new();
    loop {
        let path = format!("/orders?status=PROCESSED&page_size=1000{token}");
        let page = http.get(&path).await.json();
        n_processed += page["orders"].as_array().expect("orders").len();
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => return n_processed,
        }
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    run(async {
        let database = database!(Engine::Sqlite);
        let ports = Ports::free();
        let settings = [("PROCESSOR_DELAY", "1h"), ("SHUTDOWN_TIMEOUT", "1h")];
        let process = start(&database, &ports, &settings).await;
        // A job that runs for an hour holds the first signal up.
        let id = Http::new(([127, 0, 0, 1], ports.http).into())
            .create_order()
            .await;
        assert_eq!(id.len(), 36);
        wait_for_work(&ports).await;
        process.signal(Signal::Terminate).expect("running");
        process
            .wait_for_line("stopping", PATIENCE)
            .await
            .expect("noticed");
        process.signal(Signal::Terminate).expect("still running");
        let status = process.wait_for_exit(PATIENCE).await.expect("it ends");
        assert_eq!(status.code(), Some(130), "{}", process.output());
    });
}

#[test]
fn a_broken_log_pipe_does_not_hold_up_a_stop() {
    run(async {
        let database = database!(Engine::Sqlite);
        let ports = Ports::free();
        let mut process = command(&database, &ports, &[])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        drop(process.stderr.take());
        let http = Http::new(([127, 0, 0, 1], ports.http).into());
        wait_for("it serves although nobody reads its log", async || {
            http.try_send(Method::GET, "/orders", None)
                .await
                .ok()
                .filter(|a| a.status == 200)
        })
        .await;
        let id = process.id().to_string();
        let kill = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill runs");
        assert!(kill.success());
        let process = std::cell::RefCell::new(process);
        let ended = async || process.borrow_mut().try_wait().expect("a child");
        let status = wait_for("it ends", ended).await;
        assert!(status.success(), "{status}");
    });
}
