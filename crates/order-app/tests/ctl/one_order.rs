//! Commands about one order, and how everything is printed.

use std::sync::Arc;

use clap::{Parser as _, error::ErrorKind};
use order_app::ctl::{Cli, Colours, ExitStatus};
use order_core::{Cause, OrderId, OrderStatus};
use tokio_util::sync::CancellationToken;

use crate::{
    fake::{FakeApi, event},
    support::{orderctl, orderctl_until},
};

const UNKNOWN: &str = "0198c5a0-5d5c-7abc-8def-0123456789ab";

/// Creates an order with all there is to it.
async fn create(api: &Arc<FakeApi>) -> OrderId {
    let args = "create --user user-1 --amount 99.95 --currency EUR --external-id x-1 \
                --metadata colour=red --metadata size=a=b --quiet";
    let args: Vec<&str> = args.split_whitespace().collect();
    let created = orderctl(api, &args).await;
    assert_eq!(created.status, ExitStatus::Ok, "{created:?}");
    let state = api.state();
    *state.orders.keys().next_back().expect("created")
}

#[tokio::test(start_paused = true)]
async fn an_order_is_shown_field_by_field() {
    let api = Arc::new(FakeApi::new());
    let id = create(&api).await;
    api.change(id, |order| {
        order.status = OrderStatus::Failed;
        order.version = 3;
        order.failure = Some(Cause::new("DECLINED", "no funds"));
    });
    let shown = orderctl(&api, &["get", &id.to_string()]).await;
    assert_eq!(
        shown.out,
        format!(
            "order_id     {id}\n\
             user_id      user-1\n\
             amount       99.95 EUR\n\
             status       FAILED\n\
             version      3\n\
             metadata     colour=red\n\
             metadata     size=a=b\n\
             external_id  x-1\n\
             failure      DECLINED: no funds\n\
             created_at   2026-01-02T03:04:05.678901Z\n\
             updated_at   2026-01-02T03:04:05.678901Z\n"
        )
    );
    assert_eq!((shown.status, shown.err.as_str()), (ExitStatus::Ok, ""));
}

