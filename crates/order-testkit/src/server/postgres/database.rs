//! A fresh database per test, on a server that the tests share.

use anyhow::Context;
use tokio::sync::OnceCell;

use super::{PostgresServer, execute};
use crate::server::Backend;

/// The environment variable with the superuser URL of a server that is shared by all test
/// processes of a run.
pub const TEST_POSTGRES_URL: &str = "TEST_POSTGRES_URL";

/// A server that many tests share, each with a [`database`] of its own.
#[derive(Clone, Debug)]
pub struct SharedPostgres {
    /// The URL of the superuser.
    pub url: String,
}

/// The server all tests of this run share: the one `TEST_POSTGRES_URL` names, else one
/// that this process starts once and that ends with it.
pub async fn shared() -> Backend<SharedPostgres> {
    static STARTED: OnceCell<Backend<PostgresServer>> = OnceCell::const_new();

    if let Ok(url) = std::env::var(TEST_POSTGRES_URL) {
        return match execute(&url, "SELECT 1").await {
            Ok(()) => Backend::Available(SharedPostgres { url }),
            Err(error) => Backend::Unavailable(format!("{TEST_POSTGRES_URL}: {error:#}")),
        };
    }
    let started = STARTED
        .get_or_init(|| async {
            match PostgresServer::start(&[("fsync", "off")]).await {
                Ok(server) => Backend::Available(server),
                Err(error) => Backend::Unavailable(format!("{error:#}")),
            }
        })
        .await;
    match started {
        Backend::Available(server) => Backend::Available(SharedPostgres { url: server.url() }),
        Backend::Unavailable(reason) => Backend::Unavailable(reason.clone()),
    }
}

/// A database that belongs to one test. Dropping it drops it on the server, together with
/// the connections that are left; a failure of that is ignored, since the server is
/// private to the test run.
#[derive(Debug)]
pub struct TestDatabase {
    /// The URL of its owner, who is the superuser.
    pub url: String,
    name: String,
    server: SharedPostgres,
}

/// Makes an empty database on the shared server.
pub async fn database(server: &SharedPostgres) -> anyhow::Result<TestDatabase> {
    let name = format!("test_{:016x}", rand::random::<u64>());
    // template0, because nobody can be connected to it, which would stop the copy.
    execute(
        &server.url,
        &format!("CREATE DATABASE {name} TEMPLATE template0"),
    )
    .await?;
    Ok(TestDatabase {
        url: with_database(&server.url, &name)?,
        name,
        server: server.clone(),
    })
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let url = &self.server.url;
        // A thread and a runtime of its own: the runtime of the test may be on its way
        // out, and its clock may stand still.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                if let Ok(runtime) = runtime {
                    let _best_effort = runtime.block_on(execute(url, &statement));
                }
            });
        });
    }
}

/// The same URL with another database.
fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("not a URL")?;
    let (rest, parameters) = rest
        .split_once('?')
        .map_or((rest, None), |(rest, parameters)| (rest, Some(parameters)));
    let authority = rest
        .split_once('/')
        .map_or(rest, |(authority, _)| authority);
    let parameters = parameters.map_or(String::new(), |text| format!("?{text}"));
    Ok(format!("{scheme}://{authority}/{name}{parameters}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_of_a_url_changes() {
        for (url, expected) in [
            ("postgres://a:b@h:1/x", "postgres://a:b@h:1/y"),
            ("postgres://a@h:1", "postgres://a@h:1/y"),
            (
                "postgres://a@h/x?sslmode=disable",
                "postgres://a@h/y?sslmode=disable",
            ),
        ] {
            assert_eq!(with_database(url, "y").unwrap(), expected);
        }
        assert!(with_database("host=h", "y").is_err());
    }
}
