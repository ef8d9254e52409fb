//! Jobs, under the lease protocol.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use order_core::{
    Cause, Completed, Completion, Error, Extended, Job, JobQueue, JobToken, OrderEvent, OrderId,
    OrderRecord, OrderStatus, Start, Started, Verdict,
};
use tokio::time::Instant;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use crate::UNREADABLE_REST;

use super::{
    CONFIRM, PostgresStore,
    cursor::{Cursor, Scan},
    errors::Fault,
    pool::{Answers, BatchStatement, Columns},
    row::{
        self, ORDER_COLUMNS_LEN, TokenKey, ids, last_error, micros, number_code, read_token_key,
        readable, token_key,
    },
    store::ascending,
};

fn start() -> BatchStatement<Start, TokenKey, Option<OrderEvent>> {
    BatchStatement {
        sql: include_str!("sql/start.sql"),
        columns: |starts| {
            let mut columns = token_columns(starts.iter().map(|start| &start.token));
            let moves = starts.iter().map(|start| start.moves_order);
            let counts = starts.iter().map(|start| start.counts);
            columns.push(Box::new(moves.collect::<Vec<_>>()));
            columns.push(Box::new(counts.collect::<Vec<_>>()));
            columns
        },
        key: |start| token_key(&start.token),
        read_key: read_token_key,
        read: |row| {
            let version: Option<i32> = row.try_get(2)?;
            version
                .map(|_| row::event(row, OrderStatus::Processing, None))
                .transpose()
        },
    }
}

/// The end of an attempt.
struct Ended<'a> {
    token: JobToken,
    took: Option<Duration>,
    /// The process that ran it.
    worker: &'a str,
}

fn ended_columns<'a>(ended: impl Iterator<Item = &'a Ended<'a>> + Clone) -> Columns<'a> {
    let mut columns = token_columns(ended.clone().map(|ended| &ended.token));
    let took = ended.clone().map(|ended| ended.took.map(micros));
    columns.push(Box::new(took.collect::<Vec<_>>()));
    // All are of this process.
    let worker = ended.map(|ended| ended.worker).next();
    columns.push(Box::new(worker));
    columns
}

fn processed<'a>() -> BatchStatement<Ended<'a>, TokenKey, Reported> {
    BatchStatement {
        sql: include_str!("sql/complete_processed.sql"),
        columns: |processed| ended_columns(processed.iter()),
        key: |ended| token_key(&ended.token),
        read_key: read_token_key,
        read: |row| {
            let event = row::event(row, OrderStatus::Processed, None)?;
            Ok(Reported::Ended(event))
        },
    }
}

fn failed<'a>() -> BatchStatement<(Ended<'a>, &'a Cause), TokenKey, Reported> {
    BatchStatement {
        sql: include_str!("sql/complete_failed.sql"),
        columns: |failed| {
            let mut columns = ended_columns(failed.iter().map(|(ended, _)| ended));
            let causes = || failed.iter().map(|(_, cause)| *cause);
            columns.push(Box::new(
                causes().map(|cause| &*cause.code).collect::<Vec<_>>(),
            ));
            columns.push(Box::new(
                causes().map(|cause| &*cause.message).collect::<Vec<_>>(),
            ));
            columns
        },
        key: |(ended, _)| token_key(&ended.token),
        read_key: read_token_key,
        read: |row| {
            let event = row::event(row, OrderStatus::Failed, row::cause(row, 5)?)?;
            Ok(Reported::Ended(event))
        },
    }
}

