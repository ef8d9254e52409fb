//! `cargo xtask schemathesis`: holds the HTTP API against its own OpenAPI document.
//!
//! Schemathesis reads `/openapi.json` and makes requests from it, right and wrong ones, one
//! by one and in sequences that follow the links of the document. Every answer must be one
//! that the document announces. Which of its checks mean something else here, and why, is
//! in `xtask/schemathesis.toml`; what no schema can say about a request is in
//! `xtask/schemathesis.py`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use order_testkit::server::{Backend, python};
use serde_json::Value;

use crate::system::{self, System};
use crate::workspace_root;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SchemathesisArgs {
    /// Requests to make for each operation of the API, in each phase that makes them up.
    #[arg(long, default_value_t = 2400)]
    max_examples: u32,
    /// Where the made-up requests begin: the same number makes the same requests.
    #[arg(long)]
    seed: Option<u64>,
    /// Test a server that runs already, like <http://127.0.0.1:8080>.
    #[arg(long)]
    url: Option<String>,
    /// Run optimised binaries.
    #[arg(long)]
    release: bool,
}

/// Runs it; fails if any answer breaks the document.
pub(crate) async fn run(args: SchemathesisArgs) -> anyhow::Result<()> {
    let programs = match python::venv().await {
        Backend::Available(directory) => directory.join("bin"),
        Backend::Unavailable(reason) => bail!("schemathesis is not available: {reason}"),
    };
    if let Some(url) = &args.url {
        return test(&programs, url, &args);
    }
    let binaries = system::build(args.release)?;
    let directory = tempfile::tempdir().context("cannot make a directory for the database")?;
    let database_url = format!("sqlite:{}", directory.path().join("orders.db").display());
    let settings = [
        ("RUST_LOG", "warn,order_app=info"),
        // Orders stay PENDING for a moment, so that some of them can be cancelled, and not
        // so long that requests which wait for their end make the run slow.
        ("PROCESSOR_DELAY", "50ms"),
        ("WORKERS", "100"),
    ];
    let system = System::start_all_in_one(&binaries, &database_url, &settings).await?;
    let url = format!("http://127.0.0.1:{}", system.http_port);
    let result = test(&programs, &url, &args);
    system.stop().await?;
    result
}

fn test(programs: &Path, url: &str, args: &SchemathesisArgs) -> anyhow::Result<()> {
    let directory = workspace_root().join("target/schemathesis");
    fs::create_dir_all(&directory).context("cannot make the folder of the report")?;
    let report = directory.join("report.json");
    let mut command = Command::new(programs.join("st"));
    command
        .arg("--config-file")
        .arg(workspace_root().join("xtask/schemathesis.toml"))
        .args(["run", &format!("{url}/openapi.json")])
        .args(["--max-examples", &args.max_examples.to_string()])
        .args(["--report", "json", "--report-json-path"])
        .arg(&report)
        .env(
            "SCHEMATHESIS_HOOKS",
            workspace_root().join("xtask/schemathesis.py"),
        )
        // Whatever else it writes goes to its working directory.
        .current_dir(&directory)
        .stdin(Stdio::null());
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    let status = command.status().context("cannot run schemathesis")?;
    ensure!(status.success(), "schemathesis found failures");
    let report = fs::read(&report).context("cannot read the report")?;
    let cases = count_cases(&serde_json::from_slice(&report)?)?;
    println!(
        "{cases} cases, no failures; report in {}",
        directory.display()
    );
    Ok(())
}

/// The number of requests that a run without failures made. Fails if it left something
/// out, so that a document nothing can be made from does not pass as an API without faults.
fn count_cases(report: &Value) -> anyhow::Result<u64> {
    let number = |pointer: &str| {
        let value = report.pointer(pointer).and_then(Value::as_u64);
        value.with_context(|| format!("the report has no number {pointer}"))
    };
    let (total, tested) = (number("/operations/total")?, number("/operations/tested")?);
    ensure!(
        tested == total,
        "only {tested} of {total} operations were tested"
    );
    for phase in ["coverage", "fuzzing", "stateful"] {
        let status = report.pointer(&format!("/phases/{phase}/status"));
        ensure!(
            status.and_then(Value::as_str) == Some("success"),
            "the phase {phase} ended with {status:?}"
        );
    }
    ensure!(number("/test_cases/errored")? == 0, "requests went wrong");
    number("/test_cases/generated")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn run_that_leaves_something_out_has_not_passed() {
        let full = json!({
            "operations": {"total": 9, "tested": 9},
            "phases": {
                "coverage": {"status": "success"},
                "fuzzing": {"status": "success"},
                "stateful": {"status": "success"},
            },
            "test_cases": {"generated": 700, "errored": 0},
        });
        assert_eq!(count_cases(&full).unwrap(), 700);
        for (pointer, value) in [
            ("/operations/tested", json!(8)),
            ("/phases/stateful/status", json!("skip")),
            ("/test_cases/errored", json!(1)),
            ("/test_cases", json!({})),
        ] {
            let mut report = full.clone();
            *report.pointer_mut(pointer).unwrap() = value;
            assert!(count_cases(&report).is_err(), "{pointer}");
        }
    }
}
