//! Creating orders: several in one call, whether they come together or just at the same
//! time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use order_core::{
    CallContext, Clock, CreateOrder, Deadline, Error, Receipt,
    contention::{Contended, Subjects},
    group_commit::{GroupCommit, GroupCommitConfig, GroupCommitStats, Lanes},
    span::SharedSpan,
    wait_while_in_progress,
};
use tonic::Status;

use super::{
    remote::Remote,
    retry::{Repeat, is_retryable},
};
use crate::{
    REQUEST_BYTES_MAX,
    convert::{self, CREATES_MAX},
    proto::{self, batch_create_orders_response::result::Result as BatchItem},
    status::{from_batch_status, to_call_status},
};

/// A second call leaves while fewer orders than this are on their way: an idle system waits
/// for nothing, and a loaded one shares calls.
const OVERLAP_BELOW: usize = 8;

/// The service answered a batch with too few or too many results, or with an empty one.
#[derive(Debug, thiserror::Error)]
#[error("the service sent results that do not match the batch")]
struct InvalidBatch;

/// Gathers concurrent creates into calls: a call costs far more than an order in it.
///
/// Orders with a key travel apart, because the service runs them in statements of their own. A
/// call is answered at once; an order whose concurrent duplicate is in progress waits here.
pub(super) struct Creates {
    keyless: GroupCommit<Wanted, Receipt>,
    keyed: GroupCommit<Wanted, Receipt>,
}

/// An order to create.
#[derive(Clone)]
pub(super) struct Wanted {
    request: CreateOrder,
    /// What came with its own call, if it shares a call with others.
    ctx: Option<CallContext>,
}

impl From<CreateOrder> for Wanted {
    fn from(request: CreateOrder) -> Self {
        Self { request, ctx: None }
    }
}

impl Wanted {
    fn to_proto(&self) -> proto::CreateOrderRequest {
        let message = convert::create_to_proto(&self.request);
        match &self.ctx {
            Some(ctx) => convert::with_origin(message, ctx),
            None => message,
        }
    }
}

impl Contended for Wanted {
    fn subjects(&self) -> Subjects {
        self.request.subjects()
    }
}

impl Creates {
    /// As many lanes as `connections` for each kind, and at most `queue_len_max` orders
    /// waiting in each.
    pub(super) fn new(
        remote: &Arc<Remote>,
        clock: &Arc<dyn Clock>,
        connections: usize,
        queue_len_max: usize,
    ) -> (Self, Lanes) {
        let config = GroupCommitConfig {
            lanes: connections,
            queue_len_max,
            overlap_below: OVERLAP_BELOW,
        };
        let gather = || {
            let remote = Arc::clone(remote);
            GroupCommit::new(config, clock, move |wanted| {
                let remote = Arc::clone(&remote);
                Box::pin(async move { remote.create_wanted(wanted).await })
            })
        };
        let (keyless, mut lanes) = gather();
        let (keyed, keyed_lanes) = gather();
        lanes.extend(keyed_lanes);
        (Self { keyless, keyed }, lanes)
    }

    /// Creates an order, in a call with others that come at the same time. The call is bounded by the
    /// longest deadline in it; a caller whose own is shorter stops waiting by itself.
    pub(super) async fn submit(
        &self,
        remote: &Remote,
        ctx: &CallContext,
        request: CreateOrder,
    ) -> Result<Receipt, Error> {
        // What must not be repeated stays out of shared calls, which might be.
        if !is_repeatable(&request) {
            return remote.create_order(ctx, &request).await;
        }
        remote.time_left(ctx.deadline)?;
        let is_keyed = request.idempotency_key.is_some();
        let wanted = Wanted {
            ctx: Some(ctx.clone()),
            request,
        };
        if !is_keyed {
            return self.keyless.submit(wanted, ctx.deadline).await;
        }
        wait_while_in_progress(remote.clock(), ctx, || {
            self.keyed.submit(wanted.clone(), ctx.deadline)
        })
        .await
    }

