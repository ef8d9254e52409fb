//! Jobs, under the lease protocol.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use order_core::{
    Cause, Completed, Completion, Error, Job, JobQueue, JobToken, OrderEvent, OrderId, OrderStatus,
    Started, Verdict,
};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::UNREADABLE_REST;

use super::{
    PostgresStore,
    errors::Fault,
    pool::{BatchStatement, Columns},
    row::{
        self, ORDER_COLUMNS_LEN, TokenKey, ids, last_error, micros, number_code, read_token_key,
        readable, token_key,
    },
    store::ascending,
};

fn start() -> BatchStatement<JobToken, TokenKey, Option<OrderEvent>> {
    BatchStatement {
        sql: include_str!("sql/start.sql"),
        columns: |tokens| token_columns(tokens.iter()),
        key: token_key,
        read_key: read_token_key,
        read: |row| {
            let version: Option<i32> = row.try_get(2)?;
            version
                .map(|_| row::event(row, OrderStatus::Processing, None))
                .transpose()
        },
    }
}

fn processed() -> BatchStatement<JobToken, TokenKey, Option<OrderEvent>> {
    BatchStatement {
        sql: include_str!("sql/complete_processed.sql"),
        columns: |tokens| token_columns(tokens.iter()),
        key: token_key,
        read_key: read_token_key,
        read: |row| {
            let event = row::event(row, OrderStatus::Processed, None)?;
            Ok(Some(event))
        },
    }
}

fn failed<'a>() -> BatchStatement<(JobToken, &'a Cause), TokenKey, Option<OrderEvent>> {
    BatchStatement {
        sql: include_str!("sql/complete_failed.sql"),
        columns: |failed| {
            let mut columns = token_columns(failed.iter().map(|(token, _)| token));
            let causes = || failed.iter().map(|(_, cause)| *cause);
            columns.push(Box::new(
                causes().map(|cause| &*cause.code).collect::<Vec<_>>(),
            ));
            columns.push(Box::new(
                causes().map(|cause| &*cause.message).collect::<Vec<_>>(),
            ));
            columns
        },
        key: |(token, _)| token_key(token),
        read_key: read_token_key,
        read: |row| {
            let event = row::event(row, OrderStatus::Failed, row::cause(row, 5)?)?;
            Ok(Some(event))
        },
    }
}

fn retry<'a>() -> BatchStatement<(JobToken, Duration, &'a str, bool), TokenKey, Option<OrderEvent>>
{
    BatchStatement {
        sql: include_str!("sql/complete_retry.sql"),
        columns: |retries| {
            let mut columns = token_columns(retries.iter().map(|(token, ..)| token));
            let delays = retries.iter().map(|(_, delay, ..)| micros(*delay));
            let errors = retries.iter().map(|(_, _, error, _)| last_error(error));
            let counted = retries.iter().map(|(.., is_counted)| *is_counted);
            columns.push(Box::new(delays.collect::<Vec<_>>()));
            columns.push(Box::new(errors.collect::<Vec<_>>()));
            columns.push(Box::new(counted.collect::<Vec<_>>()));
            columns
        },
        key: |(token, ..)| token_key(token),
        read_key: read_token_key,
        read: |_| Ok(None),
    }
}

fn token_columns<'a>(tokens: impl Iterator<Item = &'a JobToken> + Clone) -> Columns<'a> {
    let attempts = tokens.clone().map(|token| number_code(token.attempt));
    vec![
        Box::new(ids(tokens.map(|token| &token.order_id))),
        Box::new(attempts.collect::<Vec<_>>()),
    ]
}

fn ascending_tokens(tokens: &[JobToken]) -> Vec<JobToken> {
    let tokens = ascending(tokens, token_key);
    tokens.into_iter().copied().collect()
}

fn read_job(row: &Row) -> Result<Job, Fault> {
    Ok(Job {
        order: row::order(row)?,
        attempt: row::number(row, ORDER_COLUMNS_LEN)?,
        attempts_before: row::number(row, ORDER_COLUMNS_LEN + 1)?,
    })
}

