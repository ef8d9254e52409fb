//! Builds the core of the system: store, workers, hub and the service over them.

mod brokers;
mod database;
mod remote;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use order_adapters::{
    fulfilment::{FulfilmentConfig, HttpProcessor},
    system::{SystemClock, UuidV7Ids},
};
use order_core::{
    Admin, AdminApi, Clock, Directive, IdGen, Identity, OrderService, OrderServiceConfig,
    OrderServiceDeps, OrderStore, ProcessId, Processor, RetryPolicy,
    group_commit::{GroupCommitConfig, Lanes},
    supervisor::{Beat, Supervisor, Task},
};
use order_hub::{Hub, HubConfig};
use order_worker::{
    AutoProcessor, RemoteWorkers, RemoteWorkersConfig, RemoteWorkersDeps, WorkerConfig, WorkerDeps,
    WorkerPool,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{brokers::Brokers, database::Database};
pub(crate) use self::{
    database::{drop_event_sink, migrate},
    remote::Remote,
};
use crate::{
    backlog::BacklogView,
    config::{CoreConfig, DatabaseUrl, EventsUrl, ProcessorConfig, ProcessorKind, ServingConfig},
    lifecycle::Exit,
    maintenance,
    metrics::Metrics,
    presence::Presence,
};

/// Everything that touches orders in this process.
pub(crate) struct Core {
    pub(crate) service: Arc<OrderService>,
    admin: Arc<dyn AdminApi>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) remote_workers: Arc<RemoteWorkers>,
    pool: Arc<WorkerPool>,
    database: Database,
    /// The lanes, the workers, and statements for workers outside.
    tasks: TaskTracker,
    background: Background,
}

impl Core {
    /// Opens the database and starts the workers. Without `serving` nobody watches orders
    /// here.
    pub(crate) async fn start(
        url: &DatabaseUrl,
        config: &CoreConfig,
        serving: Option<&ServingConfig>,
        (clock, ids): (&Arc<dyn Clock>, &Arc<dyn IdGen>),
        identity: Identity,
        metrics: &mut Metrics,
    ) -> anyhow::Result<Self> {
        // A setting that cannot work is told before anything is touched.
        let processor = processor(&config.processor, clock)?;
        let brokers = Brokers::new(url, config)?;
        let database = Database::open(url, config.startup_timeout, clock, &identity)
            .await
            .context("cannot open the database")?;
        let supervisor = Supervisor::new(clock);
        let background = Background::new(&supervisor);
        let hub = Hub::new(hub_config(config), database.store(), Arc::clone(clock));
        let bus = brokers.event_bus(&hub, serving.is_some(), &background, metrics);
        let workers = worker_config(config, database.create_lanes());
        let deps = WorkerDeps {
            queue: database.queue(),
            bus: Arc::clone(&bus),
            processor,
            hints: brokers.hints.clone(),
            clock: Arc::clone(clock),
            supervisor: Arc::clone(&supervisor),
        };
        let tasks = TaskTracker::new();
        let pool = Arc::new(WorkerPool::new(workers, deps));
        let deps = RemoteWorkersDeps {
            queue: database.remote_queue(),
            bus: Arc::clone(&bus),
            clock: Arc::clone(clock),
            tasks: tasks.clone(),
            ends: pool.stats().ends.clone(),
        };
        let remote_workers = remote_workers(config, deps);
        // Before the first order, so that it gets the first event.
        let relay = brokers.start_relay(&database, config.startup_timeout, &background, metrics);
        relay.await?;
        let page_token_key = database.store().page_token_key().await;
        let page_token_key = page_token_key.context("cannot read the key of page tokens")?;
        let (service, lanes) = OrderService::new(
            service_config(serving, database.create_lanes()),
            OrderServiceDeps {
                process_name: Some(identity.name().into()),
                store: database.store(),
                dispatch: remote_workers.dispatch(brokers.dispatch(&pool, &background, metrics)),
                bus,
                watch: Arc::clone(&hub) as _,
                clock: Arc::clone(clock),
                ids: Arc::clone(ids),
                page_token_key,
                supervisor: Arc::clone(&supervisor),
            },
        );
        let service = Arc::new(service);
        let core = Self {
            admin: Arc::new(Admin::new(&service, database.admin_store())),
            service,
            hub,
            remote_workers,
            pool,
            database,
            tasks,
            background,
        };
        core.run(lanes, clock, metrics);
        Ok(core)
    }

