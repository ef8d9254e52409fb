//! Takes the steps of a history on a subject and on the model, and compares.

use std::{sync::Arc, time::Duration};

use order_core::{
    Cause, Change, Committed, Completed, Completion, Created, Error, Extended, IdGen as _,
    Insertion, Job, JobEffect, JobQueue, JobToken, Money, NewOrder, OrderId, OrderStatus,
    OrderStore, Started, Verdict,
};
use proptest::{prelude::*, sample::Index, test_runner::TestCaseError};

use super::{Report, Step, model::Model};
use crate::{
    clock::SeededIds,
    conformance::{
        LEASE, Subject,
        scene::{ctx, processing, user},
    },
};

type Checked = Result<(), TestCaseError>;

/// How many workers there are.
const WORKERS: usize = 3;

/// Rounds of claims after the faults; each settles at least one order of the few there are.
const ROUNDS_MAX: usize = 1_000;

pub(super) struct Driver<'a> {
    subject: &'a dyn Subject,
    store: Arc<dyn OrderStore>,
    queue: Arc<dyn JobQueue>,
    ids: SeededIds,
    model: Model,
    /// What each worker believes to hold.
    held: [Vec<JobToken>; WORKERS],
    /// Tokens that were used or lost, and may be used again.
    old: Vec<JobToken>,
}

/// The calls of a case must succeed; what they answer is compared.
fn answered<T>(result: Result<T, Error>) -> Result<T, TestCaseError> {
    result.map_err(|error| TestCaseError::fail(format!("a call failed: {}", error.chain())))
}

fn pick<T: Copy>(index: Index, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| *index.get(from))
}

fn verdict(report: Report) -> Verdict {
    let retry = |delay| Verdict::Retry {
        delay,
        error: "not this time".to_owned(),
        is_counted: true,
    };
    match report {
        Report::Processed => Verdict::Processed,
        Report::Failed => Verdict::Failed(Cause::new("DECLINED", "not ever")),
        Report::RetryAtOnce => retry(Duration::ZERO),
        Report::RetryLater => retry(LEASE),
    }
}

impl<'a> Driver<'a> {
    pub(super) fn new(subject: &'a dyn Subject) -> Self {
        Self {
            subject,
            store: subject.store(),
            queue: subject.queue(),
            ids: SeededIds::new(1),
            model: Model::default(),
            held: Default::default(),
            old: Vec::new(),
        }
    }

    pub(super) async fn take(&mut self, step: Step) -> Checked {
        self.subject.tick().await;
        match step {
            Step::Create { worker, is_leased } => {
                self.create(worker.index(WORKERS), &is_leased).await
            }
            Step::CreateAgain { order } => self.create_again(order).await,
            Step::Claim { worker, limit } => self.claim(worker.index(WORKERS), limit).await,
            Step::ClaimAbandoned { worker } => self.claim_abandoned(worker.index(WORKERS)).await,
            Step::ClaimTogether { workers, limit } => {
                let [left, right] = workers.map(|worker| worker.index(WORKERS));
                self.claim_together(left, right, limit).await
            }
            Step::Heartbeat { worker } => self.heartbeat(worker.index(WORKERS)).await,
            Step::Start { worker } => self.start(worker.index(WORKERS)).await,
            Step::Complete {
                worker,
                limit,
                report,
                old,
            } => {
                let held = &mut self.held[worker.index(WORKERS)];
                let mut tokens: Vec<_> = held.drain(..held.len().min(limit)).collect();
                let old = old.and_then(|old| pick(old, &self.old));
                self.old.extend(&tokens);
                tokens.extend(old);
                self.complete(&tokens, report).await
            }
            Step::Release { worker } => self.release(worker.index(WORKERS)).await,
            Step::Crash { worker } => {
                self.held[worker.index(WORKERS)].clear();
                Ok(())
            }
            Step::Hang { worker } => {
                self.old.append(&mut self.held[worker.index(WORKERS)]);
                Ok(())
            }
            Step::ExpireLeases => {
                self.subject.expire_leases().await;
                self.model.expire_leases();
                Ok(())
            }
            Step::Move { order, status } => self.move_order(order, status, 0).await,
            Step::MoveStale { order } => self.move_order(order, order, 1).await,
        }
    }

