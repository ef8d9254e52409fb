//! Real servers for tests: a private PostgreSQL and Redis, the project's own binaries, and
//! a Python to be their client.
//!
//! Owns finding, starting, stopping and killing them, and the rule that a test that
//! cannot run says so. Must not know what a test does with a server.
//!
//! Invariants: every server listens on loopback only and on a free port; no server
//! outlives the process that started it, however that process ends; a missing server is
//! reported by name and never looks like success.

use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};

pub mod forward;
pub mod kafka;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod python;
pub mod redis;

/// The environment variable that names a file to which every skipped test adds a line.
pub const SKIP_REPORT: &str = "SKIP_REPORT";

/// The environment variable that, set to `1`, makes a missing server a failure.
pub const REQUIRE_BACKENDS: &str = "REQUIRE_BACKENDS";

/// A server that a test can use, or the reason why there is none.
#[derive(Clone, Debug)]
pub enum Backend<T> {
    /// It runs.
    Available(T),
    /// It cannot run here; the text says why.
    Unavailable(String),
}

/// Where [`free_port`] looks: below the ports that Linux gives to outgoing connections,
/// which a client of another test could take at any moment.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// How many ports [`free_port`] tries.
const PORT_TRIES_MAX: usize = 100;

/// Finds a TCP port on 127.0.0.1 that nobody listens on.
///
/// Another process may take it before the caller does, so a caller that starts a server
/// on it waits until that server answers.
pub fn free_port() -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_TRIES_MAX {
        let port = rand::random_range(PORTS);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Ends the running test as skipped, naming what it needs and why that is missing.
///
/// Takes the arguments of [`format!`]: `skip!("PostgreSQL: {reason}")`. Prints
/// `skipped: <test> needs PostgreSQL: <reason>` and returns from the test function. With
/// `REQUIRE_BACKENDS=1` the test fails instead.
#[macro_export]
macro_rules! skip {
    ($($need:tt)+) => {{
        fn marker() {}
        $crate::server::report_skip(
            ::std::any::type_name_of_val(&marker),
            ::std::format_args!($($need)+),
        );
        return;
    }};
}

/// What [`skip!`](crate::skip) does before it returns from the test.
///
/// `marker` is the type name of a function declared inside the test: the only way to learn
/// the name of the test that does not depend on the thread it runs on.
///
/// # Panics
/// If `REQUIRE_BACKENDS` is `1`, and if the report cannot be written: a skip that nobody
/// sees is a test that silently does not exist.
pub fn report_skip(marker: &str, need: fmt::Arguments<'_>) {
    let test = test_name(marker);
    assert!(
        std::env::var(REQUIRE_BACKENDS).as_deref() != Ok("1"),
        "{test} needs {need}, and {REQUIRE_BACKENDS}=1 allows no skip"
    );
    let line = format!("skipped: {test} needs {need}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os(SKIP_REPORT) {
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            // One write per line, so that lines of parallel tests do not mix.
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        assert!(
            written.is_ok(),
            "cannot add to the skip report {}: {written:?}",
            path.display()
        );
    }
}

/// The path of a test function, from the type name of a function inside it.
fn test_name(marker: &str) -> &str {
    let test = marker.strip_suffix("::marker").unwrap_or(marker);
    // An async test is a closure inside the function that has the name.
    test.trim_end_matches("::{{closure}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_seen_by_a_skip() -> &'static str {
        fn marker() {}
        test_name(std::any::type_name_of_val(&marker))
    }

    #[test]
    fn a_skip_knows_the_test_it_is_in() {
        assert!(name_seen_by_a_skip().ends_with("server::tests::name_seen_by_a_skip"));
    }

    #[tokio::test]
    async fn a_skip_knows_the_async_test_it_is_in() {
        fn marker() {}
        let name = test_name(std::any::type_name_of_val(&marker));
        assert!(
            name.ends_with("tests::a_skip_knows_the_async_test_it_is_in"),
            "{name}"
        );
    }

    #[test]
    fn a_free_port_can_be_listened_on() {
        let port = free_port().unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