    fn run(&self, lanes: Lanes, clock: &Arc<dyn Clock>, metrics: &mut Metrics) {
        let background = &self.background;
        for lane in lanes {
            self.tasks.spawn(background.supervisor.run(lane));
        }
        // Until the first report is answered, or fails: a process that is started during a pause
        // begins nothing.
        set_paused(&self.pool, &self.remote_workers, true);
        self.pool.start(&self.tasks);
        background.start_upkeep(&self.hub, &self.database.store(), clock);
        self.measure(metrics, clock);
    }

    fn measure(&self, metrics: &mut Metrics, clock: &Arc<dyn Clock>) {
        let backlog = self.background.start_backlog(&self.database.store(), clock);
        metrics.backlog(&backlog);
        metrics.supervisor(&self.background.supervisor);
        metrics.hub(&self.hub);
        metrics.created(self.service.created());
        metrics.commits(self.service.commits());
        metrics.commits(self.pool.commits());
        metrics.workers(&self.pool);
        metrics.remote_workers(self.remote_workers.stats());
        metrics.pools(self.database.pools());
    }

    /// The system, as its operators see it.
    pub(crate) fn admin(&self) -> Arc<dyn AdminApi> {
        Arc::clone(&self.admin)
    }

    /// Has `presence` report until the end, and pauses or resumes processing as the answers say.
    pub(crate) fn run_presence(&self, presence: Presence) {
        let (pool, remote_workers) = (Arc::clone(&self.pool), Arc::clone(&self.remote_workers));
        let apply = move |directive: Directive| {
            set_paused(&pool, &remote_workers, directive.is_paused);
        };
        let stop = self.background.stop.clone();
        self.background
            .run(presence.task(self.admin(), apply, stop));
    }

    /// Takes no new jobs; those at hand go on.
    pub(crate) fn stop_claiming(&self) {
        self.pool.stop_claiming();
        self.remote_workers.stop();
    }

    /// Finishes or releases jobs, commits what waits and closes the database.
    pub(crate) async fn stop(self, jobs_timeout: Duration, commits_timeout: Duration) -> Exit {
        let report = self.pool.drain(jobs_timeout).await;
        self.service.close();
        self.tasks.close();
        let tasks = tokio::time::timeout(commits_timeout, self.tasks.wait()).await;
        if tasks.is_err() {
            tracing::error!(n_tasks = self.tasks.len(), "commits had to be cut");
        }
        // The last commits still have something to tell, so this ends after them.
        self.background.end().await;
        let closed = tokio::time::timeout(commits_timeout, self.database.close()).await;
        if closed.is_err() {
            tracing::error!("the database did not close in time");
        }
        if report.lost == 0 && tasks.is_ok() && closed.is_ok() {
            Exit::Clean
        } else {
            Exit::Unclean
        }
    }
}

/// What runs beside the work until it is told to stop.
struct Background {
    supervisor: Arc<Supervisor>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Background {
    fn new(supervisor: &Arc<Supervisor>) -> Self {
        Self {
            supervisor: Arc::clone(supervisor),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Spawns what `task` makes of the token that stops it.
    fn spawn<T>(
        &self,
        name: &'static str,
        task: impl Fn(CancellationToken, Beat) -> T + Send + Sync + 'static,
    ) where
        T: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.run(Task::new(name, BACKGROUND_STEP_TIME_MAX, move |beat| {
            task(stop.clone(), beat)
        }));
    }

    /// Spawns what the hub and the store need now and then.
    fn start_upkeep(&self, hub: &Arc<Hub>, store: &Arc<dyn OrderStore>, clock: &Arc<dyn Clock>) {
        let hub = Arc::clone(hub);
        self.spawn("reconcile", move |stop, beat| {
            Arc::clone(&hub).run_reconcile(stop, beat)
        });
        let (store, clock) = (Arc::clone(store), Arc::clone(clock));
        self.spawn("pruning", move |stop, beat| {
            maintenance::run_pruning(Arc::clone(&store), Arc::clone(&clock), stop, beat)
        });
    }

    fn start_backlog(
        &self,
        store: &Arc<dyn OrderStore>,
        clock: &Arc<dyn Clock>,
    ) -> Arc<BacklogView> {
        let view = BacklogView::new(clock);
        let (reading, store) = (Arc::clone(&view), Arc::clone(store));
        self.spawn("backlog", move |stop, beat| {
            Arc::clone(&reading).run(Arc::clone(&store), stop, beat)
        });
        view
    }

    fn run(&self, task: Task) {
        self.tasks.spawn(self.supervisor.run(task));
    }

    /// Ends everything, within a limit: it only carries hints, and what others can do as well.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = tokio::time::timeout(BACKGROUND_TIMEOUT, self.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!(n_tasks = self.tasks.len(), "background tasks had to be cut");
        }
    }
}