    async fn create(&mut self, worker: usize, is_leased: &[bool]) -> Checked {
        let slice: Vec<_> = is_leased
            .iter()
            .map(|is_leased| {
                let money = Money::from_minor_units(100, "USD").expect("a valid amount");
                NewOrder {
                    lease: is_leased.then_some(LEASE),
                    ..NewOrder::new(self.ids.order_id(), user("user-1"), money)
                }
            })
            .collect();
        let created = self.store.create(&slice).await;
        prop_assert_eq!(created.len(), slice.len());
        for (created, new) in created.into_iter().zip(&slice) {
            let created = answered(created)?;
            prop_assert!(created.is_new() && created.order.is_same_request(new));
            self.held[worker].extend(self.model.create(new));
        }
        Ok(())
    }

    fn pick_order(&self, index: Index) -> Option<OrderId> {
        let ids: Vec<_> = self.model.orders.keys().copied().collect();
        pick(index, &ids)
    }

    async fn create_again(&mut self, order: Index) -> Checked {
        let Some(order_id) = self.pick_order(order) else {
            return Ok(());
        };
        let known = &self.model.orders[&order_id];
        for created in self.store.create(std::slice::from_ref(&known.new)).await {
            let Created { order, insertion } = answered(created)?;
            prop_assert_eq!(insertion, Insertion::SameId);
            let (status, version) = (order.status, order.version);
            prop_assert_eq!((status, version), (known.status(), known.version()));
        }
        Ok(())
    }

    async fn claim(&mut self, worker: usize, limit: usize) -> Checked {
        let n_due = self.model.n_due(false);
        let jobs = answered(self.queue.claim(limit, LEASE).await)?;
        prop_assert_eq!(jobs.len(), n_due.min(limit));
        self.take_jobs(worker, jobs, false)
    }

    async fn claim_abandoned(&mut self, worker: usize) -> Checked {
        let n_abandoned = self.model.n_due(true);
        let job = answered(self.queue.claim_abandoned(LEASE).await)?;
        prop_assert_eq!(job.is_some(), n_abandoned > 0);
        self.take_jobs(worker, job, true)
    }

    async fn claim_together(&mut self, left: usize, right: usize, limit: usize) -> Checked {
        let claims = tokio::join!(
            self.queue.claim(limit, LEASE),
            self.queue.claim(limit, LEASE)
        );
        self.take_jobs(left, answered(claims.0)?, false)?;
        self.take_jobs(right, answered(claims.1)?, false)
    }

    fn take_jobs(
        &mut self,
        worker: usize,
        jobs: impl IntoIterator<Item = Job>,
        is_abandoned: bool,
    ) -> Checked {
        for job in jobs {
            prop_assert!(self.model.is_shown(&job), "not as stored: {:?}", job);
            let claimed = Some((job.token(), job.attempts_before));
            prop_assert_eq!(self.model.claim(job.order.id, is_abandoned), claimed);
            self.held[worker].push(job.token());
        }
        Ok(())
    }

    async fn heartbeat(&mut self, worker: usize) -> Checked {
        let held = std::mem::take(&mut self.held[worker]);
        let extended = answered(self.queue.extend(&held, LEASE).await)?;
        prop_assert_eq!(extended.len(), held.len());
        for (token, extended) in held.into_iter().zip(extended) {
            let expected = if self.model.heartbeat(token) {
                self.held[worker].push(token);
                Extended::Applied
            } else {
                self.old.push(token);
                Extended::Stale
            };
            prop_assert_eq!(extended, expected);
        }
        Ok(())
    }

    async fn start(&mut self, worker: usize) -> Checked {
        let tokens = self.held[worker].clone();
        let starts: Vec<_> = tokens.iter().copied().map(processing).collect();
        let started = self.queue.start(&starts).await;
        prop_assert_eq!(started.len(), tokens.len());
        for (started, token) in started.into_iter().zip(tokens) {
            let moved = match answered(started)? {
                Started::Applied(event) => Some(event.map(|event| (event.order_id, event.status))),
                Started::Stale => None,
            };
            let expected = self
                .model
                .start(token)
                .map(|is_moved| is_moved.then_some((token.order_id, OrderStatus::Processing)));
            prop_assert_eq!(moved, expected);
        }
        Ok(())
    }

