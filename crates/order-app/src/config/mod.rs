//! The configuration: every flag with its environment twin, parsed once into types that
//! cannot be wrong.
//!
//! The names of the environment variables are a contract; see docs/operations.md.

mod engine;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use order_adapters::fulfilment::{FulfilmentSecrets, FulfilmentUrl};
use order_core::IpNetwork;
use order_web::origin::Origin;

pub use self::engine::{EventsUrl, QueueUrl, SinkUrl};

/// What a binary can do besides serving.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum StoreCommand {
    /// Bring the database's schema up to date and exit.
    Migrate,
    /// Keep no events for EVENT_SINK any longer, forget those that wait, and exit. For when
    /// EVENT_SINK was taken out of the settings of all processes for good.
    DropEventSink,
    /// Ask the running process on ADMIN_ADDR whether it is ready; exit 0 if it is.
    Healthcheck,
}

/// What the gateway can do besides serving; it has no database.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum GatewayCommand {
    /// Ask the running process on ADMIN_ADDR whether it is ready; exit 0 if it is.
    Healthcheck,
}

/// The order system in one process: HTTP API, gRPC, WebSocket, workers and an embedded database.
#[derive(Clone, Debug, Parser)]
#[command(name = "order-system", version, args_override_self = true)]
pub struct SystemConfig {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<StoreCommand>,
    /// Address of the HTTP API.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_addr)]
    pub http_addr: SocketAddr,
    /// Address of the gRPC API.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:50051", value_parser = parse_addr)]
    pub grpc_addr: SocketAddr,
    /// Address of the WebSocket endpoint /ws.
    #[arg(long, env = "WS_ADDR", default_value = "127.0.0.1:8081", value_parser = parse_addr)]
    pub ws_addr: SocketAddr,
    /// Address of /console/, /livez, /readyz, /metrics and /log-level for operators.
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:9090", value_parser = parse_addr)]
    pub admin_addr: SocketAddr,
    /// Address of a listener of its own for the console; without it the console is on ADMIN_ADDR.
    #[arg(long, env = "CONSOLE_ADDR", value_parser = parse_addr)]
    pub console_addr: Option<SocketAddr>,
    /// Database: postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:./order-system.db",
        hide_env_values = true
    )]
    pub database_url: DatabaseUrl,
    /// Settings of the HTTP API.
    #[command(flatten)]
    pub api: ApiConfig,
    /// Settings of the parts that process orders.
    #[command(flatten)]
    pub core: CoreConfig,
    /// Settings of the gRPC API and the WebSocket endpoint.
    #[command(flatten)]
    pub serving: ServingConfig,
    /// Settings of the HTTP API and the WebSocket endpoint.
    #[command(flatten)]
    pub web: WebConfig,
    /// Settings every binary has.
    #[command(flatten)]
    pub process: ProcessConfig,
}

/// The order service: gRPC API, WebSocket endpoint and workers on a database.
#[derive(Clone, Debug, Parser)]
#[command(name = "order-service", version, args_override_self = true)]
pub struct ServiceConfig {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<StoreCommand>,
    /// Address of the gRPC API.
    #[arg(long, env = "GRPC_ADDR", default_value = "0.0.0.0:50051", value_parser = parse_addr)]
    pub grpc_addr: SocketAddr,
    /// Address of the WebSocket endpoint /ws.
    #[arg(long, env = "WS_ADDR", default_value = "0.0.0.0:8081", value_parser = parse_addr)]
    pub ws_addr: SocketAddr,
    /// Address of /livez, /readyz, /metrics and /log-level for operators.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9091", value_parser = parse_addr)]
    pub admin_addr: SocketAddr,
    /// Database: postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: DatabaseUrl,
    /// Settings of the parts that process orders.
    #[command(flatten)]
    pub core: CoreConfig,
    /// Settings of the gRPC API and the WebSocket endpoint.
    #[command(flatten)]
    pub serving: ServingConfig,
    /// Settings of the HTTP API and the WebSocket endpoint.
    #[command(flatten)]
    pub web: WebConfig,
    /// Settings every binary has.
    #[command(flatten)]
    pub process: ProcessConfig,
}

