//! The REST API over real sockets, in one process and cut in two.

use std::time::Duration;

use hyper::Method;
use order_testkit::server::postgres::PostgresServer;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::connect_async;

use crate::{
    processes::{self, Ports},
    support::{Answer, Database, Engine, Http, PATIENCE, Shape, System, database, run, wait_for},
};

#[test]
fn an_order_is_created_read_and_processed() {
    run(async {
        for shape in [Shape::AllInOne, Shape::Split] {
            for engine in [Engine::Sqlite, Engine::Postgres] {
                let database = database!(engine);
                let system = System::start(shape, &database, &[]).await;
                let http = Http::new(system.http_addr());
                let answer = http
                    .post("/orders", r#"{"user_id":"user-1","amount":99.95}"#)
                    .await;
                let order = answer.json();
                let path = format!("/orders/{}", order["order_id"].as_str().expect("an id"));
                assert_eq!(
                    (answer.status, answer.header("location")),
                    (201, Some(path.as_str()))
                );
                assert_eq!(answer.header("etag"), Some("\"1\""));
                assert_eq!(
                    (&order["status"], &order["currency"]),
                    (&"PENDING".into(), &"USD".into())
                );
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(body.contains(r#""amount":99.95,"#), "{body}");
                let id = order["order_id"].as_str().expect("an id");
                let processed = http.wait_for_status(id, "PROCESSED").await;
                assert_eq!(processed["version"], 2);
                system.stop().await;
            }
        }
    });
}

#[test]
fn orders_outlive_a_restart() {
    run(async {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = database!(engine);
            let system = System::start(Shape::AllInOne, &database, &[]).await;
            let http = Http::new(system.http_addr());
            let id = http.create_order().await;
            let before = http.wait_for_status(&id, "PROCESSED").await;
            system.stop().await;
            let system = System::start(Shape::AllInOne, &database, &[]).await;
            let after = Http::new(system.http_addr())
                .get(&format!("/orders/{id}"))
                .await
                .json();
            assert_eq!(after, before);
            system.stop().await;
        }
    });
}

/// Requests that fail, each with the status it is answered with.
fn bad_requests() -> Vec<(Method, String, Option<String>, u16)> {
    let unknown = "0198c5a0-5d5c-7abc-8def-0123456789ab";
    let post = |body: &str, status| {
        (
            Method::POST,
            "/orders".to_owned(),
            Some(body.to_owned()),
            status,
        )
    };
    let get = |path: &str, status| (Method::GET, path.to_owned(), None, status);
    let big = format!(r#"{{"user_id":"{}","amount":1}}"#, "x".repeat(70_000));
    vec![
        post("{", 400),
        post("[]", 400),
        post("{}", 400),
        post(r#"{"user_id":1,"amount":"x"}"#, 400),
        post(r#"{"user_id":"","amount":1}"#, 400),
        post(
            &format!(r#"{{"user_id":"{}","amount":1}}"#, "x".repeat(129)),
            400,
        ),
        post(r#"{"user_id":"a\u0007","amount":1}"#, 400),
        post(r#"{"user_id":"a","amount":0}"#, 400),
        post(r#"{"user_id":"a","amount":-1}"#, 400),
        post(r#"{"user_id":"a","amount":NaN}"#, 400),
        post(r#"{"user_id":"a","amount":"NaN"}"#, 400),
        post(r#"{"user_id":"a","amount":1.001}"#, 400),
        post(r#"{"user_id":"a","amount":99999999999999999999}"#, 400),
        post(r#"{"user_id":"a","amount":1e400}"#, 400),
        post(r#"{"user_id":"a","amount":1,"currency":"ZZZ"}"#, 400),
        post(r#"{"user_id":"a","amount":1,"status":"PROCESSED"}"#, 400),
        post(&big, 413),
        get("/nothing", 404),
        get("/orders/1", 400),
        get(&format!("/orders/{unknown}"), 404),
        get("/orders?page_size=-1", 400),
        get("/orders?page_token=garbage", 400),
        (Method::DELETE, "/orders".to_owned(), None, 405),
        (Method::POST, "/orders".to_owned(), None, 415),
        (Method::POST, format!("/orders/{unknown}/cancel"), None, 404),
    ]
}

/// The parts of a problem that must not depend on how the system is cut.
fn problem(answer: &Answer) -> Value {
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{answer:?}"
    );
    let mut problem = answer.json();
    assert_eq!(
        problem["request_id"].as_str(),
        answer.header("x-request-id")
    );
    for field in ["request_id", "instance"] {
        problem[field] = "redacted".into();
    }
    problem
}

#[test]
fn bad_requests_get_the_same_problem_in_one_process_and_in_two() {
    run(async {
        let (one, two) = (database!(Engine::Sqlite), database!(Engine::Sqlite));
        let all_in_one = System::start(Shape::AllInOne, &one, &[]).await;
        let split = System::start(Shape::Split, &two, &[]).await;
        let (one, two) = (
            Http::new(all_in_one.http_addr()),
            Http::new(split.http_addr()),
        );
        for (method, path, body, status) in bad_requests() {
            let one = one.send(method.clone(), &path, body.as_deref()).await;
            let two = two.send(method.clone(), &path, body.as_deref()).await;
            assert_eq!(
                (one.status, two.status),
                (status, status),
                "{method} {path} {body:?}"
            );
            assert_eq!(problem(&one), problem(&two), "{method} {path} {body:?}");
        }
        let listed = one.get("/orders").await.json();
        assert_eq!(
            listed["orders"],
            Value::Array(vec![]),
            "nothing may be stored"
        );
        all_in_one.stop().await;
        split.stop().await;
    });
}

#[test]
fn a_gateway_without_a_service_says_so_and_recovers() {
    run(async {
        let database = database!(Engine::Sqlite);
        let port = order_testkit::server::free_port().expect("a port");
        let gateway = crate::support::start_gateway(&format!("http://127.0.0.1:{port}")).await;
        let http = Http::new(gateway.addrs.http.expect("an HTTP API"));
        let answer = http
            .post("/orders", r#"{"user_id":"user-1","amount":100}"#)
            .await;
        assert_eq!(answer.status, 503, "{answer:?}");
        // Without a key it could have taken effect.
        assert_eq!(answer.header("retry-after"), None);
        assert_eq!(answer.json()["code"], "SERVICE_UNAVAILABLE");
        assert!(answer.json()["order_id"].is_string());
        let addr = format!("127.0.0.1:{port}");
        let system = System::start(Shape::Split, &database, &["--grpc-addr", &addr]).await;
        wait_for("the gateway reaches the service", async || {
            let answer = http
                .post("/orders", r#"{"user_id":"user-1","amount":100}"#)
                .await;
            (answer.status == 201).then_some(())
        })
        .await;
        gateway.begin_stop();
        assert_eq!(gateway.ended().await, order_app::lifecycle::Exit::Clean);
        system.stop().await;
    });
}

#[test]
fn a_dead_database_is_503_and_the_system_recovers_by_itself() {
    run(async {
        let mut server = match PostgresServer::start(&[]).await {
            Ok(server) => server,
            Err(reason) => order_testkit::skip!("PostgreSQL: {reason:#}"),
        };
        let database = Database::from_url(server.url());
        let system = System::start(Shape::Split, &database, &["--lease", "1s"]).await;
        let http = Http::new(system.http_addr());
        let before = http.create_order().await;
        http.wait_for_status(&before, "PROCESSED").await;
        server.kill().await.expect("killed");
        let answer = wait_for("the outage is noticed", async || {
            let answer = http
                .post("/orders", r#"{"user_id":"user-1","amount":100}"#)
                .await;
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert_eq!(answer.json()["code"], "STORE_UNAVAILABLE");
        assert_eq!(answer.json()["retryable"], false);
        // The gateway asks the service's health, which looks at the database now and then.
        wait_for("the gateway is not ready", async || {
            (http.get("/readyz").await.status == 503).then_some(())
        })
        .await;
        assert_eq!(http.get("/livez").await.status, 200);
        server.restart().await.expect("restarted");
        let after = wait_for("orders are taken again", async || {
            let answer = http
                .post("/orders", r#"{"user_id":"user-1","amount":100}"#)
                .await;
            (answer.status == 201).then(|| answer.json()["order_id"].as_str().map(str::to_owned))
        })
        .await;
        http.wait_for_status(&after.expect("an id"), "PROCESSED")
            .await;
        http.wait_for_status(&before, "PROCESSED").await;
        system.stop().await;
    });
}

#[test]
fn every_request_is_a_line_of_the_log_also_without_its_client() {
    run(async {
        let database = database!(Engine::Sqlite);
        let ports = Ports::free();
        let settings = [("RUST_LOG", "info"), ("PROCESSOR_DELAY", "1h")];
        let system = processes::start(&database, &ports, &settings).await;
        let http = Http::new(([127, 0, 0, 1], ports.http).into());
        let path = format!("/orders/{}", http.create_order().await);
        let line = async |words: &str| {
            let line = system.wait_for_line(words, PATIENCE).await;
            line.expect("a line of the log")
        };
        assert!(
            line("operation=\"create_order\"")
                .await
                .contains("answered")
        );

        // It gives up while the order is waited for.
        let mut socket = TcpStream::connect(("127.0.0.1", ports.http))
            .await
            .expect("open");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nprefer: wait=20\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let early = timeout(Duration::from_millis(200), socket.read_u8()).await;
        assert!(early.is_err(), "it waits");
        drop(socket);
        assert!(line("operation=\"get_order\"").await.contains("abandoned"));

        let url = format!("ws://127.0.0.1:{}/ws", ports.ws);
        let (_socket, response) = connect_async(url).await.expect("a WebSocket");
        let request_id = response.headers()["x-request-id"].to_str().expect("text");
        let opened = line("operation=\"open_websocket\"").await;
        assert!(opened.contains(request_id), "{opened}");
    });
}
