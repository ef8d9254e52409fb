//! The system as operators see it.

use std::time::Duration;

use order_core::{Admin, AdminApi as _, Clock as _};

use crate::{Rig, ctx, wanted};

#[tokio::test(start_paused = true)]
async fn backlog_is_read_once_for_all_who_look() {
    let rig = Rig::new();
    let admin = Admin::new(&rig.service, rig.store.clone());
    let n_jobs = async || {
        let cluster = admin.cluster(&ctx()).await.expect("an answer");
        cluster.backlog.due + cluster.backlog.leased
    };
    assert_eq!(n_jobs().await, 0);
    rig.create(wanted(100)).await;
    assert_eq!(n_jobs().await, 0, "the reading is still fresh");
    rig.clock.sleep(Duration::from_secs(1)).await;
    assert_eq!(n_jobs().await, 1);
    // The database is away.
    rig.store.set_partitioned(true);
    rig.clock.sleep(Duration::from_secs(1)).await;
    admin.cluster(&ctx()).await.expect_err("no answer");
}
