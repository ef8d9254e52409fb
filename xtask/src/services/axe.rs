//! axe-core, which finds faults of accessibility in a page. It comes from npm and is never part of
//! the repository.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};

use super::find_program;
use crate::workspace_root;

/// The version that is fetched.
const PACKAGE: &str = "axe-core@4.14.1";

/// Where the script is, once it was fetched.
pub(crate) fn script() -> PathBuf {
    directory().join("node_modules/axe-core/axe.min.js")
}

fn directory() -> PathBuf {
    workspace_root().join("target/services/axe")
}

/// Fetches the script, unless it is there.
pub(super) fn install() -> anyhow::Result<()> {
    if script().is_file() {
        return Ok(());
    }
    if find_program("npm").is_none() {
        eprintln!("no axe-core: npm is not installed");
        return Ok(());
    }
    let directory = directory();
    std::fs::create_dir_all(&directory).context("cannot make the folder of axe-core")?;
    eprintln!("fetching {PACKAGE} with npm");
    let status = Command::new("npm")
        .args([
            "install",
            "--no-save",
            "--no-package-lock",
            "--ignore-scripts",
        ])
        .args(["--no-audit", "--no-fund", "--prefix"])
        .arg(&directory)
        .arg(PACKAGE)
        .status()
        .context("cannot run npm")?;
    ensure!(status.success(), "npm cannot fetch {PACKAGE}");
    Ok(())
}
