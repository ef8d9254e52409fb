//! Lists, histories and exports.

use std::{fmt::Write as _, fs, sync::Arc};

use order_app::ctl::ExitStatus;
use order_core::{ExternalId, OrderStatus, UserId};
use tempfile::TempDir;

use crate::{fake::FakeApi, support::orderctl};

/// A service with this many orders.
async fn service(n_orders: usize) -> Arc<FakeApi> {
    let api = Arc::new(FakeApi::new());
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("orders.csv");
    let mut text = "user_id,amount\n".to_owned();
    for n in 1..=n_orders {
        writeln!(text, "user-{n},{n}.50").expect("memory");
    }
    fs::write(&path, text).expect("written");
    let path = path.to_str().expect("text");
    let imported = orderctl(&api, &["import", path, "--batch=1000", "--concurrency=1"]).await;
    assert_eq!(imported.status, ExitStatus::Ok, "{imported:?}");
    api
}

#[tokio::test(start_paused = true)]
async fn a_list_is_a_table() {
    let api = service(2).await;
    let ids: Vec<_> = api.state().orders.keys().copied().collect();
    api.change(ids[0], |order| order.status = OrderStatus::Processed);
    let listed = orderctl(&api, &["list"]).await;
    let expected = format!(
        "ORDER_ID                              STATUS      VERSION  CREATED_AT                          AMOUNT  USER_ID\n\
         {}  PENDING           1  2026-01-02T03:04:05Z               2.5 USD  user-2\n\
         {}  PROCESSED         1  2026-01-02T03:04:05Z               1.5 USD  user-1\n",
        ids[1], ids[0]
    );
    assert_eq!(listed.out, expected);
}

#[tokio::test(start_paused = true)]
async fn pages_are_read_as_far_as_wanted() {
    let api = service(2_345).await;
    for (args, pages, n_orders) in [
        (vec!["list"], vec![50], 50),
        (vec!["list", "--limit=1001"], vec![1000, 1], 1001),
        (vec!["list", "--all"], vec![1000, 1000, 1000], 2345),
    ] {
        api.state().listed.clear();
        let args = [&args[..], &["--output=json"]].concat();
        let listed = orderctl(&api, &args).await;
        assert_eq!(listed.out.lines().count(), n_orders, "{args:?}");
        let state = api.state();
        let sizes: Vec<_> = state
            .listed
            .iter()
            .map(|page| page.page_size.get())
            .collect();
        assert_eq!(sizes, pages, "{args:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn filters_reach_the_service() {
    let api = service(0).await;
    let args = "list --user u --status failed --status PENDING --external-id x \
                --created-after 2026-01-01T00:00:00Z --created-before 2026-01-02T00:00:00+01:00";
    let args: Vec<&str> = args.split_whitespace().collect();
    assert_eq!(orderctl(&api, &args).await.status, ExitStatus::Ok);
    let state = api.state();
    let list = &state.listed[0];
    assert_eq!(list.user_id.as_ref().map(UserId::as_str), Some("u"));
    assert_eq!(list.statuses, [OrderStatus::Failed, OrderStatus::Pending]);
    assert_eq!(list.external_id.as_ref().map(ExternalId::as_str), Some("x"));
    let times = [list.created_after, list.created_before];
    let times = times.map(|time| time.expect("given").to_string());
    assert_eq!(times, ["2026-01-01T00:00:00Z", "2026-01-01T23:00:00Z"]);
}

#[tokio::test(start_paused = true)]
async fn a_history_is_read_to_its_end() {
    let api = service(1).await;
    let id = *api.state().orders.keys().next().expect("one");
    api.change(id, |order| {
        order.status = OrderStatus::Failed;
        order.version = 3;
    });
    let events = orderctl(&api, &["events", &id.to_string()]).await;
    let expected = format!(
        "ORDER_ID                              VERSION  STATUS      AT                        CAUSE\n\
         {id}        1  PENDING     2026-01-02T03:04:05.678Z\n\
         {id}        2  PENDING     2026-01-02T03:04:05.678Z\n\
         {id}        3  FAILED      2026-01-02T03:04:05.678Z  DECLINED: no funds\n"
    );
    assert_eq!(events.out, expected);
    let args = ["events", &id.to_string(), "--after=2", "--output=json"];
    let events = orderctl(&api, &args).await;
    let expected = format!(
        "{{\"order_id\":\"{id}\",\"status\":\"FAILED\",\"version\":3,\
         \"at\":\"2026-01-02T03:04:05.678901Z\",\
         \"cause\":{{\"code\":\"DECLINED\",\"message\":\"no funds\"}}}}\n"
    );
    assert_eq!(events.out, expected);
}

/// Orders with everything that is hard to write.
const LINES: &str = r#"{"user_id":"a,\"b\"","amount":"1.00","metadata":{"x":"","note":"say \"hi\", ok"}}
{"user_id":"ü","amount":9999999999999.99,"external_id":"e-1","metadata":{"y":"2"}}
{"user_id":"plain","amount":5,"currency":"JPY"}
"#;

#[tokio::test(start_paused = true)]
async fn an_export_can_be_imported() {
    let dir = TempDir::new().expect("a directory");
    let path = |name: &str| {
        let path = dir.path().join(name);
        path.to_str().expect("text").to_owned()
    };
    fs::write(path("in.jsonl"), LINES).expect("written");
    let api = Arc::new(FakeApi::new());
    let imported = orderctl(&api, &["import", &path("in.jsonl")]).await;
    assert_eq!(
        imported.out, "created 3, already there 0, failed 0\n",
        "{imported:?}"
    );
    for name in ["out.csv", "out.jsonl"] {
        let exported = orderctl(&api, &["export", "-o", &path(name)]).await;
        assert_eq!(exported.err, "exported 3 orders\n");
        assert_eq!(
            (exported.out.as_str(), exported.status),
            ("", ExitStatus::Ok)
        );
        // What is read is what was written, so every line has a key that is known.
        let again = orderctl(&api, &["import", &path(name)]).await;
        let text = fs::read_to_string(path(name)).expect("exported");
        assert_eq!(
            again.out, "created 0, already there 3, failed 0\n",
            "{text}"
        );
    }
    let table = fs::read_to_string(path("out.csv")).expect("exported");
    assert_eq!(
        table,
        "user_id,amount,currency,external_id,metadata.note,metadata.x,metadata.y\n\
         plain,5,JPY,,,,\n\
         ü,9999999999999.99,USD,e-1,,,2\n\
         \"a,\"\"b\"\"\",1,USD,,\"say \"\"hi\"\", ok\",\"\",\n"
    );
}

#[tokio::test(start_paused = true)]
async fn an_export_goes_to_standard_output_without_a_file() {
    let api = service(2).await;
    let exported = orderctl(&api, &["export", "--quiet"]).await;
    assert_eq!(
        exported.out,
        "{\"user_id\":\"user-2\",\"amount\":2.5,\"currency\":\"USD\"}\n\
         {\"user_id\":\"user-1\",\"amount\":1.5,\"currency\":\"USD\"}\n"
    );
    assert_eq!(exported.err, "");
}
