//! Opening a database file: its schema, its settings, its connections.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

/// The oldest SQLite that is safe: versions before 3.51.3 can corrupt the file when several
/// connections reset the write-ahead log.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// How long a statement waits for another process that writes. Longer than any of our
/// transactions, shorter than a client's patience.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a start waits for another process that creates or changes the schema.
const MIGRATION_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it looks whether that is over.
const MIGRATION_WAIT_STEP: Duration = Duration::from_millis(20);

/// More than the distinct statements of a connection, so each is compiled once.
const STATEMENT_CACHE_LEN: usize = 64;

mod embedded {
    refinery::embed_migrations!("../../migrations/sqlite");
}

/// Why a database file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The SQLite that is linked in is too old.
    #[error("SQLite has version {found}, but only {SQLITE_VERSION_MIN} and later are safe")]
    SqliteTooOld {
        /// Its version number.
        found: i32,
    },
    /// The directory of the file is missing. It is not made, since a wrong path is the
    /// likelier reason.
    #[error("the directory of the database {} does not exist", path.display())]
    DirectoryMissing {
        /// The path of the file.
        path: PathBuf,
    },
    /// The lock that guards the schema cannot be taken.
    #[error("the lock {} of the database cannot be taken", path.display())]
    Lock {
        /// The path of the lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be opened, or is not a database.
    #[error("the database {} cannot be opened", path.display())]
    Open {
        /// The path of the file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The schema cannot be brought to the version this program needs.
    #[error("the schema of the database {} cannot be migrated", path.display())]
    Migrate {
        /// The path of the file.
        path: PathBuf,
        /// What the migration said.
        source: Box<refinery::Error>,
    },
    /// The writing thread cannot be started.
    #[error("the writing thread of the database {} cannot be started", path.display())]
    Thread {
        /// The path of the file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The version of the schema this program needs: that of its last migration.
pub(super) fn schema_version() -> i32 {
    let runner = embedded::migrations::runner();
    let versions = runner
        .get_migrations()
        .iter()
        .map(refinery::Migration::version);
    versions.max().unwrap_or(0)
}

/// Reads the version of the schema that is there.
pub(super) fn read_schema_version(connection: &Connection) -> rusqlite::Result<i32> {
    connection
        .prepare_cached("SELECT max(version) FROM refinery_schema_history")?
        .query_row([], |row| row.get(0))
}

/// Creates the database file if it is missing and brings its schema up to date. Processes
/// that start at the same time do so one after the other.
pub(super) fn migrate(path: &Path) -> Result<(), OpenError> {
    check_sqlite_version(rusqlite::version_number())?;
    check_directory(path)?;
    // The lock file stays: deleting it would let two processes lock two files of one name.
    let _lock = lock(path)?;
    let mut connection = open_writer(path)?;
    embedded::migrations::runner()
        // All or nothing, and one commit instead of one for each.
        .set_grouped(true)
        // A later program has been here. What it added is not in the way of this one.
        .set_abort_missing(false)
        .run(&mut connection)
        .map_err(|error| OpenError::Migrate {
            path: path.to_owned(),
            source: Box::new(error),
        })?;
    Ok(())
}

fn check_sqlite_version(found: i32) -> Result<(), OpenError> {
    if found < SQLITE_VERSION_MIN {
        return Err(OpenError::SqliteTooOld { found });
    }
    Ok(())
}

fn check_directory(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Err(OpenError::DirectoryMissing {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Takes the exclusive lock that guards the schema; it ends with the file handle, also when
/// the process is killed.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |source| OpenError::Lock {
        path: lock_path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(failed)?;
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if waited < MIGRATION_WAIT_MAX => {
                thread::sleep(MIGRATION_WAIT_STEP);
                waited += MIGRATION_WAIT_STEP;
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Opens a connection that may write. Every commit is durable: the write-ahead log is
/// synced (`synchronous = FULL`). The file is never mapped into memory, where an I/O error
/// would be a signal instead of an error.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    open(
        path,
        flags,
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
    )
}

/// Opens a connection that can only read.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    open(path, flags, "")
}

fn open(path: &Path, flags: OpenFlags, settings: &str) -> Result<Connection, OpenError> {
    let configure = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE_LEN);
        connection.execute_batch(settings)?;
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA mmap_size = 0;")?;
        Ok(connection)
    };
    configure().map_err(|source| OpenError::Open {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_sqlite_is_refused() {
        let error = check_sqlite_version(3_051_002).expect_err("too old");
        assert_eq!(
            error.to_string(),
            "SQLite has version 3051002, but only 3051003 and later are safe"
        );
        assert!(check_sqlite_version(rusqlite::version_number()).is_ok());
    }

    #[test]
    fn writer_is_durable_and_reader_reads_only() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("orders.db");
        migrate(&path).expect("migrates");
        let writer = open_writer(&path).expect("opens");
        let reader = open_reader(&path).expect("opens");

        let setting = |connection: &Connection, name: &str| -> String {
            let sql = format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}");
            let value = connection.query_row(&sql, [], |row| row.get(0));
            value.expect("the setting can be read")
        };
        assert_eq!(setting(&writer, "journal_mode"), "wal");
        // 2 is FULL.
        assert_eq!(setting(&writer, "synchronous"), "2");
        assert_eq!(setting(&writer, "foreign_keys"), "1");
        assert!(reader.execute_batch("DELETE FROM orders").is_err());
    }

    #[test]
    fn orders_of_an_older_schema_are_kept() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("orders.db");
        let mut connection = open_writer(&path).expect("opens");
        embedded::migrations::runner()
            .set_target(refinery::Target::Version(4))
            .run(&mut connection)
            .expect("migrates");
        let insert = "INSERT INTO orders (id, user_id, amount_minor, currency, status, version, \
                      created_at, updated_at) VALUES (zeroblob(16), 'a', 1, 'USD', 1, 1, 0, 0)";
        assert_eq!(connection.execute(insert, []), Ok(1));

        migrate(&path).expect("migrates");

        assert_eq!(read_schema_version(&connection), Ok(schema_version()));
        let count = "SELECT count(*) FROM orders WHERE external_id IS NULL AND metadata IS NULL";
        assert_eq!(connection.query_row(count, [], |row| row.get(0)), Ok(1));
        // A program of that version that still runs goes on storing orders.
        let next = insert.replace("zeroblob(16)", "randomblob(16)");
        assert_eq!(connection.execute(&next, []), Ok(1));
    }

    #[test]
    fn schema_version_is_that_of_the_last_migration() {
        assert_eq!(schema_version(), 11);
    }
}
