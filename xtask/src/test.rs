//! `cargo xtask test`: every test of the workspace, on servers that this command starts,
//! and the list of the tests that could not run.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::Context;
use order_testkit::server::kafka::{KAFKA_BROKERS, KafkaServer};
use order_testkit::server::postgres::{Installation, PostgresServer, TEST_POSTGRES_URL};
use order_testkit::server::redis::{RedisServer, TEST_REDIS_URL};
use order_testkit::server::{Backend, SKIP_REPORT, python};

use crate::browser;
use crate::cargo;
use crate::services::find_program;
use crate::steps::Steps;

/// What to test.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Arguments for the test runner, `cargo nextest run` where it is installed, else
    /// `cargo test`: `cargo xtask test -- --package order-core`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the tests and shows what was skipped.
pub(crate) async fn run(args: &TestArgs) -> anyhow::Result<()> {
    let report = tempfile::NamedTempFile::new().context("cannot make the skip report")?;
    let mut steps = Steps::default();
    let result = run_tests(&mut steps, &args.arguments, &|command| {
        command.env(SKIP_REPORT, report.path());
    })
    .await;
    eprint!("{}", steps.summary());
    let skipped = fs::read_to_string(report.path()).context("cannot read the skip report")?;
    eprintln!("{} tests skipped", skipped.lines().count());
    eprint!("{skipped}");
    result
}

async fn run_tests(
    steps: &mut Steps,
    arguments: &[String],
    prepare: &dyn Fn(&mut Command),
) -> anyhow::Result<()> {
    if arguments.is_empty() {
        // Apart from the run, so that a failure to build does not start servers.
        let mut build = cargo(&["test", "--workspace", "--all-features", "--no-run"]);
        steps.run("build", &mut build)?;
    }
    let postgres = start_postgres(steps).await;
    let redis = start_redis(steps).await;
    let kafka = start_kafka(steps).await;
    let run = |name: &str, runner: &[&str], arguments: &[String], steps: &mut Steps| {
        let mut command = cargo(runner);
        prepare(&mut command);
        if let Some(server) = &postgres {
            command.env(TEST_POSTGRES_URL, server.url());
        }
        if let Some(server) = &redis {
            command.env(TEST_REDIS_URL, server.url());
        }
        if let Some(kafka) = &kafka {
            command.env(KAFKA_BROKERS, kafka.brokers());
        }
        command.arg("--all-features");
        if !names_a_package(arguments) {
            command.arg("--workspace");
        }
        steps.run(name, command.args(arguments))
    };
    if has_nextest() {
        run("tests", &["nextest", "run"], arguments, steps)?;
        if arguments.is_empty() {
            run("documentation tests", &["test", "--doc"], arguments, steps)?;
        }
    } else {
        run("tests", &["test"], arguments, steps)?;
    }
    if !arguments.is_empty() {
        return Ok(());
    }
    for (name, needs, command) in SHORT_STORMS {
        let missing = needs.iter().find(|program| find_program(program).is_none());
        match (Installation::find(), missing) {
            (Err(error), _) => steps.skip_test(name, &format!("PostgreSQL: {error:#}"))?,
            (_, Some(program)) => steps.skip_test(name, &format!("{program}: not installed"))?,
            (Ok(_), None) => steps.run(name, cargo(&["xtask", "storm"]).args(command))?,
        }
    }
    match python::venv().await {
        Backend::Available(_) => steps.run("schemathesis", &mut cargo(&SHORT_SCHEMATHESIS))?,
        Backend::Unavailable(reason) => {
            steps.skip_test("schemathesis", &format!("Python: {reason}"))?;
        }
    }
    for name in ["docs", "console"] {
        match browser::find() {
            Ok(_) => steps.run(name, &mut cargo(&["xtask", name]))?,
            Err(error) => steps.skip_test(name, &format!("a browser: {error:#}"))?,
        }
    }
    Ok(())
}