fn retry<'a>() -> BatchStatement<(Ended<'a>, Duration, &'a str, bool), TokenKey, Reported> {
    BatchStatement {
        sql: include_str!("sql/complete_retry.sql"),
        columns: |retries| {
            let mut columns = ended_columns(retries.iter().map(|(ended, ..)| ended));
            let delays = retries.iter().map(|(_, delay, ..)| micros(*delay));
            let errors = retries.iter().map(|(_, _, error, _)| last_error(error));
            let counted = retries.iter().map(|(.., is_counted)| *is_counted);
            columns.push(Box::new(delays.collect::<Vec<_>>()));
            columns.push(Box::new(errors.collect::<Vec<_>>()));
            columns.push(Box::new(counted.collect::<Vec<_>>()));
            columns.push(Box::new(number_code(OrderRecord::LEN_MAX)));
            columns
        },
        key: |(ended, ..)| token_key(&ended.token),
        read_key: read_token_key,
        read: |_| Ok(Reported::Retried),
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
        trace_parent: row::trace_parent(row, ORDER_COLUMNS_LEN + 2)?,
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

/// The result that is stored for a token.
enum Reported {
    /// The order ended.
    Ended(OrderEvent),
    /// The job is retried.
    Retried,
}

impl Reported {
    /// The answer to `verdict`. The process that takes a report decides between retry and failure,
    /// and may decide differently when it is repeated.
    fn answer(&self, verdict: &Verdict) -> Completed {
        let is_success = matches!(verdict, Verdict::Processed);
        match self {
            Self::Ended(event) if (event.status == OrderStatus::Processed) == is_success => {
                Completed::Applied(Some(event.clone()))
            }
            Self::Retried if !is_success => Completed::Applied(None),
            Self::Ended(_) | Self::Retried => Completed::Stale,
        }
    }
}

fn reported() -> BatchStatement<JobToken, TokenKey, Reported> {
    BatchStatement {
        sql: include_str!("sql/reported.sql"),
        columns: |tokens| token_columns(tokens.iter()),
        key: token_key,
        read_key: read_token_key,
        read: |row| {
            let version: Option<i32> = row.try_get(2)?;
            Ok(match version {
                Some(_) => {
                    let status = row::status(row, 5)?;
                    Reported::Ended(row::event(row, status, row::cause(row, 6)?)?)
                }
                None => Reported::Retried,
            })
        },
    }
}

impl PostgresStore {
    /// Runs a statement that claims jobs for `lease`. It is not repeated: the first run may
    /// have been committed, and is given back in that case.
    async fn claim_by(
        &self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
        claim_id: Uuid,
        lease: Duration,
    ) -> Result<Vec<Row>, Error> {
        let sent_at = Instant::now();
        let answer = self.workers.query_once(sql, params).await;
        answer.map_err(|fault| {
            if fault.leaves_outcome_open() {
                self.unsure.keep(claim_id, sent_at, lease);
            }
            self.due.forget();
            self.abandoned.forget();
            fault.into()
        })
    }

    /// Reads the answer to a scan that `cursor` began.
    async fn read_scan(
        &self,
        cursor: &Cursor,
        scan: &Scan,
        mut rows: Vec<Row>,
    ) -> Result<Vec<Job>, Error> {
        if let Some(row) = rows.first() {
            let end = row.try_get(ORDER_COLUMNS_LEN + 3).map_err(Fault::from)?;
            cursor.advance(scan, end);
        }
        // Without an order a row says only where the next scan begins.
        rows.retain(|row| !matches!(row.try_get::<_, Option<Uuid>>(0), Ok(None)));
        self.read_jobs(&rows).await
    }

    /// Gives back the jobs of claims whose outcome this process never learnt.
    async fn give_back_unsure(&self) -> Result<(), Error> {
        let Some(unsure) = self.unsure.due() else {
            return Ok(());
        };
        let rows = self
            .workers
            .query_once(
                include_str!("sql/give_back.sql"),
                &[&unsure.ids, &micros(unsure.from), &micros(unsure.to)],
            )
            .await?;
        let found: Result<Vec<Uuid>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        let found = found.map_err(Fault::from)?;
        if !found.is_empty() {
            tracing::info!(
                jobs = found.len(),
                "gave back jobs whose claim had not been answered"
            );
        }
        self.unsure.forget(&found);
        Ok(())
    }

    /// The results that were stored before for tokens that are not current.
    async fn find_reported(&self, tokens: &[JobToken]) -> Answers<TokenKey, Reported> {
        let found = self
            .workers
            .query_batch(reported(), &ascending_tokens(tokens))
            .await;
        if found.is_empty() {
            return found;
        }
        match self.workers.query(CONFIRM, &[]).await.map_err(Error::from) {
            Ok(_) => found,
            Err(error) => {
                let unknown = found
                    .into_keys()
                    .map(|key| (key, Err(error.without_source())));
                unknown.collect()
            }
        }
    }
}

impl PostgresStore {
    /// The name of a claim: this process, and a random number.
    pub(super) fn new_claim_id(&self) -> Uuid {
        Uuid::from_u64_pair(self.identity.id.as_u64(), rand::random())
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
        self.give_back_unsure().await?;
        let claim_id = self.new_claim_id();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = include_str!("sql/claim.sql");
        let scan = self.due.scan();
        let params: [&(dyn ToSql + Sync); 5] = [
            &limit,
            &micros(lease),
            &micros(overdue),
            &claim_id,
            &scan.from,
        ];
        let rows = self.claim_by(sql, &params, claim_id, lease).await?;
        self.read_scan(&self.due, &scan, rows).await
    }

    async fn claim_hinted(
        &self,
        order_ids: &[OrderId],
        lease: Duration,
    ) -> Result<Vec<Job>, Error> {
        if order_ids.is_empty() {
            return Ok(Vec::new());
        }
        let claim_id = self.new_claim_id();
        let sql = include_str!("sql/claim_hinted.sql");
        let params: [&(dyn ToSql + Sync); 3] = [&ids(order_ids), &micros(lease), &claim_id];
        let rows = self.claim_by(sql, &params, claim_id, lease).await?;
        self.read_jobs(&rows).await
    }

    async fn claim_abandoned(&self, lease: Duration) -> Result<Option<Job>, Error> {
        self.give_back_unsure().await?;
        let claim_id = self.new_claim_id();
        let scan = self.abandoned.scan();
        let sql = include_str!("sql/claim_abandoned.sql");
        let params: [&(dyn ToSql + Sync); 3] = [&micros(lease), &claim_id, &scan.from];
        let rows = self.claim_by(sql, &params, claim_id, lease).await?;
        let jobs = self.read_scan(&self.abandoned, &scan, rows).await?;
        Ok(jobs.into_iter().next())
    }

    async fn extend(&self, tokens: &[JobToken], lease: Duration) -> Result<Vec<Extended>, Error> {
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
        let mut extended = HashMap::new();
        for row in &rows {
            let is_extended: bool = row.try_get(2).map_err(Fault::from)?;
            extended.insert(read_token_key(row)?, is_extended);
        }
        let answer = |token| match extended.get(&token_key(token)) {
            Some(true) => Extended::Applied,
            Some(false) => Extended::Locked,
            None => Extended::Stale,
        };
        Ok(tokens.iter().map(answer).collect())
    }

    async fn start(&self, starts: &[Start]) -> Vec<Result<Started, Error>> {
        let unique = ascending(starts, |start| token_key(&start.token));
        let unique: Vec<_> = unique.into_iter().cloned().collect();
        let mut started = self.workers.query_batch(start(), &unique).await;
        starts
            .iter()
            .map(|start| match started.remove(&token_key(&start.token)) {
                Some(event) => Ok(Started::Applied(event?)),
                None => Ok(Started::Stale),
            })
            .collect()
    }

    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>> {
        let worker = self.identity.name();
        let (mut successes, mut failures, mut retries) = (Vec::new(), Vec::new(), Vec::new());
        for completion in ascending(completions, |completion| token_key(&completion.token)) {
            let ended = Ended {
                token: completion.token,
                took: completion.took,
                worker: &worker,
            };
            match &completion.verdict {
                Verdict::Processed => successes.push(ended),
                Verdict::Failed(cause) => failures.push((ended, cause)),
                Verdict::Retry {
                    delay,
                    error,
                    is_counted,
                } => retries.push((ended, *delay, error.as_str(), *is_counted)),
            }
        }
        let mut reported = self.workers.query_batch(processed(), &successes).await;
        reported.extend(self.workers.query_batch(failed(), &failures).await);
        reported.extend(self.workers.query_batch(retry(), &retries).await);
        let is_open = |token: &JobToken| !reported.contains_key(&token_key(token));
        let open = completions.iter().map(|completion| completion.token);
        let open: Vec<_> = open.filter(is_open).collect();
        // Stale, or the repetition of a report: of a worker outside, or our own after a
        // connection broke.
        reported.extend(self.find_reported(&open).await);
        completions
            .iter()
            .map(
                |Completion { token, verdict, .. }| match reported.get(&token_key(token)) {
                    Some(Ok(reported)) => Ok(reported.answer(verdict)),
                    Some(Err(error)) => Err(error.without_source()),
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
        let rows = self
            .workers
            .query(include_str!("sql/release.sql"), &[&ids, &attempts])
            .await?;
        Ok(rows.len())
    }
}