    /// See [`RemoteOrderApi::commits`](super::RemoteOrderApi::commits).
    pub(super) fn commits(&self) -> [(&'static str, GroupCommitStats); 2] {
        [
            ("create_call", self.keyless.stats().clone()),
            ("create_keyed_call", self.keyed.stats().clone()),
        ]
    }

    /// Refuses new creates; the lanes end when those that wait are answered.
    pub(super) fn close(&self) {
        self.keyless.close();
        self.keyed.close();
    }
}

impl Remote {
    async fn create_order(
        &self,
        ctx: &CallContext,
        request: &CreateOrder,
    ) -> Result<Receipt, Error> {
        let repeat = repeat_if(is_repeatable(request));
        let answer = self.call(
            ctx,
            "order.v1.OrderService/CreateOrder",
            repeat,
            |attempt| {
                let message = attempt.request(convert::create_to_proto(request));
                async move { attempt.orders().create_order(message).await }
            },
        );
        let answer = answer.await?;
        receipt_of(answer.order, answer.replayed)
    }

    /// Creates many orders in as few calls as the limits of a call allow, one after the
    /// other. When a call fails, the calls that would follow are not made.
    ///
    /// # Errors
    /// What the first call failed with; what a later one failed with is the answer to each
    /// order from there on.
    pub(super) async fn create_orders(
        &self,
        ctx: &CallContext,
        wanted: &[Wanted],
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let mut answers = Vec::with_capacity(wanted.len());
        let mut rest = wanted;
        while let Some((batch, others)) = rest.split_at_checked(batch_len(rest))
            && !batch.is_empty()
        {
            match self.create_batch(ctx, batch).await {
                Ok(batch) => answers.extend(batch),
                Err(error) if answers.is_empty() => return Err(error),
                Err(error) => {
                    answers.extend(error.copies(rest.len()));
                    break;
                }
            }
            rest = others;
        }
        Ok(answers)
    }

    async fn create_batch(
        &self,
        ctx: &CallContext,
        wanted: &[Wanted],
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let are_repeatable = wanted.iter().all(|wanted| is_repeatable(&wanted.request));
        let unserved = Mutex::new(None);
        let method = "order.v1.OrderService/BatchCreateOrders";
        let answer = self.call(ctx, method, repeat_if(are_repeatable), |attempt| {
            let requests = wanted.iter().map(Wanted::to_proto).collect();
            let message = attempt.request(proto::BatchCreateOrdersRequest { requests });
            let unserved = &unserved;
            async move {
                let answer = attempt.orders().batch_create_orders(message).await?;
                match temporary_failure(answer.get_ref()) {
                    Some(status) if are_repeatable => {
                        *lock(unserved) = Some(answer.into_inner());
                        Err(status)
                    }
                    _ => Ok(answer),
                }
            }
        });
        let results = match (answer.await, lock(&unserved).take()) {
            // No attempt succeeded, so each order has the last result that is known.
            (Err(_), Some(unserved)) => unserved.results,
            (answer, _) => answer?.results,
        };
        if results.len() != wanted.len() {
            return Err(Error::internal(InvalidBatch));
        }
        let item = |result: proto::batch_create_orders_response::Result| match result.result {
            Some(BatchItem::Order(order)) => receipt_of(Some(order), result.replayed),
            Some(BatchItem::Error(status)) => Err(from_batch_status(status)),
            None => Err(Error::internal(InvalidBatch)),
        };
        Ok(results.into_iter().map(item).collect())
    }

