//! A Python with the packages that tests of the wire need: a gRPC client of another make,
//! and a tester of the HTTP API.
//!
//! Owns one virtual environment for the whole workspace, under the target folder. Nothing
//! is installed into the Python of the machine. Must not know what a test runs in it.
//!
//! Invariants: the environment that is handed out has exactly the packages of
//! `python/requirements.txt`; however many tests ask at the same time, one of them makes it.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::Instant;

use super::Backend;
use super::process::ChildServer;

/// Every package by its exact version, those that others need included.
const REQUIREMENTS: &str = include_str!("python/requirements.txt");

/// How long making the environment may take; most of it is the download.
const INSTALL_TIMEOUT: Duration = Duration::from_mins(5);

/// How long to wait for another process that makes the environment.
const LOCK_TIMEOUT: Duration = Duration::from_mins(6);

/// The time between two tries to get the lock.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The virtual environment, made by the first who asks: its programs are in `bin`.
///
/// Unavailable where there is no Python with the module `venv`, and where the packages
/// cannot be downloaded. Needs a tokio runtime with real time. Cancel safe: an environment
/// that is half done is made again by the next who asks.
pub async fn venv() -> Backend<PathBuf> {
    match find_or_make(&target_directory()).await {
        Ok(directory) => Backend::Available(directory),
        Err(error) => Backend::Unavailable(format!("{error:#}")),
    }
}

/// The target folder of the workspace.
fn target_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

async fn find_or_make(target: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(target).context("cannot make the target folder")?;
    let target = fs::canonicalize(target).context("cannot find the target folder")?;
    let directory = target.join("python-venv");
    let lock = File::create(target.join("python-venv.lock")).context("cannot make a lock file")?;
    // The operating system gives the lock back when the file is closed.
    acquire(&lock).await?;
    if !is_complete(&directory) {
        make(&directory).await?;
    }
    Ok(directory)
}

async fn acquire(lock: &File) -> anyhow::Result<()> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).context("cannot lock the virtual environment");
            }
        }
        ensure!(
            Instant::now() < deadline,
            "another process has been making the virtual environment for {LOCK_TIMEOUT:?}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Whether the environment has the packages that are wanted today.
fn is_complete(directory: &Path) -> bool {
    fs::read_to_string(marker(directory)).is_ok_and(|found| found == REQUIREMENTS)
}

/// The file that is written last.
fn marker(directory: &Path) -> PathBuf {
    directory.join("requirements.txt")
}

async fn make(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context("cannot remove the old virtual environment");
        }
        _ => {}
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(directory)).await?;
    let wanted = directory.join("wanted.txt");
    fs::write(&wanted, REQUIREMENTS).context("cannot write the list of packages")?;
    let mut install = Command::new(directory.join("bin/python"));
    install
        .args(["-m", "pip", "install", "--quiet", "--no-input"])
        .args(["--disable-pip-version-check", "--timeout=15", "--retries=2"])
        // A package without a wheel for this machine would be compiled for minutes.
        .args(["--only-binary=:all:", "--no-deps", "--requirement"])
        .arg(&wanted);
    run(&mut install).await?;
    fs::rename(&wanted, marker(directory)).context("cannot mark the environment as complete")
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = ChildServer::spawn(command)?;
    let status = program.wait_for_exit(INSTALL_TIMEOUT).await?;
    if !status.success() {
        let name = command.get_program().display();
        bail!("{name} ended with {status}: {}", program.output().trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lock_has_one_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = File::create(&path).unwrap();
        acquire(&first).await.unwrap();
        let second = File::create(&path).unwrap();
        let mut waiting = Box::pin(acquire(&second));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("two have the lock"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        waiting.await.unwrap();
    }

    #[test]
    fn every_package_has_one_version() {
        let mut names = std::collections::BTreeSet::new();
        for line in REQUIREMENTS.lines().filter(|line| !line.starts_with('#')) {
            let (name, version) = line.split_once("==").expect(line);
            assert!(!version.is_empty(), "{line}");
            assert!(names.insert(name), "{name} is listed twice");
        }
        assert!(names.contains("grpcio") && names.contains("schemathesis"));
    }

    #[test]
    fn environment_of_other_packages_is_not_complete() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_complete(directory.path()));
        fs::write(marker(directory.path()), "grpcio==1.0\n").unwrap();
        assert!(!is_complete(directory.path()));
        fs::write(marker(directory.path()), REQUIREMENTS).unwrap();
        assert!(is_complete(directory.path()));
    }

    #[tokio::test]
    async fn environment_has_its_packages() {
        let directory = match venv().await {
            Backend::Available(directory) => directory,
            Backend::Unavailable(reason) => crate::skip!("Python: {reason}"),
        };
        let imports = "import grpc, grpc_tools, schemathesis";
        run(Command::new(directory.join("bin/python")).args(["-c", imports]))
            .await
            .unwrap();
    }
}