/// No step of what runs in the background takes longer, a look at all that is watched included.
const BACKGROUND_STEP_TIME_MAX: Duration = Duration::from_mins(10);

/// The longest name of a host, as Linux has it. A longer one is cut.
const HOST_LEN_MAX: usize = 64;

/// How long what runs in the background may take to end.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// The clock and the ids of a real process.
pub(crate) fn system_ports() -> (Arc<dyn Clock>, Arc<dyn IdGen>) {
    (Arc::new(SystemClock), Arc::new(UuidV7Ids))
}

/// Who this process is: made once, at its start.
pub(crate) fn identity(program: &str) -> Identity {
    let host = whoami::hostname().unwrap_or_default();
    let is_plain = |c: &char| c.is_ascii_graphic();
    let host: String = host.chars().filter(is_plain).take(HOST_LEN_MAX).collect();
    Identity {
        id: ProcessId::from_u64(rand::random()),
        program: program.to_owned(),
        place: format!("{host}:{}", std::process::id()),
    }
}

fn set_paused(pool: &WorkerPool, remote_workers: &RemoteWorkers, is_paused: bool) {
    pool.set_paused(is_paused);
    remote_workers.set_paused(is_paused);
}

fn hub_config(config: &CoreConfig) -> HubConfig {
    HubConfig {
        // Only Redis is told what to pass on; everything else passes on everything.
        tracks_topics: matches!(config.events_url, EventsUrl::Redis(_)),
        ..HubConfig::default()
    }
}

fn remote_workers(config: &CoreConfig, deps: RemoteWorkersDeps) -> Arc<RemoteWorkers> {
    let config = RemoteWorkersConfig {
        retry: retry_policy(config),
        ..RemoteWorkersConfig::default()
    };
    Arc::new(RemoteWorkers::new(config, deps))
}

fn retry_policy(config: &CoreConfig) -> RetryPolicy {
    RetryPolicy {
        attempts_max: config.max_attempts,
        ..RetryPolicy::default()
    }
}

fn service_config(serving: Option<&ServingConfig>, create_lanes: usize) -> OrderServiceConfig {
    let defaults = OrderServiceConfig::default();
    let lanes = |group: GroupCommitConfig| GroupCommitConfig {
        lanes: create_lanes,
        ..group
    };
    OrderServiceConfig {
        creates: lanes(defaults.creates),
        keyed_creates: lanes(defaults.keyed_creates),
        key_retention: serving.map_or(defaults.key_retention, |serving| {
            serving.idempotency_retention
        }),
        ..defaults
    }
}

fn processor(
    config: &ProcessorConfig,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn Processor>> {
    match config.processor {
        ProcessorKind::Auto => Ok(Arc::new(AutoProcessor::new(config.processor_delay))),
        ProcessorKind::Http => {
            let url = config.fulfilment_url.clone();
            let secrets = config.fulfilment_secret.clone();
            let config = FulfilmentConfig {
                url: url.context("PROCESSOR=http needs FULFILMENT_URL")?,
                secrets: secrets.context("PROCESSOR=http needs FULFILMENT_SECRET")?,
                timeout: config.fulfilment_timeout,
                allowed_networks: config.fulfilment_allowed_networks.clone(),
            };
            Ok(Arc::new(HttpProcessor::new(config, Arc::clone(clock))?))
        }
    }
}

fn worker_config(config: &CoreConfig, completion_lanes: usize) -> WorkerConfig {
    WorkerConfig {
        workers: usize::from(config.workers),
        queue_len_max: usize::try_from(config.queue_capacity).unwrap_or(usize::MAX),
        lease: config.lease,
        attempt_timeout: Some(config.attempt_timeout).filter(|timeout| !timeout.is_zero()),
        retry: retry_policy(config),
        completion_lanes,
        ..WorkerConfig::default()
    }
}