/// A process of only workers on a database, scaled on its own.
#[derive(Clone, Debug, Parser)]
#[command(name = "order-worker", version, args_override_self = true)]
pub struct WorkerConfig {
    /// What to do instead of working.
    #[command(subcommand)]
    pub command: Option<StoreCommand>,
    /// Address of /livez, /readyz, /metrics and /log-level for operators.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9092", value_parser = parse_addr)]
    pub admin_addr: SocketAddr,
    /// Database: postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: DatabaseUrl,
    /// Settings of the parts that process orders.
    #[command(flatten)]
    pub core: CoreConfig,
    /// Settings every binary has.
    #[command(flatten)]
    pub process: ProcessConfig,
}

/// The HTTP gateway: the REST API in front of the order service.
#[derive(Clone, Debug, Parser)]
#[command(name = "api-gateway", version, args_override_self = true)]
pub struct GatewayConfig {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<GatewayCommand>,
    /// Address of the HTTP API.
    #[arg(long, env = "HTTP_ADDR", default_value = "0.0.0.0:8080", value_parser = parse_addr)]
    pub http_addr: SocketAddr,
    /// Address of /console/, /livez, /readyz, /metrics and /log-level for operators.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9090", value_parser = parse_addr)]
    pub admin_addr: SocketAddr,
    /// Address of a listener of its own for the console; without it the console is on ADMIN_ADDR.
    #[arg(long, env = "CONSOLE_ADDR", value_parser = parse_addr)]
    pub console_addr: Option<SocketAddr>,
    /// The order service: one URL, or several separated by commas.
    #[arg(
        long,
        env = "ORDER_SERVICE_URL",
        default_value = "http://127.0.0.1:50051",
        value_delimiter = ','
    )]
    pub order_service_url: Vec<String>,
    /// Settings of the HTTP API.
    #[command(flatten)]
    pub api: ApiConfig,
    /// Settings of the HTTP API and the WebSocket endpoint.
    #[command(flatten)]
    pub web: WebConfig,
    /// Settings every binary has.
    #[command(flatten)]
    pub process: ProcessConfig,
}

/// Settings of the parts that process orders.
#[derive(Clone, Debug, Args)]
pub struct CoreConfig {
    /// How long to wait for the database at start, like 60s.
    #[arg(long, env = "STARTUP_TIMEOUT", default_value = "60s", value_parser = parse_startup_timeout)]
    pub startup_timeout: Duration,
    /// Who carries hints about due jobs to free workers: local, redis://HOST:PORT,
    /// rediss://HOST:PORT or kafka://HOST:PORT. The same for all processes on a database.
    #[arg(
        long,
        env = "QUEUE_URL",
        default_value = "local",
        hide_env_values = true
    )]
    pub queue_url: QueueUrl,
    /// Who passes events between processes: local, postgres, redis://HOST:PORT or
    /// rediss://HOST:PORT. The same for all processes on a database.
    #[arg(
        long,
        env = "EVENTS_URL",
        default_value = "local",
        hide_env_values = true
    )]
    pub events_url: EventsUrl,
    /// Who else gets every event, as CloudEvents: redis://HOST:PORT/STREAM or
    /// kafka://HOST:PORT/TOPIC. The same for all processes on a database.
    #[arg(long, env = "EVENT_SINK", hide_env_values = true)]
    pub event_sink: Option<SinkUrl>,
    /// Workers that process orders at the same time; 0 means this process only serves.
    #[arg(long, env = "WORKERS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub workers: u16,
    /// Orders that wait in memory for a worker; more wait in the database.
    #[arg(long, env = "QUEUE_CAPACITY", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub queue_capacity: u32,
    /// How long a worker may be silent before its order is given to another, like 30s.
    #[arg(long, env = "LEASE", default_value = "30s", value_parser = parse_lease)]
    pub lease: Duration,
    /// How long one attempt of a worker of this process may take, like 15m; one that takes
    /// longer is dropped and has failed. 0s: for ever.
    #[arg(long, env = "ATTEMPT_TIMEOUT", default_value = "15m", value_parser = parse_duration)]
    pub attempt_timeout: Duration,
    /// Attempts before an order is FAILED.
    #[arg(long, env = "MAX_ATTEMPTS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_attempts: u32,
    /// Settings of what processes an order.
    #[command(flatten)]
    pub processor: ProcessorConfig,
}

