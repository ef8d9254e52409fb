//! Three services, three workers and two gateways, as processes on one database.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use order_testkit::server::free_port;

use crate::{
    system::{Process, loopback},
    workspace_root,
};

/// What a process of the fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `order-service`, without workers of its own.
    Service,
    /// `order-worker`.
    Worker,
    /// `api-gateway`.
    Gateway,
}

/// How many of each kind there are.
const SIZES: [(Kind, usize); 3] = [(Kind::Service, 3), (Kind::Worker, 3), (Kind::Gateway, 2)];

impl Kind {
    /// The name of the program.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Service => "order-service",
            Self::Worker => "order-worker",
            Self::Gateway => "api-gateway",
        }
    }
}

/// What all services and workers have: leases short enough that the jobs of a killed worker
/// are soon taken over, and orders that take so long that there is something to kill and to
/// watch. Nothing here is gentler than the defaults.
const SETTINGS: [(&str, &str); 3] = [
    ("LEASE", "2s"),
    ("PROCESSOR_DELAY", "200ms"),
    // Quiet, but for the line that says that the process is ready.
    ("RUST_LOG", "warn,order_app::process=info"),
];

/// Orders that one worker process works on at the same time: with the delay above, three of
/// them are good for more than a thousand orders a second.
const WORKERS: &str = "80";

/// One process of the fleet.
pub(super) struct Member {
    pub(super) kind: Kind,
    /// Like `order-service-2`.
    pub(super) name: String,
    /// Port of what clients use; workers have none.
    pub(super) port: u16,
    /// Port of `/readyz`.
    pub(super) admin_port: u16,
    process: Process,
}

impl Member {
    fn new(
        programs: &Path,
        kind: Kind,
        n: usize,
        port: u16,
        mut settings: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Self> {
        let admin_port = free_port()?;
        settings.push(("ADMIN_ADDR", loopback(admin_port)));
        Ok(Self {
            kind,
            name: format!("{}-{n}", kind.program()),
            port,
            admin_port,
            process: Process::new(programs.join(kind.program()), settings),
        })
    }
}

/// All of them.
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    /// Where the output of every run goes, a file for each member.
    logs: PathBuf,
}

impl Fleet {
    /// Starts all processes and waits until they serve. `core` is set for services and
    /// workers, `front` for what clients reach: services and gateways. `processor` gives
    /// a worker, by its name, settings of its own.
    pub(super) async fn start(
        programs: &Path,
        database_url: &str,
        core: &[(&'static str, String)],
        front: &[(&'static str, String)],
        processor: impl Fn(&str) -> Vec<(&'static str, String)>,
    ) -> anyhow::Result<Self> {
        let logs = workspace_root().join("target/storm");
        // What is left of the last run would be taken for this one.
        let _absent = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs)?;
        let mut members = Vec::new();
        let mut service_urls: Vec<String> = Vec::new();
        for (kind, size) in SIZES {
            for n in 1..=size {
                let mut settings = SETTINGS
                    .map(|(name, value)| (name, value.to_owned()))
                    .to_vec();
                if kind != Kind::Worker {
                    settings.extend_from_slice(front);
                }
                if kind != Kind::Gateway {
                    settings.push(("DATABASE_URL", database_url.to_owned()));
                    settings.extend_from_slice(core);
                }
                let port = free_port()?;
                match kind {
                    Kind::Service => {
                        let grpc = loopback(free_port()?);
                        service_urls.push(format!("http://{grpc}"));
                        settings.extend([("GRPC_ADDR", grpc), ("WS_ADDR", loopback(port))]);
                        settings.push(("WORKERS", "0".to_owned()));
                    }
                    Kind::Worker => {
                        settings.push(("WORKERS", WORKERS.to_owned()));
                        let name = format!("{}-{n}", kind.program());
                        settings.extend(processor(&name));
                    }
                    Kind::Gateway => {
                        settings.push(("HTTP_ADDR", loopback(port)));
                        settings.push(("ORDER_SERVICE_URL", service_urls.join(",")));
                    }
                }
                members.push(Member::new(programs, kind, n, port, settings)?);
            }
        }
        let mut fleet = Self { members, logs };
        for member in &mut fleet.members {
            member.process.spawn()?;
        }
        fleet.wait_until_ready().await?;
        Ok(fleet)
    }

    /// Waits until every process has said that it serves.
    pub(super) async fn wait_until_ready(&self) -> anyhow::Result<()> {
        for member in &self.members {
            member
                .process
                .wait_until_ready()
                .await
                .with_context(|| member.name.clone())?;
        }
        Ok(())
    }

    /// Kills a process and starts it again at once. Fails if it had ended by itself.
    pub(super) async fn kill(&mut self, n: usize) -> anyhow::Result<Kind> {
        let member = self.members.get_mut(n).context("no such process")?;
        let output = member.process.kill().await?;
        member.process.spawn()?;
        let (kind, name) = (member.kind, member.name.clone());
        self.keep(&name, &output)?;
        Ok(kind)
    }

    /// Stops a process in good order, starts it again and waits until it serves. Fails
    /// unless its exit code was 0.
    pub(super) async fn restart(&mut self, n: usize) -> anyhow::Result<&Member> {
        let member = self.members.get_mut(n).context("no such process")?;
        let output = member.process.stop().await?;
        member.process.start().await?;
        let name = member.name.clone();
        self.keep(&name, &output)?;
        self.members.get(n).context("no such process")
    }

    /// Stops everything in good order, gateways first, and checks the exit codes.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        while let Some(mut member) = self.members.pop() {
            let output = member.process.stop().await?;
            self.keep(&member.name, &output)?;
        }
        Ok(())
    }

    /// Addresses of one kind, each after `scheme` and before `path`.
    pub(super) fn urls(&self, kind: Kind, scheme: &str, path: &str) -> Vec<String> {
        self.members
            .iter()
            .filter(|member| member.kind == kind)
            .map(|member| format!("{scheme}://{}{path}", loopback(member.port)))
            .collect()
    }

    fn keep(&self, name: &str, output: &str) -> anyhow::Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.logs.join(format!("{name}.log")))?;
        file.write_all(output.as_bytes())?;
        Ok(())
    }
}

/// How often something happened to processes of each kind.
#[derive(Debug, Default)]
pub(super) struct PerKind(BTreeMap<Kind, u32>);

impl PerKind {
    /// Counts one.
    pub(super) fn add(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// How often it happened in all.
    pub(super) fn total(&self) -> u32 {
        self.0.values().sum()
    }

    /// Like `order-service 3, order-worker 3, api-gateway 2`.
    pub(super) fn text(&self) -> String {
        let parts: Vec<String> = SIZES
            .iter()
            .map(|(kind, _)| {
                let n = self.0.get(kind).copied().unwrap_or_default();
                format!("{} {n}", kind.program())
            })
            .collect();
        parts.join(", ")
    }
}
