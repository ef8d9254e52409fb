//! Opening one connection: what every connection has, and which of several hosts it goes to.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::seq::SliceRandom as _;
use tokio::time::sleep;
use tokio_postgres::{
    Client, Config, Connection, Error, NoTls, Socket,
    config::{Host, LoadBalanceHosts, TargetSessionAttrs},
    tls::NoTlsStream,
};

/// The TLS connector: none yet. One is added here and in `Target::parse`, and nowhere else.
pub(super) fn tls() -> NoTls {
    NoTls
}

/// How long one host may take to open a connection until the next is tried as well: far longer
/// than a server that is well needs.
const NEXT_HOST_DELAY: Duration = Duration::from_secs(1);

/// How long sent data may stay unacknowledged before the connection counts as broken.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A silent connection is probed after this time, at this interval, this often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Adds what every connection has.
pub(super) fn prepare(config: &mut Config) {
    config
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        // Of several addresses of one name in random order, so that one that accepts and then
        // says nothing does not take every attempt.
        .load_balance_hosts(LoadBalanceHosts::Random)
        // After a failover, only the primary will do.
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
}

/// An open connection, and what drives it.
type Opened = (Client, Connection<Socket, NoTlsStream>);

/// Opens a connection to the host that takes writes. A host that accepts and then says nothing,
/// as one that hangs does, holds up the others for a second only. The caller limits the time.
pub(super) async fn open(config: &Config) -> Result<Opened, Error> {
    let mut hosts = each_host(config);
    hosts.shuffle(&mut rand::rng());
    let mut attempts = FuturesUnordered::new();
    let mut failed = None;
    loop {
        if let Some(host) = hosts.pop() {
            attempts.push(async move { host.connect(tls()).await });
        }
        tokio::select! {
            opened = attempts.next() => match (opened, failed.take()) {
                (Some(Ok(opened)), _) => return Ok(opened),
                (Some(Err(error)), _) => failed = Some(error),
                (None, Some(error)) => return Err(error),
                (None, None) => return Box::pin(config.connect(tls())).await,
            },
            () = sleep(NEXT_HOST_DELAY), if !hosts.is_empty() => {}
        }
    }
}

/// The same configuration for each host alone; none, if only addresses are named.
fn each_host(config: &Config) -> Vec<Config> {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate();
    let alone = hosts.map(|(idx, host)| {
        let mut alone = Config::new();
        match host {
            Host::Tcp(name) => alone.host(name),
            Host::Unix(path) => alone.host_path(path),
        };
        if let Some(address) = config.get_hostaddrs().get(idx) {
            alone.hostaddr(*address);
        }
        if let Some(port) = ports.get(idx).or(ports.first()) {
            alone.port(*port);
        }
        alone
            .ssl_mode(config.get_ssl_mode())
            .ssl_negotiation(config.get_ssl_negotiation())
            .channel_binding(config.get_channel_binding());
        if let Some(user) = config.get_user() {
            alone.user(user);
        }
        if let Some(password) = config.get_password() {
            alone.password(password);
        }
        if let Some(name) = config.get_dbname() {
            alone.dbname(name);
        }
        if let Some(options) = config.get_options() {
            alone.options(options);
        }
        if let Some(name) = config.get_application_name() {
            alone.application_name(name);
        }
        if let Some(timeout) = config.get_connect_timeout() {
            alone.connect_timeout(*timeout);
        }
        prepare(&mut alone);
        alone
    });
    alone.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::connect::Target, *};

    #[test]
    fn each_host_alone_is_configured_as_all_are_together() {
        let hosts = ["a:1", "b:2", "[::1]:3"];
        let url = |hosts: &str| {
            format!(
                "postgres://u:p%40ss@{hosts}/x?application_name=y&options=-c%20jit%3Doff\
                 &connect_timeout=7&channel_binding=disable&sslmode=disable"
            )
        };
        let together = Target::parse(&url(&hosts.join(","))).unwrap();
        let expected = hosts.map(|host| Target::parse(&url(host)).unwrap().config);
        assert_eq!(each_host(&together.config), expected);
    }
}
