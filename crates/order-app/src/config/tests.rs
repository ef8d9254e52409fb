use order_rpc::RpcServerConfig;
use order_web::http::HttpConfig;

use super::*;

#[test]
fn addresses_are_read_in_three_forms() {
    for (text, expected) in [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("localhost:1", "127.0.0.1:1"),
        (":8080", "0.0.0.0:8080"),
        ("[::1]:8080", "[::1]:8080"),
    ] {
        assert_eq!(
            parse_addr(text).map(|addr| addr.to_string()).as_deref(),
            Ok(expected)
        );
    }
    for bad in ["8080", "host:8080", "127.0.0.1:", "127.0.0.1:65536", "::1"] {
        assert!(parse_addr(bad).is_err(), "{bad}");
    }
}

#[test]
fn database_is_named_by_its_scheme() {
    let url = "postgres://admin:secret@localhost:5432/orderdb";
    let parsed: DatabaseUrl = url.parse().expect("valid");
    assert_eq!(format!("{parsed:?}"), "Postgres(..)");
    assert_eq!(
        "sqlite:./a.db".parse(),
        Ok(DatabaseUrl::Sqlite("./a.db".into()))
    );
    assert_eq!(
        "sqlite:///var/a.db".parse(),
        Ok(DatabaseUrl::Sqlite("/var/a.db".into()))
    );
    for bad in ["", "mysql://user:secret@host/db", "sqlite:"] {
        let error = bad.parse::<DatabaseUrl>().expect_err(bad);
        assert!(!error.contains("secret"), "{error}");
    }
}

/// Tests of the transports hold the contracts against the same defaults.
#[test]
fn defaults_are_those_of_the_transports_and_of_the_contracts() {
    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        process: ProcessConfig,
        #[command(flatten)]
        serving: ServingConfig,
    }
    let settings = Settings::parse_from(["order-service"]);
    let hours = settings.serving.idempotency_retention.as_secs() / 3600;
    let document = include_str!("../../../../api/openapi.yaml");
    assert!(document.contains(&format!("Keys are kept for {hours} hours.")));
    let timeout = settings.process.request_timeout;
    assert_eq!(RpcServerConfig::default().deadline_default, timeout);
    assert_eq!(HttpConfig::default().request_timeout, timeout);
}

#[test]
fn durations_need_a_unit_and_stay_in_range() {
    assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
    for bad in ["300", "-1s", "fast"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
    assert!(parse_lease("10ms").is_err());
}

#[test]
fn trusted_proxies_are_networks() {
    let parse = |value: &str| GatewayConfig::try_parse_from(["api-gateway", value]);
    let read = parse("--trusted-proxies=10.1.0.0/16, 192.0.2.1,fd00::/8").expect("valid");
    let networks: Vec<_> = read
        .web
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["10.1.0.0/16", "192.0.2.1/32", "fd00::/8"]);
    for (bad, rule) in [
        ("proxy.example", "must be networks like 10.1.0.0/16"),
        ("10.1.0.1/16", "must have no bits set after the prefix"),
    ] {
        let error = parse(&format!("--trusted-proxies={bad}")).expect_err(bad);
        let error = error.to_string();
        assert!(error.contains("TRUSTED_PROXIES"), "{error}");
        assert!(error.contains(rule), "{error}");
    }
}
