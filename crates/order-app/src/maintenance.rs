//! What the system does for itself, now and then.

use std::{sync::Arc, time::Duration};

use order_core::{Clock, Error, OrderStore, supervisor::Beat};
use tokio_util::sync::CancellationToken;

/// The time between two rounds, varied by 25 % either way so that processes do not meet at
/// the database.
const PRUNE_INTERVAL: Duration = Duration::from_mins(1);

/// How many rows one statement removes: few enough to hold no lock for long.
const PRUNE_LEN_MAX: usize = 1_000;

/// How many statements one round makes at most. With the interval this bounds the load, and
/// still removes 100,000 keys a minute.
const PRUNES_PER_ROUND_MAX: usize = 100;

/// Removes expired idempotency keys and tickets again and again, until `stop`.
///
/// # Cancel safety
/// May be dropped at any point.
pub(crate) async fn run_pruning(
    store: Arc<dyn OrderStore>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    beat: Beat,
) {
    let forever = async {
        loop {
            let jitter = 0.75 + 0.5 * rand::random::<f64>();
            clock.sleep(PRUNE_INTERVAL.mul_f64(jitter)).await;
            let pruned = prune(&*store, &beat).await;
            beat.idle();
            match pruned {
                Ok(0) => {}
                Ok(n_removed) => tracing::info!(n_removed, "removed expired keys and tickets"),
                Err(error) => tracing::warn!(error.chain = error.chain(), "pruning failed"),
            }
        }
    };
    stop.run_until_cancelled(forever).await;
}

async fn prune(store: &dyn OrderStore, beat: &Beat) -> Result<usize, Error> {
    let mut n_removed = 0;
    for _ in 0..PRUNES_PER_ROUND_MAX {
        beat.busy();
        let n = store.prune(PRUNE_LEN_MAX).await?;
        n_removed += n;
        if n < PRUNE_LEN_MAX {
            break;
        }
    }
    Ok(n_removed)
}