/// Settings of the gRPC API and the WebSocket endpoint.
#[derive(Clone, Debug, Args)]
pub struct ServingConfig {
    /// How long an idempotency key is kept at least, like 24h; up to 30 days (720h).
    #[arg(long, env = "IDEMPOTENCY_RETENTION", default_value = "24h", value_parser = parse_retention)]
    pub idempotency_retention: Duration,
    /// Whether gRPC clients may ask for the contract (server reflection).
    #[arg(long, env = "GRPC_REFLECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub grpc_reflection: bool,
    /// WebSocket connections of this process.
    #[arg(long, env = "WS_MAX_CONNECTIONS", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub ws_max_connections: u32,
    /// WebSocket connections from one client address; behind TRUSTED_PROXIES of one client.
    #[arg(long, env = "WS_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub ws_max_connections_per_address: u32,
}

/// Settings of the HTTP API and the WebSocket endpoint.
#[derive(Clone, Debug, Args)]
pub struct WebConfig {
    /// Proxies that are trusted to name their clients in Forwarded or X-Forwarded-For: addresses or
    /// networks like 10.1.0.0/16, separated by commas. The limits of one client address, logs and
    /// traces go by the client that is named.
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNetwork>,
    /// Origins of web pages that may use the HTTP API (CORS) and, besides pages of the same host,
    /// the WebSocket endpoint, like `https://shop.example`, separated by commas.
    #[arg(long, env = "ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<Origin>,
}

/// Settings of what processes an order.
#[derive(Clone, Debug, Args)]
pub struct ProcessorConfig {
    /// What processes an order.
    #[arg(long, env = "PROCESSOR", default_value = "auto")]
    pub processor: ProcessorKind,
    /// How long the auto processor takes for an order, like 300ms.
    #[arg(long, env = "PROCESSOR_DELAY", default_value = "0s", value_parser = parse_duration)]
    pub processor_delay: Duration,
    /// Where the http processor posts orders.
    // Its path or query may be what lets a caller in.
    #[arg(
        long,
        env = "FULFILMENT_URL",
        required_if_eq("processor", "http"),
        hide_env_values = true
    )]
    pub fulfilment_url: Option<FulfilmentUrl>,
    /// What signs these requests: a secret of Standard Webhooks, `whsec_…`, or two separated
    /// by a comma while one replaces the other.
    #[arg(
        long,
        env = "FULFILMENT_SECRET",
        required_if_eq("processor", "http"),
        hide_env_values = true
    )]
    pub fulfilment_secret: Option<FulfilmentSecrets>,
    /// How long one such request may take, like 10s.
    #[arg(long, env = "FULFILMENT_TIMEOUT", default_value = "10s", value_parser = parse_fulfilment_timeout)]
    pub fulfilment_timeout: Duration,
    /// Private networks in which the endpoint may be, like 10.1.0.0/16, separated by commas.
    #[arg(long, env = "FULFILMENT_ALLOWED_NETWORKS", value_delimiter = ',')]
    pub fulfilment_allowed_networks: Vec<IpNetwork>,
}

/// What processes an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProcessorKind {
    /// Marks the order as processed after PROCESSOR_DELAY.
    Auto,
    /// Posts the order to FULFILMENT_URL, signed, and goes by the answer.
    Http,
}

