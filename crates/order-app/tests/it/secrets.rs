//! No secret of the settings reaches an output, an answer or a help text, whatever fails.

use std::{fs, process::Command};

use order_testkit::server::{free_port, process::ChildServer, redis::RedisServer};

use crate::{
    processes::{self, Ports},
    startup::{ANY_PORT, failure},
    support::{Engine, Http, PATIENCE, database, run},
};

/// A part of every secret.
const CANARY: &str = "c4n4ry";

/// `whsec_` and 32 bytes in base64 that hold the canary as it is written there.
const FULFILMENT_SECRET: &str = "whsec_c4n4ryAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[track_caller]
fn assert_silent(text: &str) {
    let found = text.lines().find(|line| line.contains(CANARY));
    assert_eq!(found, None);
}

/// Every setting that may hold a secret, with one, at a server on this port.
fn settings(port: u16) -> Vec<(&'static str, String)> {
    vec![
        (
            "DATABASE_URL",
            format!("postgres://ada:{CANARY}@127.0.0.1:{port}/orders"),
        ),
        (
            "QUEUE_URL",
            format!("redis://ada:{CANARY}@127.0.0.1:{port}"),
        ),
        (
            "EVENTS_URL",
            format!("redis://ada:{CANARY}@127.0.0.1:{port}"),
        ),
        (
            "EVENT_SINK",
            format!("redis://ada:{CANARY}@127.0.0.1:{port}/events"),
        ),
        ("PROCESSOR", "http".to_owned()),
        (
            "FULFILMENT_URL",
            format!("http://127.0.0.1:{port}/{CANARY}?token={CANARY}"),
        ),
        ("FULFILMENT_ALLOWED_NETWORKS", "127.0.0.0/8".to_owned()),
        ("FULFILMENT_SECRET", FULFILMENT_SECRET.to_owned()),
    ]
}

const PROGRAMS: [&str; 5] = [
    env!("CARGO_BIN_EXE_order-system"),
    env!("CARGO_BIN_EXE_order-service"),
    env!("CARGO_BIN_EXE_order-worker"),
    env!("CARGO_BIN_EXE_api-gateway"),
    env!("CARGO_BIN_EXE_orderctl"),
];