    /// Creates what several callers want.
    async fn create_wanted(&self, wanted: Vec<Wanted>) -> Vec<Result<Receipt, Error>> {
        let contexts = || wanted.iter().filter_map(|wanted| wanted.ctx.as_ref());
        let deadline = contexts()
            .map(|ctx| ctx.deadline.instant())
            .collect::<Option<Vec<_>>>()
            .and_then(|instants| instants.into_iter().max())
            // No deadline is later than any.
            .map_or(Deadline::NONE, Deadline::at);
        // One of them names the call as a whole.
        let Some(first) = contexts().next() else {
            return Vec::new();
        };
        let ctx = CallContext {
            deadline,
            ..first.clone()
        };
        // Alone, a create with a key would wait in the service for a concurrent duplicate, and
        // this lane with it.
        if let [only] = wanted.as_slice()
            && only.request.idempotency_key.is_none()
        {
            return vec![self.create_order(&ctx, &only.request).await];
        }
        let traces = contexts().map(|ctx| ctx.trace_parent.as_ref());
        let mut sharing = SharedSpan::begin("share call", traces);
        sharing.record(|span| span.set_count("batch.size", wanted.len()));
        let ctx = CallContext {
            trace_parent: sharing.position().cloned().or(ctx.trace_parent),
            ..ctx
        };
        match self.create_orders(&ctx, &wanted).await {
            Ok(answers) => answers,
            Err(error) => error.copies(wanted.len()),
        }
    }
}

/// Why the call should be made at another address, although it succeeded at this one: some of its
/// orders failed for a reason that may be the address's own, such as a lost database.
fn temporary_failure(answer: &proto::BatchCreateOrdersResponse) -> Option<Status> {
    answer
        .results
        .iter()
        .find_map(|result| match &result.result {
            Some(BatchItem::Error(status)) if is_retryable(&from_batch_status(status.clone())) => {
                Some(to_call_status(status.clone()))
            }
            Some(BatchItem::Error(_) | BatchItem::Order(_)) | None => None,
        })
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds the lock can panic.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many of the orders, from the first on, go into one call; at least one.
fn batch_len(wanted: &[Wanted]) -> usize {
    let mut bytes_left = REQUEST_BYTES_MAX;
    let n = wanted
        .iter()
        .take(CREATES_MAX)
        .take_while(|wanted| {
            let bytes = convert::bytes_max(&wanted.request, wanted.ctx.as_ref());
            let left = bytes_left.checked_sub(bytes);
            bytes_left = left.unwrap_or(0);
            left.is_some()
        })
        .count();
    n.max(wanted.len().min(1))
}

fn receipt_of(order: Option<proto::Order>, is_replayed: bool) -> Result<Receipt, Error> {
    Ok(Receipt {
        order: convert::order_from_proto(order)?,
        is_replayed,
    })
}

const fn repeat_if(is_repeatable: bool) -> Repeat {
    if is_repeatable {
        Repeat::Harmless
    } else {
        Repeat::Never
    }
}

/// Creating is harmless to repeat where the caller made the id, or a key.
fn is_repeatable(request: &CreateOrder) -> bool {
    request.order_id.is_some() || request.idempotency_key.is_some()
}

#[cfg(test)]
mod tests {
    use order_core::{Metadata, Money, UserId};

    use super::*;

    fn create(metadata_bytes: usize) -> Wanted {
        let value = |n| "v".repeat(Metadata::VALUE_CHARS_MAX.min(metadata_bytes - n));
        let entries = (0..metadata_bytes)
            .step_by(Metadata::VALUE_CHARS_MAX)
            .map(|n| (format!("{n}"), value(n)));
        let request = CreateOrder {
            metadata: Metadata::new(entries).expect("valid"),
            ..CreateOrder::new(
                UserId::parse("user-1").expect("valid"),
                Money::from_minor_units(1, "USD").expect("valid"),
            )
        };
        request.into()
    }

    fn creates(n: usize, metadata_bytes: usize) -> Vec<Wanted> {
        (0..n).map(|_| create(metadata_bytes)).collect()
    }

    #[test]
    fn batch_ends_at_the_limits_of_a_call() {
        assert_eq!(batch_len(&[]), 0);
        assert_eq!(batch_len(&creates(CREATES_MAX, 0)), CREATES_MAX);
        assert_eq!(batch_len(&creates(CREATES_MAX + 1, 0)), CREATES_MAX);
        let large = creates(100, 25_000);
        let n = batch_len(&large);
        assert!((30..=41).contains(&n), "{n}");
    }
}