/// Settings of the binaries that serve the HTTP API.
#[derive(Clone, Copy, Debug, Args)]
pub struct ApiConfig {
    /// HTTP connections of this process.
    #[arg(long, env = "HTTP_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub http_max_connections: u32,
    /// HTTP connections from one client address, and its requests at the same time; behind
    /// TRUSTED_PROXIES of one client.
    #[arg(long, env = "HTTP_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub http_max_connections_per_address: u32,
    /// How long a connection may be idle between two requests, from 1s to 1h. Longer than that of
    /// the proxy in front, which would otherwise send a request into a connection that is closed.
    #[arg(long, env = "IDLE_TIMEOUT", default_value = "75s", value_parser = parse_idle_timeout)]
    pub idle_timeout: Duration,
    /// Whether /docs, /openapi.json and /asyncapi.json are served.
    #[arg(long, env = "API_DOCS", default_value_t = true, action = clap::ArgAction::Set)]
    pub api_docs: bool,
}

/// Settings every binary has.
#[derive(Clone, Debug, Args)]
pub struct ProcessConfig {
    /// How long a request may take, like 5s.
    #[arg(long, env = "REQUEST_TIMEOUT", default_value = "5s", value_parser = parse_request_timeout)]
    pub request_timeout: Duration,
    /// How long to go on serving after the signal to stop, while /readyz already says no, so
    /// that load balancers notice, like 5s. Comes on top of SHUTDOWN_TIMEOUT.
    #[arg(long, env = "SHUTDOWN_DELAY", default_value = "0s", value_parser = parse_shutdown_delay)]
    pub shutdown_delay: Duration,
    /// How long stopping may take before what still runs is cut, like 10s.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", default_value = "10s", value_parser = parse_shutdown_timeout)]
    pub shutdown_timeout: Duration,
    /// How logs are written to standard error. RUST_LOG sets what is logged.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    Json,
    /// One line of text, for people.
    Text,
}

/// Which database, by the scheme of its URL.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A PostgreSQL server; the whole URL.
    Postgres(String),
    /// An SQLite file.
    Sqlite(PathBuf),
}

/// Hides the URL of PostgreSQL, which holds a password.
impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("Postgres(..)"),
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:") {
            Some("") => Err("sqlite: needs the path of a file, like sqlite:./orders.db".to_owned()),
            Some(path) => Ok(Self::Sqlite(PathBuf::from(
                path.strip_prefix("//").unwrap_or(path),
            ))),
            // The text may hold a password, so it is not repeated.
            None => Err("must begin with postgres:// or sqlite:".to_owned()),
        }
    }
}

/// Reads `IP:PORT`, `localhost:PORT` or `:PORT` (all interfaces).
pub(crate) fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("must be IP:PORT, like 127.0.0.1:8080")?;
    let port = port
        .parse::<u16>()
        .map_err(|_| "the port must be a number from 0 to 65535")?;
    let ip: IpAddr = match host {
        "" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::from),
            None => host.parse::<Ipv4Addr>().map(IpAddr::from),
        }
        .map_err(|_| "the host must be an IP address or localhost")?,
    };
    Ok(SocketAddr::new(ip, port))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let rule = || "must be a duration with a unit, like 300ms, 30s or 5m".to_owned();
    let duration: jiff::SignedDuration = text.parse().map_err(|_| rule())?;
    Duration::try_from(duration).map_err(|_| rule())
}

pub(crate) fn parse_duration_between(
    text: &str,
    min: Duration,
    max: Duration,
) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (min..=max).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("must be between {min:?} and {max:?}"))
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    // Below a second, one slow heartbeat would hand every order to another worker.
    parse_duration_between(text, Duration::from_secs(1), Duration::from_hours(24))
}

fn parse_retention(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::from_mins(1), Duration::from_hours(30 * 24))
}

fn parse_fulfilment_timeout(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::from_secs(1), Duration::from_mins(1))
}

fn parse_idle_timeout(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::from_secs(1), Duration::from_hours(1))
}

fn parse_request_timeout(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::from_millis(10), Duration::from_mins(5))
}

fn parse_startup_timeout(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::ZERO, Duration::from_hours(1))
}

fn parse_shutdown_delay(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::ZERO, Duration::from_mins(5))
}

fn parse_shutdown_timeout(text: &str) -> Result<Duration, String> {
    parse_duration_between(text, Duration::from_secs(1), Duration::from_hours(1))
}

#[cfg(test)]
mod tests;
