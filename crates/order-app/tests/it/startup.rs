//! Starting with settings that cannot work: a clear message and an exit code other than 0.

use std::{net::TcpListener, process::Command, sync::Arc};

use clap::{Arg, CommandFactory as _};
use order_adapters::system::SystemClock;
use order_app::config::SystemConfig;
use order_core::{CallContext, Clock, Deadline, GrpcCode, OrderApi as _, RequestId};
use order_rpc::{RemoteOrderApi, RpcClientConfig, proto::LeaseRequest};
use order_testkit::server::{
    postgres::PostgresServer,
    process::{ChildServer, Signal},
    redis::RedisServer,
};
use tonic::Code;

use crate::{
    processes::{self, Ports},
    support::{Database, Engine, Http, PATIENCE, database, run},
    workers,
};

/// Default ports may be taken by whatever runs beside the tests.
pub(crate) const ANY_PORT: [(&str, &str); 4] = [
    ("HTTP_ADDR", "127.0.0.1:0"),
    ("GRPC_ADDR", "127.0.0.1:0"),
    ("WS_ADDR", "127.0.0.1:0"),
    ("ADMIN_ADDR", "127.0.0.1:0"),
];

/// Runs a binary that is expected to fail and returns what it says.
pub(crate) fn failure(program: &str, args: &[&str], env: &[(&str, &str)]) -> String {
    let output = Command::new(program)
        .env_clear()
        .envs(ANY_PORT)
        .envs(env.iter().copied())
        .args(args)
        .output()
        .expect("the binary runs");
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8(output.stderr).expect("UTF-8")
}

const SYSTEM: &str = env!("CARGO_BIN_EXE_order-system");
const SERVICE: &str = env!("CARGO_BIN_EXE_order-service");
const GATEWAY: &str = env!("CARGO_BIN_EXE_api-gateway");

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn a_bad_flag_is_named() {
    assert_says(&failure(SYSTEM, &["--colour", "red"], &[]), &["--colour"]);
    assert_says(
        &failure(SYSTEM, &["--workers", "many"], &[]),
        &["--workers", "many"],
    );
    assert_says(
        &failure(SYSTEM, &["--lease", "10ms"], &[]),
        &["--lease", "between"],
    );
    assert_says(
        &failure(SYSTEM, &[], &[("HTTP_ADDR", "nowhere")]),
        &["HTTP_ADDR", "nowhere"],
    );
}

#[test]
fn a_bad_fulfilment_setting_is_named_without_its_secret() {
    let http = ("PROCESSOR", "http");
    let url = ("FULFILMENT_URL", "https://shop.example/orders");
    let text = failure(SYSTEM, &[], &[http, url, ("FULFILMENT_SECRET", "hunter2")]);
    assert_says(&text, &["--fulfilment-secret", "whsec_"]);
    assert!(!text.contains("hunter2"), "{text}");
    assert_says(&failure(SYSTEM, &[], &[http]), &["--fulfilment-url"]);
    let secret = (
        "FULFILMENT_SECRET",
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    );
    let loopback = ("FULFILMENT_URL", "http://127.0.0.1:9000/");
    let database = ("DATABASE_URL", "sqlite:target/never-made.db");
    let text = failure(SYSTEM, &[], &[http, loopback, secret, database]);
    assert_says(&text, &["FULFILMENT_URL", "public"]);
}

#[test]
fn a_bad_database_url_is_named_without_its_password() {
    let text = failure(SERVICE, &["--database-url", "mysql://a:hunter2@b/c"], &[]);
    assert_says(&text, &["--database-url", "postgres://", "sqlite:"]);
    assert!(!text.contains("hunter2"), "{text}");
    let text = failure(
        SERVICE,
        &["--database-url", "postgres://a:hunter2@b:notaport/c"],
        &[],
    );
    assert!(!text.contains("hunter2"), "{text}");
    assert_says(&text, &["database"]);
    assert_says(
        &failure(SERVICE, &[], &[]),
        &["DATABASE_URL", "--database-url"],
    );
}

