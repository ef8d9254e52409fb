//! Clients that post and watch at the same time, and what they must not have seen.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    posts::{Ledger, Posts, Tries},
    promise::Verdict,
    watchers::{Sightings, Watchers},
};

/// How long clients or watchers may take to end: longer than the longest wait of each.
const END_TIMEOUT: Duration = Duration::from_mins(2);

/// Where clients connect, and what they do there.
pub(super) struct Plan {
    /// Addresses of `/orders`.
    pub(super) http_urls: Vec<String>,
    /// Addresses of `/ws`.
    pub(super) ws_urls: Vec<String>,
    /// How often an order is posted.
    pub(super) tries: Tries,
    /// Orders per second.
    pub(super) rate: u32,
    /// Orders that are watched at any time.
    pub(super) watchers: u32,
    /// What the choices of watchers follow from.
    pub(super) seed: u64,
}

/// The clients, while they run.
pub(super) struct Load {
    posts: Arc<Posts>,
    watchers: Arc<Watchers>,
    posting: JoinSet<anyhow::Result<()>>,
    watching: JoinSet<()>,
}

/// What the clients saw.
pub(super) struct Outcome {
    pub(super) ledger: Ledger,
    sightings: Sightings,
}

impl Load {
    /// Starts to post and to watch.
    pub(super) fn start(plan: Plan) -> Self {
        // Whoever is free watches the order that was acknowledged last, so that there is
        // something left to see.
        let (watched, orders) = mpsc::channel(1);
        let posts = Arc::new(Posts::new(plan.http_urls, plan.tries));
        let watchers = Arc::new(Watchers::new(plan.ws_urls, orders));
        let mut posting = JoinSet::new();
        posting.spawn(Arc::clone(&posts).offer(plan.rate, watched));
        let mut watching = JoinSet::new();
        for n in 0..plan.watchers {
            let (watchers, seed) = (Arc::clone(&watchers), plan.seed ^ u64::from(n));
            watching.spawn(async move { watchers.watch(seed).await });
        }
        Self {
            posts,
            watchers,
            posting,
            watching,
        }
    }

    /// What clients were told so far.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.posts.ledger()
    }

    /// Has clients offer no orders, or offer them again.
    pub(super) fn pause(&self, is_paused: bool) {
        self.posts.pause(is_paused);
    }

    /// Offers no more orders, and waits until all that was offered is answered. Watchers
    /// go on.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        self.posts.stop();
        let posted = async {
            while let Some(task) = self.posting.join_next().await {
                task??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_TIMEOUT, posted)
            .await
            .context("the clients did not finish")?
    }

    /// Waits until all that is watched has ended.
    pub(super) async fn finish(mut self) -> anyhow::Result<Outcome> {
        self.stop().await?;
        let watched = async {
            while let Some(task) = self.watching.join_next().await {
                task?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_TIMEOUT, watched)
            .await
            .context("the watchers did not finish")??;
        Ok(Outcome {
            ledger: std::mem::take(&mut *self.posts.ledger()),
            sightings: self.watchers.sightings().clone(),
        })
    }
}

impl Outcome {
    /// Prints what happened, and what should not have.
    pub(super) fn judge(&self, verdict: &mut Verdict) {
        let (ledger, seen) = (&self.ledger, &self.sightings);
        let n_retried: u64 = ledger.refusals.values().sum();
        println!(
            "{} orders offered, {n_retried} posts not answered with 201, {} answers repeated",
            ledger.n_offered, ledger.n_replayed
        );
        for (why, n) in &ledger.refusals {
            println!("  {n} {why}");
        }
        println!(
            "{} orders watched: {} versions pushed, {} recovered; {} sockets cut, {} refused",
            seen.n_finals + seen.n_without_final,
            seen.n_pushed,
            seen.n_recovered,
            seen.n_cut,
            seen.n_refused,
        );
        verdict.must_be_none(ledger.n_given_up, "orders never acknowledged");
        verdict.must_be_none(seen.n_without_final, "watched orders without a final state");
        verdict.must_be_none(seen.n_missed, "versions missed by watchers");
        verdict.must_be_none(seen.n_backwards, "versions that went back for watchers");
        verdict.must_be_none(seen.n_unknown, "acknowledged orders unknown to a hub");
        if let Some(breach) = &seen.first_breach {
            println!("  first: {breach}");
        }
        // Watchers who saw nothing prove nothing.
        verdict.must_be_none(u64::from(seen.n_finals == 0), "storms nobody watched");
    }
}
