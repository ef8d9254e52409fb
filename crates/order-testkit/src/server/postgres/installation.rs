//! The PostgreSQL that is installed on this machine: where its programs are and which
//! account they run under.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// The superuser of every server started here. It has no password: the server listens on
/// loopback only and holds nothing but what tests store.
pub(super) const SUPERUSER: &str = "postgres";

/// What `initdb` is told, besides where the data goes. No option has a space in it, since
/// a shell splits them again.
pub(super) const INITDB_OPTIONS: &[&str] = &[
    "--auth=trust",
    "--encoding=UTF8",
    "--no-locale",
    "--no-sync",
    "--username=postgres",
];

/// The PostgreSQL programs of this machine and the account they run under.
#[derive(Clone, Debug)]
pub struct Installation {
    programs: PathBuf,
    /// User and group id to change to; PostgreSQL refuses to run as root.
    account: Option<(u32, u32)>,
}

impl Installation {
    /// Looks in the directory `PG_BIN` names, in `PATH`, and where Debian puts the
    /// programs, newest version first.
    pub fn find() -> anyhow::Result<Self> {
        let programs = program_directories()
            .into_iter()
            .find_map(|directory| {
                // Behind a link are the other programs, and the libraries beside them.
                let server = fs::canonicalize(directory.join("postgres")).ok()?;
                let programs = server.parent()?;
                programs.join("initdb").is_file().then(|| programs.into())
            })
            .context("the programs postgres and initdb are neither in PG_BIN nor in PATH nor in /usr/lib/postgresql/*/bin")?;
        let account = if own_id("-u")? == 0 {
            // The account comes with the package; where the programs came another way, any
            // account without rights serves.
            Some(
                ["postgres", "nobody"]
                    .into_iter()
                    .find_map(account)
                    .context("postgresql does not run as root and there is no user postgres")?,
            )
        } else {
            None
        };
        Ok(Self { programs, account })
    }

    /// A command that runs one of the programs under the right account.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.command_at(&self.program(program));
        // The programs change into their working directory, which the account may be
        // forbidden to read.
        command.current_dir("/");
        command
    }

    /// Makes a directory that belongs to the account the programs run under, if it does not
    /// exist yet.
    pub fn create_directory(&self, path: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(path)
            .and_then(|()| match self.account {
                Some((user, group)) => chown(path, Some(user), Some(group)),
                None => Ok(()),
            })
            .with_context(|| format!("cannot make the directory {}", path.display()))
    }

    /// Makes a new, empty database cluster in `data`.
    pub fn initialize(&self, data: &Path) -> anyhow::Result<()> {
        let output = self
            .command("initdb")
            .args(INITDB_OPTIONS)
            .arg("--pgdata")
            .arg(data)
            .output()
            .context("cannot run initdb")?;
        ensure!(
            output.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// The settings that load `pg_stat_statements`, if it is installed.
    pub fn statement_statistics(&self) -> Option<(&'static str, &'static str)> {
        self.programs
            .join("../lib/pg_stat_statements.so")
            .is_file()
            .then_some(("shared_preload_libraries", "pg_stat_statements"))
    }

    /// Where one of the programs is.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A command that runs any program under the right account.
    pub(super) fn command_at(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.account {
            command.uid(user).gid(group);
        }
        command
    }
}

fn program_directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = std::env::var_os("PG_BIN")
        .into_iter()
        .map(PathBuf::from)
        .collect();
    if let Some(path) = std::env::var_os("PATH") {
        directories.extend(std::env::split_paths(&path));
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    directories.extend(versions.into_iter().map(|(_, directory)| directory));
    directories
}

/// The user (`-u`) or group (`-g`) id of this process.
fn own_id(flag: &str) -> anyhow::Result<u32> {
    let output = Command::new("id").arg(flag).output();
    output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok())
        .context("cannot tell which user this is")
}

/// User and group id of an account, if there is one of this name.
fn account(name: &str) -> Option<(u32, u32)> {
    let id = |flag| {
        let output = Command::new("id").args([flag, name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((id("-u")?, id("-g")?))
}