    async fn complete(&mut self, tokens: &[JobToken], report: Report) -> Checked {
        let verdict = verdict(report);
        let slice: Vec<_> = tokens
            .iter()
            .map(|token| Completion {
                took: None,
                token: *token,
                verdict: verdict.clone(),
                trace_parent: None,
            })
            .collect();
        let completed = self.queue.complete(&slice).await;
        prop_assert_eq!(completed.len(), slice.len());
        for (completed, token) in completed.into_iter().zip(tokens) {
            let moved = match answered(completed)? {
                Completed::Applied(event) => Some(event.map(|event| (event.version, event.status))),
                Completed::Stale => None,
            };
            let expected = self.model.complete(*token, &verdict);
            prop_assert_eq!(moved, expected, "{:?} reports {:?}", token, &verdict);
        }
        Ok(())
    }

    async fn release(&mut self, worker: usize) -> Checked {
        let tokens = std::mem::take(&mut self.held[worker]);
        let n_released = answered(self.queue.release(&tokens).await)?;
        let released = tokens
            .into_iter()
            .filter(|token| self.model.release(*token));
        prop_assert_eq!(n_released, released.count());
        Ok(())
    }

    /// Commits a client's change that was decided `n_behind` versions ago.
    async fn move_order(&mut self, order: Index, status: Index, n_behind: u32) -> Checked {
        let Some(order_id) = self.pick_order(order) else {
            return Ok(());
        };
        let Some((status, job)) =
            pick::<(OrderStatus, JobEffect)>(status, &self.model.moves(order_id))
        else {
            return Ok(());
        };
        let change = Change {
            order_id,
            expected_version: self.model.orders[&order_id].version() - n_behind,
            status,
            job,
            cause: Some(Cause::new("BY_CLIENT", "as the client wished")),
            key: None,
            id: None,
            trace_parent: None,
        };
        for committed in self.store.commit(std::slice::from_ref(&change)).await {
            let is_applied = match answered(committed)? {
                Committed::Applied { .. } => true,
                Committed::Stale => false,
            };
            prop_assert_eq!(is_applied, self.model.commit(&change));
        }
        Ok(())
    }

    /// The faults are over: lets a healthy worker finish, then looks at every order.
    pub(super) async fn settle(&mut self) -> Checked {
        for _ in 0..ROUNDS_MAX {
            self.subject.expire_leases().await;
            self.model.expire_leases();
            self.claim(0, 2).await?;
            self.claim_abandoned(0).await?;
            let tokens = std::mem::take(&mut self.held[0]);
            if tokens.is_empty() {
                return self.check_histories().await;
            }
            self.complete(&tokens, Report::Processed).await?;
        }
        Err(TestCaseError::fail("orders do not settle"))
    }

    async fn check_histories(&self) -> Checked {
        for (order_id, expected) in &self.model.orders {
            let order = answered(self.store.find(&ctx(), *order_id).await)?;
            let Some(order) = order else {
                return Err(TestCaseError::fail(format!("order {order_id} is lost")));
            };
            prop_assert!(order.status.is_settled(), "{:?} is not settled", order);
            let events = answered(self.store.events(&ctx(), *order_id, 0, usize::MAX).await)?;
            let statuses: Vec<_> = events.iter().map(|event| event.status).collect();
            prop_assert_eq!(&statuses, &expected.history);
            let versions: Vec<_> = events.iter().map(|event| event.version).collect();
            let contiguous: Vec<_> = (1..=expected.version()).collect();
            prop_assert_eq!(versions, contiguous);
            let is_final = |s: &&OrderStatus| s.allowed().is_empty();
            prop_assert!(statuses.iter().filter(is_final).count() <= 1);
            prop_assert_eq!(
                (order.status, order.version),
                (expected.status(), expected.version())
            );
        }
        Ok(())
    }
}
