//! What the database says when the storm is over.

use std::{collections::HashSet, time::Duration};

use anyhow::ensure;
use tokio::time::Instant;

use crate::system::Sql;

/// The time between two looks at the jobs that are left.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Every question the promise raises, each as the number of rows that break it. A poisoned
/// order has to fail and is judged apart.
const CHECKS: [(&str, &str); 6] = [
    (
        "orders FAILED",
        "SELECT count(*) FROM orders WHERE status = 4 AND metadata->>'poison' IS NULL",
    ),
    (
        "orders that are not PROCESSED",
        "SELECT count(*) FROM orders WHERE status <> 3 AND metadata->>'poison' IS NULL",
    ),
    ("jobs left", JOBS_LEFT),
    (
        "orders whose history has a gap or a double",
        "SELECT count(*) FROM orders o WHERE o.version - 1 <> \
         (SELECT count(DISTINCT version) FROM order_events e WHERE e.order_id = o.id \
          AND e.version BETWEEN 2 AND o.version)",
    ),
    (
        "events beyond the version of their order",
        "SELECT count(*) FROM order_events e JOIN orders o ON o.id = e.order_id \
         WHERE e.version > o.version OR e.version < 2",
    ),
    (
        "orders with other than one terminal event",
        "SELECT count(*) FROM (SELECT o.id FROM orders o LEFT JOIN order_events e \
         ON e.order_id = o.id AND e.status IN (3, 4) GROUP BY o.id HAVING count(e.version) <> 1) x",
    ),
];

/// Orders that exist more than once: every post has a number of its own.
pub(super) const DOUBLED: &str = "SELECT count(*) FROM (SELECT metadata->>'post' FROM orders \
     GROUP BY 1 HAVING count(*) > 1) x";

/// Jobs of orders that have not ended: that of a FAILED one stays for a redrive.
const JOBS_LEFT: &str = "SELECT count(*) FROM jobs WHERE due_at < 'infinity'";

/// Numbers of broken promises, printed one by one as they are found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    n_broken: u64,
}

impl Verdict {
    /// Prints and counts what must not be.
    pub(super) fn must_be_none(&mut self, n: u64, what: &str) {
        println!("{n} {what}");
        self.n_broken += n;
    }

    /// Fails if anything was found.
    pub(super) fn give(&self) -> anyhow::Result<()> {
        let n_broken = self.n_broken;
        ensure!(n_broken == 0, "the promise was broken {n_broken} times");
        println!("the promise holds");
        Ok(())
    }
}

/// A connection to the database of the storm.
pub(super) struct Database {
    client: Sql,
}

impl Database {
    /// Connects.
    pub(super) async fn connect(url: &str) -> anyhow::Result<Self> {
        let client = Sql::connect(url).await?;
        Ok(Self { client })
    }

    /// Waits until no job is left, at most for `limit`: what is left then, the checks find.
    pub(super) async fn settle(&self, limit: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.count(JOBS_LEFT).await? > 0 && begin.elapsed() < limit {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        println!("settled after {:.1} s", begin.elapsed().as_secs_f32());
        Ok(())
    }

    /// Compares what clients were told with what is stored, and asks every question.
    pub(super) async fn check(
        &self,
        acknowledged: &[String],
        verdict: &mut Verdict,
    ) -> anyhow::Result<()> {
        let stored: HashSet<String> = self
            .versions()
            .await?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let distinct: HashSet<&String> = acknowledged.iter().collect();
        let n_lost = distinct.iter().filter(|id| !stored.contains(**id)).count();
        println!(
            "{} orders acknowledged, {} stored",
            acknowledged.len(),
            stored.len()
        );
        verdict.must_be_none(u64::try_from(n_lost)?, "acknowledged orders lost");
        verdict.must_be_none(
            u64::try_from(acknowledged.len() - distinct.len())?,
            "ids given twice",
        );
        for (what, sql) in CHECKS {
            verdict.must_be_none(self.count(sql).await?, what);
        }
        Ok(())
    }

    /// Every order with its version.
    pub(super) async fn versions(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let rows = self
            .client
            .query("SELECT id::text, version FROM orders", &[])
            .await?;
        rows.into_iter()
            .map(|row| Ok((row.get(0), u32::try_from(row.get::<_, i32>(1))?)))
            .collect()
    }

    /// Runs a query whose answer is one number.
    pub(super) async fn count(&self, sql: &str) -> anyhow::Result<u64> {
        let n: i64 = self.client.query_one(sql, &[]).await?.get(0);
        Ok(u64::try_from(n)?)
    }
}
