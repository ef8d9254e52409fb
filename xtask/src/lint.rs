//! `cargo xtask lint`: everything that can be said about the code without running it.

use std::process::{Command, Stdio};

use crate::steps::Steps;
use crate::{cargo, workspace_root};

/// Runs every check in turn and stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    let result = check(&mut steps);
    eprint!("{}", steps.summary());
    result
}

fn check(steps: &mut Steps) -> anyhow::Result<()> {
    steps.run("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets"];
    let deny = ["--", "-D", "warnings"];
    steps.run("clippy", cargo(&clippy).args(deny))?;
    steps.run(
        "clippy with all features",
        cargo(&clippy).arg("--all-features").args(deny),
    )?;
    check_dependencies(steps)?;
    check_protos(steps)?;
    steps.run(
        "documentation",
        cargo(&[
            "doc",
            "--workspace",
            "--all-features",
            "--no-deps",
            "--quiet",
        ])
        .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    steps.run(
        "rules of the repository",
        &mut cargo(&["test", "--quiet", "--package", "xtask", "--test", "tidy"]),
    )
}

fn check_dependencies(steps: &mut Steps) -> anyhow::Result<()> {
    if !succeeds(&mut cargo(&["deny", "--version"])) {
        let reason = "cargo-deny is not installed (cargo install cargo-deny --locked)";
        steps.skip("licenses, bans, sources, advisories", reason);
        return Ok(());
    }
    steps.run(
        "licenses, bans, sources",
        &mut cargo(&["deny", "check", "licenses", "bans", "sources"]),
    )?;
    if !succeeds(&mut cargo(&["deny", "fetch", "db"])) {
        steps.skip("advisories", "the advisory database cannot be fetched");
        return Ok(());
    }
    steps.run(
        "advisories",
        &mut cargo(&["deny", "check", "--disable-fetch", "advisories"]),
    )
}

fn check_protos(steps: &mut Steps) -> anyhow::Result<()> {
    let name = "protos";
    if !succeeds(Command::new("buf").arg("--version")) {
        let reason = "buf is not installed (go install github.com/bufbuild/buf/cmd/buf@latest)";
        steps.skip(name, reason);
        return Ok(());
    }
    steps.run(
        name,
        Command::new("buf")
            .arg("lint")
            .current_dir(workspace_root()),
    )
}

/// Whether a command that is only asked can be run and succeeds.
fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