#[test]
fn help_shows_no_secret() {
    for program in PROGRAMS {
        for flag in ["--help", "-h"] {
            let output = Command::new(program)
                .env_clear()
                .envs(settings(1))
                .arg(flag)
                .output()
                .expect("the binary runs");
            assert!(output.status.success(), "{output:?}");
            assert_silent(&String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// Each setting in turn has a value that cannot be used, as a flag and as a variable.
#[test]
fn refused_setting_does_not_show_its_secret() {
    let good = settings(1);
    for (name, bad) in [
        ("DATABASE_URL", format!("mysql://ada:{CANARY}@host/db")),
        (
            "DATABASE_URL",
            format!("postgres://ada:{CANARY}@host:port/db"),
        ),
        (
            "DATABASE_URL",
            format!("postgres://ada:{CANARY}@host/db?colour={CANARY}"),
        ),
        ("QUEUE_URL", format!("amqp://ada:{CANARY}@host")),
        ("QUEUE_URL", format!("kafka://ada:{CANARY}@host:port")),
        ("QUEUE_URL", format!("kafka://{CANARY}/@host:9092")),
        ("QUEUE_URL", format!("redis://ada:{CANARY}@host:port")),
        // A password whose question mark is not encoded.
        ("QUEUE_URL", format!("redis://ada:12?{CANARY}@host")),
        ("QUEUE_URL", format!("kafka://ada:12?{CANARY}&x@host")),
        ("DATABASE_URL", format!("postgres://ada:12?{CANARY}@host")),
        ("EVENT_SINK", format!("redis://ada:12/x?{CANARY}@host")),
        (
            "EVENTS_URL",
            format!("redis://ada:{CANARY}@host?{CANARY}=1"),
        ),
        ("EVENT_SINK", format!("redis://ada:{CANARY}@host")),
        ("FULFILMENT_URL", format!("https://ada:{CANARY}@host/")),
        ("FULFILMENT_URL", format!("{CANARY} is no URL")),
        ("FULFILMENT_SECRET", format!("whsec_{CANARY}!")),
        ("FULFILMENT_SECRET", CANARY.to_owned()),
    ] {
        let mut env: Vec<(&str, &str)> = good
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        env.extend([("RUST_LOG", "trace"), ("STARTUP_TIMEOUT", "300ms")]);
        let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
        assert_silent(&failure(PROGRAMS[0], &[&flag, &bad], &env));
        env.push((name, &bad));
        assert_silent(&failure(PROGRAMS[0], &[], &env));
    }
    let url = format!("http://ada:{CANARY}@host:port");
    let gateway = PROGRAMS[3];
    assert_silent(&failure(gateway, &["--order-service-url", &url], &[]));
    assert_silent(&failure(gateway, &[], &[("ORDER_SERVICE_URL", &url)]));
}

/// Writes a secret to a file, with the line end of an editor.
fn file(secret: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    fs::write(&path, format!("{secret}\n")).expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    (directory, path)
}

#[test]
fn secret_in_a_file_is_used() {
    run(async {
        let database = database!(Engine::Sqlite);
        let (_directory, path) = file(&database.url);
        for arguments in [&["migrate"][..], &[]] {
            let mut command = Command::new(PROGRAMS[1]);
            command.args(arguments).env_clear();
            // A variable that is empty counts as unset.
            command.envs([("DATABASE_URL_FILE", path.as_str()), ("DATABASE_URL", "")]);
            command.envs(ANY_PORT);
            let process = ChildServer::spawn(&mut command).expect("the binary runs");
            if arguments.is_empty() {
                let ready = process.wait_for_line("is ready", PATIENCE).await;
                ready.expect("the database opens");
            } else {
                let exit = process.wait_for_exit(PATIENCE).await.expect("it ends");
                assert!(exit.success(), "{}", process.output());
            }
        }
    });
}

#[test]
fn flag_has_precedence_over_a_secret_in_a_file() {
    let (_directory, path) = file("sqlite:/nowhere/of/the/file/orders.db");
    let flag = ["--database-url", "sqlite:/nowhere/of/the/flag/orders.db"];
    let text = failure(PROGRAMS[0], &flag, &[("DATABASE_URL_FILE", &path)]);
    assert!(text.contains("/nowhere/of/the/flag"), "{text}");
}

#[test]
fn file_that_holds_no_secret_is_named() {
    let (_lines, lines) = file(&format!("{CANARY}\n{CANARY}"));
    let (_empty, empty) = file("");
    let (_long, long) = file(&CANARY.repeat(20_000));
    for (path, rule) in [
        (lines.as_str(), "must hold one line of text"),
        (&empty, "must hold one line of text"),
        (&long, "must be at most 64 KiB long"),
        ("/nowhere/at/all", "No such file"),
    ] {
        let text = failure(PROGRAMS[0], &[], &[("FULFILMENT_SECRET_FILE", path)]);
        for word in ["FULFILMENT_SECRET_FILE", path, rule] {
            assert!(text.contains(word), "{word:?} in {text:?}");
        }
        assert_silent(&text);
    }
    // The value itself is checked like any other.
    let (_value, path) = file(&format!("mysql://ada:{CANARY}@host/db"));
    let text = failure(PROGRAMS[0], &[], &[("DATABASE_URL_FILE", &path)]);
    assert!(text.contains("--database-url"), "{text}");
    assert_silent(&text);
    let both = [("DATABASE_URL_FILE", &*path), ("DATABASE_URL", "sqlite:x")];
    let text = failure(PROGRAMS[0], &[], &both);
    assert!(text.contains("cannot both be set"), "{text}");
}

/// Nothing answers where the secrets are used.
#[test]
fn unreachable_servers_show_no_secret() {
    let settings = settings(free_port().expect("a port"));
    let mut env: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    env.extend([("RUST_LOG", "trace"), ("STARTUP_TIMEOUT", "300ms")]);
    for program in &PROGRAMS[..3] {
        assert_silent(&failure(program, &[], &env));
    }
}

#[test]
fn servers_that_refuse_show_no_secret() {
    run(async {
        let redis = match RedisServer::start(&[("requirepass", "other")]).await {
            Ok(redis) => redis,
            Err(error) => order_testkit::skip!("Redis: {error:#}"),
        };
        let (_, server) = redis.url().rsplit_once('@').map_or_else(
            || panic!("a URL with a password"),
            |(user, server)| (user.to_owned(), server.to_owned()),
        );
        let port = server.rsplit_once(':').expect("a port").1;
        let mut settings = settings(port.parse().expect("a port"));
        let admin_port = free_port().expect("a port");
        for format in ["text", "json"] {
            let database = database!(Engine::Sqlite);
            settings.retain(|(name, _)| *name != "DATABASE_URL");
            settings.extend([
                ("RUST_LOG", "trace".to_owned()),
                ("MAX_ATTEMPTS", "1".to_owned()),
                ("LOG_FORMAT", format.to_owned()),
                ("ADMIN_ADDR", format!("127.0.0.1:{admin_port}")),
            ]);
            let settings: Vec<(&str, &str)> = settings
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let ports = Ports::free();
            let process = processes::start(&database, &ports, &settings).await;
            check_answers(&process, &ports, admin_port).await;
            assert_silent(&process.output());
        }
    });
}

/// Orders that fail, and all that can be asked about them and about the process.
async fn check_answers(process: &ChildServer, ports: &Ports, admin_port: u16) {
    let http = Http::new(([127, 0, 0, 1], ports.http).into());
    let key = [("idempotency-key", CANARY)];
    let body = r#"{"user_id":"user-1","amount":100}"#;
    let created = http.send_with(hyper::Method::POST, "/orders", &key, Some(body));
    let id = created.await.json()["order_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    http.wait_for_status(&id, "FAILED").await;
    for what in ["sending hints", "receiving hints", "publishing events"] {
        let line = process.wait_for_line(what, PATIENCE).await;
        line.expect("it is tried");
    }
    let admin = Http::new(([127, 0, 0, 1], admin_port).into());
    for answer in [
        http.get(&format!("/orders/{id}")).await,
        http.get(&format!("/orders/{id}/events")).await,
        http.get("/readyz").await,
        admin.get("/readyz").await,
        admin.get("/metrics").await,
        admin.get("/log-level").await,
    ] {
        assert_silent(&String::from_utf8_lossy(&answer.body));
        assert_silent(&format!("{:?}", answer.headers));
    }
}
