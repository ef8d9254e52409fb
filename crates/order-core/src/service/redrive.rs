//! The redrive of many dead letters: reads them page by page, redrives as many as the rate allows,
//! and looks what becomes of them.
//!
//! All state is in the stream, and each order is redriven by a compare-and-set on the version that
//! was read. So a redrive that is given up leaves nothing behind, and several at once are harmless.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, future::join_all, stream};
use uuid::Uuid;

use super::backlog::SharedBacklog;
use crate::{
    AdminApi, AdminStore, CallContext, Clock, ClusterState, DeadLetterGroup, Deadline, Directive,
    Error, IdGen, IfMatch, ListOrders, Order, OrderApi, OrderId, OrderRecord, OrderService,
    OrderStatus, OrderStore, PageSize, ProcessId, ProcessReport, PushRecord, Redrive, RedriveEnd,
    RedriveProgress, RedriveStream, RequestId, RetryOrder, Version,
};

/// The time between two steps.
const TICK: Duration = Duration::from_millis(250);

/// How many redriven orders may be open: a redrive waits for workers that are slower than its rate.
const OPEN_MAX: usize = 1_000;

/// How many orders are redriven at the same time.
const AT_ONCE: usize = 50;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The share of failures counts when so many have ended.
const SAMPLE_MIN: u32 = 20;

/// How many steps in a row may fail for reasons that pass: about a minute without a database.
const FAILURES_MAX: u32 = 60;
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// An [`AdminApi`] over a service.
pub struct Admin {
    api: Arc<OrderService>,
    system: Arc<dyn AdminStore>,
    backlog: SharedBacklog,
    store: Arc<dyn OrderStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
}

impl Admin {
    /// Works on the orders of `api`, and on what `system` holds beside them.
    pub fn new(api: &Arc<OrderService>, system: Arc<dyn AdminStore>) -> Self {
        Self {
            system,
            backlog: SharedBacklog::default(),
            store: Arc::clone(&api.store),
            clock: Arc::clone(&api.clock),
            ids: Arc::clone(&api.ids),
            api: Arc::clone(api),
        }
    }
}

#[async_trait]
impl AdminApi for Admin {
    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        self.store.dead_letters(ctx).await
    }

    async fn redrive(&self, ctx: &CallContext, request: Redrive) -> Result<RedriveStream, Error> {
        request.check()?;
        let run = Run {
            api: Arc::clone(&self.api),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            request_id: ctx.request_id.clone(),
            page_token: None,
            is_read: false,
            found: VecDeque::new(),
            open: HashMap::new(),
            progress: RedriveProgress::default(),
            n_failures: 0,
            request,
        };
        let step = |run: Option<Run>| async {
            let mut run = run?;
            let stepped = run.step().await;
            let is_over = stepped
                .as_ref()
                .map_or(true, |progress| progress.end.is_some());
            Some((stepped, (!is_over).then_some(run)))
        };
        Ok(stream::unfold(Some(run), step).boxed())
    }

    async fn record(&self, ctx: &CallContext, order_id: OrderId) -> Result<OrderRecord, Error> {
        let record = self.system.record(ctx, order_id).await?;
        let record = record.ok_or(Error::OrderNotFound { order_id })?;
        Ok(OrderRecord {
            pushes: self.pushes(order_id),
            ..record
        })
    }

    fn pushes(&self, order_id: OrderId) -> Vec<PushRecord> {
        let process = self.api.process_name.as_deref().unwrap_or_default();
        PushRecord::of(process, self.api.watch.pushes(order_id))
    }

    async fn cluster(&self, ctx: &CallContext) -> Result<ClusterState, Error> {
        let state = self.system.cluster(ctx).await?;
        let backlog = self.backlog.get(&*self.store, &*self.clock).await?;
        Ok(ClusterState { backlog, ..state })
    }

    async fn report(&self, ctx: &CallContext, report: ProcessReport) -> Result<Directive, Error> {
        report.check()?;
        self.system.report(ctx, &report).await
    }

    async fn set_paused(
        &self,
        ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<(), Error> {
        if self.system.set_paused(ctx, process_id, is_paused).await? {
            return Ok(());
        }
        Err(Error::invalid(
            "process_id",
            "must be the id of a process that reports",
        ))
    }
}

/// A redrive under way.
struct Run {
    api: Arc<OrderService>,
    store: Arc<dyn OrderStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    request: Redrive,
    request_id: RequestId,
    /// Where the next page begins; `None`: at the newest order.
    page_token: Option<String>,
    /// Whether no page follows.
    is_read: bool,
    /// Orders to redrive, each with the id of that change: a change whose answer was lost is
    /// repeated, not skipped.
    found: VecDeque<(Order, Uuid)>,
    /// Redriven orders that have not ended, with the version since which they wait.
    open: HashMap<OrderId, Version>,
    progress: RedriveProgress,
    /// Steps in a row that failed.
    n_failures: u32,
}