#[tokio::test(start_paused = true)]
async fn an_order_in_json_is_that_of_the_http_api() {
    let api = Arc::new(FakeApi::new());
    let id = create(&api).await;
    let shown = orderctl(&api, &["--output", "json", "get", &id.to_string()]).await;
    assert_eq!(
        shown.out,
        format!(
            "{{\"order_id\":\"{id}\",\"user_id\":\"user-1\",\"amount\":99.95,\
             \"currency\":\"EUR\",\"status\":\"PENDING\",\"version\":1,\
             \"metadata\":{{\"colour\":\"red\",\"size\":\"a=b\"}},\"external_id\":\"x-1\",\
             \"created_at\":\"2026-01-02T03:04:05.678901Z\",\
             \"updated_at\":\"2026-01-02T03:04:05.678901Z\"}}\n"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_repeated_key_gives_the_same_order_and_says_so() {
    let api = Arc::new(FakeApi::new());
    let args = ["create", "--user=u", "--amount=1", "--idempotency-key=k"];
    let first = orderctl(&api, &args).await;
    let again = orderctl(&api, &args).await;
    assert_eq!(first.out, again.out);
    assert_eq!(first.err, "");
    assert_eq!(again.err, "replayed: the key has made this order before\n");
    let quiet = orderctl(&api, &[&["--quiet"], &args[..]].concat()).await;
    assert_eq!((quiet.out, quiet.err.as_str()), (first.out, ""));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_order_is_settled() {
    let api = Arc::new(FakeApi::new());
    // The fake tells of an order before it exists: its id is the first of the seed.
    let id = order_core::IdGen::order_id(&order_testkit::clock::SeededIds::new(1));
    let stream = vec![Ok(event(id, 2, OrderStatus::Processed))];
    api.state().streams.push_back(Ok(stream));
    let args = [
        "create",
        "--user=u",
        "--amount=1",
        "--wait",
        "--output=json",
    ];
    let waited = orderctl(&api, &args).await;
    assert_eq!(waited.status, ExitStatus::Ok, "{waited:?}");
    assert_eq!(waited.out.lines().count(), 1);
    assert_eq!(api.state().watched, [[Some(1)]]);
}

#[tokio::test(start_paused = true)]
async fn waiting_has_an_end() {
    let api = Arc::new(FakeApi::new());
    let waited = orderctl(&api, &["create", "--user=u", "--amount=1", "--wait=3"]).await;
    assert_eq!(waited.status, ExitStatus::Unavailable);
    assert!(waited.out.contains("status       PENDING\n"), "{waited:?}");
    assert_eq!(
        waited.err,
        "error: DEADLINE_EXCEEDED: the deadline of the request has passed\n"
    );
}

#[tokio::test(start_paused = true)]
async fn everything_wrong_with_an_order_is_told_at_once() {
    let api = Arc::new(FakeApi::new());
    let args = ["create", "--user=", "--amount=-1", "--output=json"];
    let refused = orderctl(&api, &args).await;
    assert_eq!(
        (refused.status, refused.out.as_str()),
        (ExitStatus::Usage, "")
    );
    assert_eq!(
        refused.err,
        "error: INVALID_ARGUMENT: The request is not valid\n  \
         user_id: must not be empty\n  \
         amount: must be greater than 0\n\
         {\"code\":\"INVALID_ARGUMENT\",\"message\":\"The request is not valid\",\"errors\":[\
         {\"pointer\":\"/user_id\",\"detail\":\"must not be empty\"},\
         {\"pointer\":\"/amount\",\"detail\":\"must be greater than 0\"}]}\n"
    );
    assert!(api.state().orders.is_empty());
}

#[tokio::test(start_paused = true)]
async fn answers_of_the_service_become_exit_codes() {
    let api = Arc::new(FakeApi::new());
    let id = create(&api).await.to_string();
    for (args, status, code) in [
        (
            vec!["get", UNKNOWN],
            ExitStatus::NotFound,
            "ORDER_NOT_FOUND",
        ),
        (
            vec!["events", UNKNOWN],
            ExitStatus::NotFound,
            "ORDER_NOT_FOUND",
        ),
        (
            vec!["retry", &id],
            ExitStatus::Refused,
            "ORDER_NOT_RETRYABLE",
        ),
        (
            vec!["cancel", &id, "--if-match=7"],
            ExitStatus::Refused,
            "ETAG_MISMATCH",
        ),
        (
            vec!["create", "--user=blocked", "--amount=1"],
            ExitStatus::Refused,
            "PERMISSION_DENIED",
        ),
    ] {
        let refused = orderctl(&api, &args).await;
        assert_eq!(refused.status, status, "{args:?} {refused:?}");
        let start = format!("error: {code}: ");
        assert!(refused.err.starts_with(&start), "{args:?} {refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_is_cancelled_at_the_version_named() {
    let api = Arc::new(FakeApi::new());
    let id = create(&api).await.to_string();
    let args = ["cancel", &id, "--if-match=1", "--reason=changed my mind"];
    let cancelled = orderctl(&api, &args).await;
    assert!(
        cancelled.out.contains("\nstatus       CANCELLED\n"),
        "{cancelled:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn colours_are_for_terminals() {
    let api = Arc::new(FakeApi::new());
    let id = create(&api).await;
    api.change(id, |order| order.status = OrderStatus::Processed);
    let id = id.to_string();
    let colours = Colours {
        out: true,
        err: true,
    };
    let stop = CancellationToken::new();
    let shown = orderctl_until(&api, &["get", &id], &stop, colours).await;
    assert!(
        shown.out.contains("\u{1b}[32mPROCESSED\u{1b}[0m\n"),
        "{shown:?}"
    );
    let plain = orderctl(&api, &["get", &id]).await;
    assert!(!plain.out.contains('\u{1b}'), "{plain:?}");
    let refused = orderctl_until(&api, &["get", UNKNOWN], &stop, colours).await;
    assert!(refused.err.starts_with('\u{1b}'), "{refused:?}");
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for args in [
        vec!["orderctl"],
        vec!["orderctl", "get", "7"],
        vec!["orderctl", "create", "--user=u"],
        vec![
            "orderctl",
            "create",
            "--user=u",
            "--amount=1",
            "--metadata=x",
        ],
        vec!["orderctl", "list", "--status=DONE"],
        vec!["orderctl", "list", "--all", "--limit=3"],
        vec!["orderctl", "list", "--created-after=yesterday"],
        vec!["orderctl", "watch"],
        vec!["orderctl", "import", "f", "--batch=1001"],
        vec!["orderctl", "--timeout=5", "list"],
    ] {
        let error = Cli::try_parse_from(&args).expect_err("wrong");
        assert_eq!(
            error.exit_code(),
            i32::from(ExitStatus::Usage.code()),
            "{args:?}"
        );
    }
}

#[test]
fn help_has_the_exit_codes() {
    let error = Cli::try_parse_from(["orderctl", "--help"]).expect_err("help");
    assert_eq!(error.kind(), ErrorKind::DisplayHelp);
    let help = error.to_string();
    for (status, meaning) in ExitStatus::TABLE {
        let line = format!("\n  {:>3}  {meaning}\n", status.code());
        assert!(help.contains(&line), "{line:?} in {help}");
    }
}

#[tokio::test(start_paused = true)]
async fn completions_name_the_commands() {
    let api = Arc::new(FakeApi::new());
    let script = orderctl(&api, &["completions", "bash"]).await;
    assert_eq!(script.status, ExitStatus::Ok);
    assert!(script.out.contains("import") && script.out.contains("orderctl"));
}
