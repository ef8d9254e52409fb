//! What operators call, over the network.

use futures_util::StreamExt as _;
use order_core::{AdminApi as _, DeadLetterFilter, Error, Redrive};

use crate::{
    fake::{Act, dead_letters, redrive_steps},
    support::{TestServer, ctx, soon, text, user},
};

fn request() -> Redrive {
    Redrive {
        filter: DeadLetterFilter {
            code: Some("TIMEOUT".to_owned()),
            user_id: Some(user()),
            created_after: "2026-01-31T12:00:00Z".parse().ok(),
            created_before: "2026-02-01T12:00:00.000001Z".parse().ok(),
        },
        limit: 7,
        rate: 70,
        failed_percent_max: 0,
        is_dry_run: true,
    }
}

#[tokio::test]
async fn dead_letters_and_redrives_arrive_as_they_were_sent() {
    let server = TestServer::start([]).await;
    let remote = server.client();
    let groups = soon(remote.dead_letters(&ctx())).await;
    assert_eq!(groups.expect("an answer"), [dead_letters()]);

    let steps = soon(remote.redrive(&ctx(), request())).await;
    let steps: Vec<_> = soon(steps.expect("a stream").collect()).await;
    let steps: Vec<_> = steps.iter().map(text).collect();
    let expected: Vec<_> = redrive_steps().iter().map(text).collect();
    assert_eq!(steps, expected);
    let asked = server.api.redrive.lock().expect("not poisoned").take();
    assert_eq!(asked, Some(request()));
    server.stop().await;
}

#[tokio::test]
async fn redrive_that_fails_is_not_repeated() {
    let failure = || Act::Fail(Error::store_unavailable("down"));
    let server = TestServer::start([failure(), failure()]).await;
    let remote = server.client();
    let refused = soon(remote.redrive(&ctx(), request())).await;
    assert!(matches!(refused, Err(Error::StoreUnavailable { .. })));
    assert_eq!(server.api.calls().len(), 1);
    server.stop().await;
}