/// A storm with the programs it needs besides PostgreSQL, long enough to kill every process
/// once under load: its name, the programs, its arguments.
type ShortStorm = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// One of each kind, and one for each pair of engines.
const SHORT_STORMS: [ShortStorm; 10] = [
    ("storm", &[], &["--orders=2000", "--kills=3"]),
    (
        "storm, local and postgres",
        &[],
        &[
            "--scale",
            "--queue=local",
            "--events=postgres",
            "--seconds=6",
        ],
    ),
    (
        "storm with a poisoned order",
        &[],
        &[
            "--scale",
            "--queue=local",
            "--events=postgres",
            "--seconds=6",
            "--poison",
        ],
    ),
    (
        "storm with failovers",
        &[],
        &["--failover", "--failovers=3"],
    ),
    (
        "storm, local and redis",
        &["redis-server"],
        &["--scale", "--queue=local", "--events=redis", "--seconds=6"],
    ),
    (
        "storm, redis and postgres",
        &["redis-server"],
        &[
            "--scale",
            "--queue=redis",
            "--events=postgres",
            "--seconds=6",
            "--wipes=1",
        ],
    ),
    (
        "storm, redis and redis",
        &["redis-server"],
        &[
            "--scale",
            "--queue=redis",
            "--events=redis",
            "--seconds=8",
            "--wipes=2",
            "--sink",
        ],
    ),
    (
        "storm, kafka and postgres",
        &["java"],
        &[
            "--scale",
            "--queue=kafka",
            "--events=postgres",
            "--seconds=6",
            "--wipes=1",
        ],
    ),
    (
        "storm, kafka and redis",
        &["java", "redis-server"],
        &[
            "--scale",
            "--queue=kafka",
            "--events=redis",
            "--seconds=6",
            "--wipes=1",
        ],
    ),
    (
        "rolling restart",
        &["haproxy", "redis-server"],
        &["--rolling", "--queue=redis", "--events=redis"],
    ),
];

/// About a minute, and the same requests each time: what it finds is about the change.
const SHORT_SCHEMATHESIS: [&str; 6] = [
    "xtask",
    "schemathesis",
    "--max-examples",
    "400",
    "--seed",
    "1",
];

/// One server for all test processes of the run. Without one, the tests that need it say
/// so themselves.
async fn start_postgres(steps: &mut Steps) -> Option<PostgresServer> {
    if std::env::var_os(TEST_POSTGRES_URL).is_some() {
        return None;
    }
    // What a test stores need not survive a power failure.
    match PostgresServer::start(&[("fsync", "off")]).await {
        Ok(server) => Some(server),
        Err(error) => {
            steps.skip("PostgreSQL for the tests", &format!("{error:#}"));
            None
        }
    }
}

/// The same for Redis.
async fn start_redis(steps: &mut Steps) -> Option<RedisServer> {
    if std::env::var_os(TEST_REDIS_URL).is_some() {
        return None;
    }
    match RedisServer::start(&[]).await {
        Ok(server) => Some(server),
        Err(error) => {
            steps.skip("Redis for the tests", &format!("{error:#}"));
            None
        }
    }
}

/// The same for Kafka.
async fn start_kafka(steps: &mut Steps) -> Option<KafkaServer> {
    if std::env::var_os(KAFKA_BROKERS).is_some() {
        return None;
    }
    match KafkaServer::start().await {
        Ok(server) => Some(server),
        Err(error) => {
            steps.skip("Kafka for the tests", &format!("{error:#}"));
            None
        }
    }
}

fn names_a_package(arguments: &[String]) -> bool {
    arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

fn has_nextest() -> bool {
    cargo(&["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arguments_of_the_runner_name_a_package() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(names_a_package(&words("-p order-core")));
        assert!(names_a_package(&words("--package=order-core some_test")));
        assert!(!names_a_package(&words("some_test -- -p")));
    }
}