#[test]
fn a_bad_broker_url_is_named_without_its_password() {
    for (flag, url, word) in [
        ("--queue-url", "amqp://a:hunter2@b", "kafka://"),
        (
            "--queue-url",
            "redis://a:hunter2@b:notaport",
            "redis://host",
        ),
        ("--queue-url", "local://a:hunter2@b", "local"),
        ("--events-url", "kafka://a:hunter2@b", "postgres"),
        (
            "--events-url",
            "redis://a:hunter2@b?colour=red",
            "parameters are prefix",
        ),
        ("--event-sink", "postgres://a:hunter2@b/c", "redis://"),
    ] {
        let text = failure(SYSTEM, &[flag, url], &[]);
        assert_says(&text, &[flag, word]);
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn notifications_of_postgres_need_postgres() {
    let env = [
        ("EVENTS_URL", "postgres"),
        ("DATABASE_URL", "sqlite:target/never-made.db"),
    ];
    assert_says(
        &failure(SYSTEM, &[], &env),
        &["EVENTS_URL=postgres", "DATABASE_URL"],
    );
}

#[test]
fn a_broker_that_refuses_is_told_and_orders_are_accepted() {
    run(async {
        let redis = match RedisServer::start(&[("requirepass", "a-password")]).await {
            Ok(redis) => redis,
            Err(error) => order_testkit::skip!("Redis: {error:#}"),
        };
        let url = redis.url().replace("a-password", "hunter2");
        let database = database!(Engine::Sqlite);
        let ports = Ports::free();
        let settings = [("QUEUE_URL", url.as_str()), ("EVENTS_URL", url.as_str())];
        let process = processes::start(&database, &ports, &settings).await;
        let http = Http::new(([127, 0, 0, 1], ports.http).into());
        let id = http.create_order().await;
        for what in ["sending hints", "receiving hints", "publishing events"] {
            let line = process.wait_for_line(what, PATIENCE).await;
            assert_says(&line.expect("it is told"), &["refuses the connection"]);
        }
        http.wait_for_status(&id, "PROCESSED").await;
        assert!(!process.output().contains("hunter2"));
    });
}

#[test]
fn server_whose_crash_loses_orders_is_told() {
    run(async {
        let weak = ["fsync", "full_page_writes", "synchronous_commit"];
        let settings = weak.map(|name| (name, "off"));
        let server = match PostgresServer::start(&settings).await {
            Ok(server) => server,
            Err(error) => order_testkit::skip!("PostgreSQL: {error:#}"),
        };
        let database = Database::from_url(server.url());
        let process = processes::start(&database, &Ports::free(), &[]).await;
        for words in [
            "fsync is off",
            "full_page_writes is off",
            "synchronous_commit=\"off\"",
        ] {
            let line = process.wait_for_line(words, PATIENCE).await;
            assert_says(&line.expect("it is told"), &["WARN"]);
        }
    });
}

#[test]
fn a_missing_folder_is_named() {
    let url = "sqlite:/nowhere/at/all/orders.db";
    assert_says(
        &failure(SYSTEM, &["--database-url", url], &[]),
        &["/nowhere/at/all"],
    );
}

#[test]
fn an_unreachable_database_is_named_after_the_wait() {
    let port = order_testkit::server::free_port().expect("a port");
    let url = format!("postgres://admin:hunter2@127.0.0.1:{port}/orderdb");
    let args = ["--database-url", &url, "--startup-timeout", "100ms"];
    let text = failure(SERVICE, &args, &[]);
    assert_says(&text, &["database", &format!("127.0.0.1:{port}")]);
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_bad_service_url_is_named() {
    let text = failure(GATEWAY, &["--order-service-url", "not a url"], &[]);
    assert_says(&text, &["ORDER_SERVICE_URL"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    let text = failure(GATEWAY, &["--http-addr", &addr], &[]);
    assert_says(&text, &[&addr, "HTTP_ADDR", "in use"]);
}

#[test]
fn a_healthcheck_of_nothing_fails() {
    let port = order_testkit::server::free_port().expect("a port");
    let addr = format!("127.0.0.1:{port}");
    for program in [SYSTEM, SERVICE, GATEWAY] {
        let env = [
            ("DATABASE_URL", "sqlite:unused.db"),
            ("ADMIN_ADDR", addr.as_str()),
        ];
        assert_says(&failure(program, &["healthcheck"], &env), &[&addr]);
    }
}

#[test]
fn a_process_that_waits_for_its_database_says_so_on_every_port() {
    run(async {
        let free = || order_testkit::server::free_port().expect("a port");
        let (database, admin) = (free(), free());
        let ports = Ports::free();
        let url = format!("postgres://ada@127.0.0.1:{database}/orders");
        let admin_addr = format!("127.0.0.1:{admin}");
        let process = ChildServer::spawn(
            Command::new(SYSTEM)
                .env("DATABASE_URL", url)
                .env("HTTP_ADDR", format!("127.0.0.1:{}", ports.http))
                .env("GRPC_ADDR", format!("127.0.0.1:{}", ports.grpc))
                .env("WS_ADDR", format!("127.0.0.1:{}", ports.ws))
                .env("ADMIN_ADDR", &admin_addr),
        )
        .expect("the binary runs");
        let line = process
            .wait_for_line("waiting for the database", PATIENCE)
            .await;
        line.expect("it waits");

        assert_eq!(status(admin, "/livez").await, 200);
        for (port, path) in [
            (admin, "/readyz"),
            (ports.http, "/readyz"),
            (ports.http, "/orders"),
            (ports.ws, "/ws"),
        ] {
            assert_eq!(status(port, path).await, 503, "{path} on {port}");
        }
        let client = RpcClientConfig::new(vec![format!("http://127.0.0.1:{}", ports.grpc)]);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (api, lanes) = RemoteOrderApi::new(&client, &clock).expect("a valid URL");
        let mut calls = tokio::task::JoinSet::new();
        for lane in lanes {
            calls.spawn(lane);
        }
        let ctx = CallContext::new(
            RequestId::parse("starting").expect("a request id"),
            Deadline::at(clock.instant() + PATIENCE),
        );
        let refused = api.check_ready(&ctx).await.expect_err("not serving");
        assert_eq!(refused.reason().grpc_code(), GrpcCode::Unavailable);
        let address = ([127, 0, 0, 1], ports.grpc).into();
        let refused = workers::client(address)
            .lease(LeaseRequest::default())
            .await;
        assert_eq!(refused.expect_err("not serving").code(), Code::Unavailable);

        process.signal(Signal::Terminate).expect("it runs");
        let exit = process.wait_for_exit(PATIENCE).await.expect("it ends");
        assert!(exit.success(), "{exit:?}");
    });
}

/// The status of a GET.
async fn status(port: u16, path: &str) -> u16 {
    let http = Http::new(([127, 0, 0, 1], port).into());
    http.get(path).await.status
}

/// As a file of settings has it in which nothing is filled in.
#[test]
fn variable_that_is_empty_counts_as_unset() {
    run(async {
        let database = database!(Engine::Sqlite);
        let ports = Ports::free();
        let mut command = processes::command(&database, &ports, &[]);
        let set: Vec<_> = command
            .get_envs()
            .map(|(name, _)| name.to_owned())
            .collect();
        let known = SystemConfig::command();
        let names = known.get_arguments().filter_map(Arg::get_env);
        let empty = names.filter(|name| !set.iter().any(|set| set == name));
        command.envs(empty.map(|name| (name, "")));
        command.env("RUST_LOG", "");

        let process = ChildServer::spawn(&mut command).expect("the binary runs");

        let ready = process.wait_for_line("is ready", PATIENCE).await;
        ready.expect("it starts with its defaults");
    });
}