impl PostgresStore {
    /// Reads claimed jobs. Those that cannot be read are logged and set aside, so that they
    /// neither fail the others nor use up their own attempts.
    async fn read_jobs(&self, rows: &[Row]) -> Result<Vec<Job>, Error> {
        let jobs = readable(rows, read_job);
        if jobs.len() < rows.len() {
            let readable: BTreeSet<_> = jobs.iter().map(|job| *job.order.id.as_uuid()).collect();
            let token = |row: &Row| -> Result<(Uuid, i32), Fault> {
                Ok((row.try_get(0)?, row.try_get(ORDER_COLUMNS_LEN)?))
            };
            let mut tokens: Vec<_> = rows.iter().map(token).collect::<Result<_, _>>()?;
            tokens.retain(|(id, _)| !readable.contains(id));
            tokens.sort_unstable();
            let (ids, attempts): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
            let sql = include_str!("sql/set_aside.sql");
            let rest = micros(UNREADABLE_REST);
            if let Err(fault) = self.workers.query(sql, &[&ids, &attempts, &rest]).await {
                // The jobs then rest for their lease, and the readable ones are not lost.
                let error = Error::from(fault);
                tracing::warn!(
                    error = error.chain(),
                    "setting unreadable jobs aside failed"
                );
            }
        }
        Ok(jobs)
    }
}

#[async_trait]
impl JobQueue for PostgresStore {
    async fn claim_overdue(
        &self,
        limit: usize,
        lease: Duration,
        overdue: Duration,
    ) -> Result<Vec<Job>, Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .workers
            .query(
                include_str!("sql/claim.sql"),
                &[&limit, &micros(lease), &micros(overdue)],
            )
            .await?;
        self.read_jobs(&rows).await
    }

    async fn claim_hinted(
        &self,
        order_ids: &[OrderId],
        lease: Duration,
    ) -> Result<Vec<Job>, Error> {
        if order_ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = ids(order_ids);
        ids.sort_unstable();
        let rows = self
            .workers
            .query(
                include_str!("sql/claim_hinted.sql"),
                &[&ids, &micros(lease)],
            )
            .await?;
        self.read_jobs(&rows).await
    }

    async fn extend(&self, tokens: &[JobToken], lease: Duration) -> Result<Vec<JobToken>, Error> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let unique = ascending_tokens(tokens);
        let attempts: Vec<_> = unique
            .iter()
            .map(|token| number_code(token.attempt))
            .collect();
        let ids = ids(unique.iter().map(|token| &token.order_id));
        let rows = self
            .workers
            .query(
                include_str!("sql/extend.sql"),
                &[&ids, &attempts, &micros(lease)],
            )
            .await?;
        let current = rows.iter().map(read_token_key);
        let current: BTreeSet<_> = current.collect::<Result<_, _>>()?;
        let is_lost = |token: &&JobToken| !current.contains(&token_key(token));
        Ok(tokens.iter().filter(is_lost).copied().collect())
    }

    async fn start(&self, tokens: &[JobToken]) -> Vec<Result<Started, Error>> {
        let mut started = self
            .workers
            .query_batch(start(), &ascending_tokens(tokens))
            .await;
        tokens
            .iter()
            .map(|token| match started.remove(&token_key(token)) {
                Some(event) => Ok(Started::Applied(event?)),
                None => Ok(Started::Stale),
            })
            .collect()
    }

    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>> {
        let (mut successes, mut failures, mut retries) = (Vec::new(), Vec::new(), Vec::new());
        for completion in ascending(completions, |completion| token_key(&completion.token)) {
            let token = completion.token;
            match &completion.verdict {
                Verdict::Processed => successes.push(token),
                Verdict::Failed(cause) => failures.push((token, cause)),
                Verdict::Retry {
                    delay,
                    error,
                    is_counted,
                } => retries.push((token, *delay, error.as_str(), *is_counted)),
            }
        }
        let mut done = self.workers.query_batch(processed(), &successes).await;
        done.extend(self.workers.query_batch(failed(), &failures).await);
        done.extend(self.workers.query_batch(retry(), &retries).await);
        completions
            .iter()
            .map(
                |completion| match done.remove(&token_key(&completion.token)) {
                    Some(event) => Ok(Completed::Applied(event?)),
                    // Not current, or the second report of the same attempt. After a connection
                    // broke it may also be the echo of our own report; what that moved, the
                    // watchers read from the order itself.
                    None => Ok(Completed::Stale),
                },
            )
            .collect()
    }

    async fn release(&self, tokens: &[JobToken]) -> Result<usize, Error> {
        if tokens.is_empty() {
            return Ok(0);
        }
        let tokens = ascending_tokens(tokens);
        let attempts: Vec<_> = tokens
            .iter()
            .map(|token| number_code(token.attempt))
            .collect();
        let ids = ids(tokens.iter().map(|token| &token.order_id));
        // Repeated after a broken connection it may forgive one attempt more than was
        // given back, which costs an order nothing.
        let rows = self
            .workers
            .query(include_str!("sql/release.sql"), &[&ids, &attempts])
            .await?;
        Ok(rows.len())
    }
}