impl Run {
    async fn step(&mut self) -> Result<RedriveProgress, Error> {
        match self.try_step().await {
            Ok(()) => self.n_failures = 0,
            Err(error) if is_passing(&error) && self.n_failures < FAILURES_MAX => {
                self.n_failures += 1;
                tracing::debug!(
                    request.id = %self.request_id,
                    error = error.chain(),
                    "a step of a redrive failed"
                );
                self.clock.sleep(FAILURE_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
        Ok(self.progress)
    }

    async fn try_step(&mut self) -> Result<(), Error> {
        if self.request.is_dry_run {
            self.read_page().await?;
            self.found.clear();
        } else {
            self.look_at_open().await?;
            if self.is_failing() {
                self.progress.end = Some(RedriveEnd::TooManyFailures);
                return Ok(());
            }
            self.redrive_some().await?;
        }
        if self.is_read && self.found.is_empty() && self.open.is_empty() {
            self.progress.end = Some(RedriveEnd::Done);
        } else if !self.request.is_dry_run {
            self.clock.sleep(TICK).await;
        }
        Ok(())
    }

    fn context(&self, change_id: Option<Uuid>) -> CallContext {
        let deadline = Deadline::at(self.clock.instant() + CALL_TIMEOUT);
        CallContext {
            change_id,
            ..CallContext::new(self.request_id.clone(), deadline)
        }
    }

    /// Reads the next page of FAILED orders and keeps those that are selected.
    async fn read_page(&mut self) -> Result<(), Error> {
        if self.is_read {
            return Ok(());
        }
        let filter = &self.request.filter;
        let list = ListOrders {
            user_id: filter.user_id.clone(),
            statuses: vec![OrderStatus::Failed],
            created_after: filter.created_after,
            created_before: filter.created_before,
            page_size: PageSize::MAX,
            page_token: self.page_token.clone(),
            external_id: None,
        };
        let page = self.api.list_orders(&self.context(None), list).await?;
        self.is_read = page.next_page_token.is_none();
        self.page_token = page.next_page_token;
        for order in page.orders {
            if self.progress.matched == self.request.limit {
                self.is_read = true;
                break;
            }
            if self.request.filter.has_code_of(&order) {
                self.progress.matched += 1;
                let change_id = *self.ids.order_id().as_uuid();
                self.found.push_back((order, change_id));
            }
        }
        Ok(())
    }

    /// Redrives as many orders as the rate allows in a step.
    async fn redrive_some(&mut self) -> Result<(), Error> {
        let per_step = self.request.rate.div_ceil(STEPS_PER_SECOND);
        let room = OPEN_MAX.saturating_sub(self.open.len());
        let mut n_left = usize::try_from(per_step).unwrap_or(room).min(room);
        // One page a step, so that a search for few among many does not keep the database busy.
        if self.found.len() < n_left {
            self.read_page().await?;
        }
        while n_left > 0 && !self.found.is_empty() {
            let n_now = n_left.min(AT_ONCE).min(self.found.len());
            n_left -= n_now;
            self.redrive(n_now).await?;
        }
        Ok(())
    }

    async fn redrive(&mut self, n_orders: usize) -> Result<(), Error> {
        let orders: Vec<_> = self.found.drain(..n_orders).collect();
        let calls = orders.iter().map(|(order, change_id)| {
            let ctx = self.context(Some(*change_id));
            let request = RetryOrder {
                order_id: order.id,
                if_match: Some(IfMatch::Versions(vec![order.version])),
            };
            let api = &self.api;
            async move { api.retry_order(&ctx, request).await }
        });
        let answers = join_all(calls).await;
        let mut failure = None;
        for (order, answer) in orders.into_iter().zip(answers) {
            match answer {
                Ok(order) => {
                    self.progress.redriven += 1;
                    self.open.insert(order.id, order.version);
                }
                Err(error) if is_moved(&error) => self.progress.skipped += 1,
                Err(error) => {
                    self.found.push_front(order);
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Finds out which of the redriven orders have ended.
    async fn look_at_open(&mut self) -> Result<(), Error> {
        if self.open.is_empty() {
            return Ok(());
        }
        let ids: Vec<OrderId> = self.open.keys().copied().collect();
        for state in self.store.states(&ids).await? {
            let is_changed = self
                .open
                .get(&state.order_id)
                .is_some_and(|since| state.version > *since);
            if !is_changed || !state.status.is_settled() {
                continue;
            }
            self.open.remove(&state.order_id);
            if state.status == OrderStatus::Failed {
                self.progress.failed += 1;
            } else {
                self.progress.processed += 1;
            }
        }
        Ok(())
    }

    fn is_failing(&self) -> bool {
        let RedriveProgress {
            processed, failed, ..
        } = self.progress;
        let n_ended = u64::from(processed) + u64::from(failed);
        n_ended >= u64::from(SAMPLE_MIN)
            && u64::from(failed) * 100 > u64::from(self.request.failed_percent_max) * n_ended
    }
}

/// Steps in a second, by [`TICK`].
const STEPS_PER_SECOND: u32 = 4;

/// Whether another caller has moved the order since it was read.
const fn is_moved(error: &Error) -> bool {
    matches!(
        error,
        Error::EtagMismatch { .. }
            | Error::OrderNotRetryable { .. }
            | Error::VersionConflict { .. }
            | Error::OrderNotFound { .. }
    )
}

/// Whether the next step may succeed.
const fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::StoreUnavailable { .. }
            | Error::Overloaded { .. }
            | Error::DeadlineExceeded
            | Error::RequestInProgress { .. }
    )
}
