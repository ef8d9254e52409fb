//! Sends a batch until each of its orders is answered for good.

use std::{sync::Arc, time::Duration};

use order_core::{CallContext, CreateOrder, Error, Receipt, Violation};
use tokio::sync::watch;

use super::reader::{Batch, Checkpoint, LineFailure};
use crate::ctl::client::{Backoff, Client, is_transient};

/// How long a batch is tried again without getting on.
pub(super) const GIVE_UP_AFTER: Duration = Duration::from_mins(1);

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Done {
    /// Which batch.
    pub(super) number: u64,
    /// Where it ends.
    pub(super) end: Checkpoint,
    /// How many orders it created.
    pub(super) created: u64,
    /// How many orders were there already.
    pub(super) replayed: u64,
    /// The lines that failed, in their order.
    pub(super) failures: Vec<LineFailure>,
}

/// Why batches are being tried again, for the user; `None` while all is well.
pub(super) type Trouble = watch::Sender<Option<String>>;

/// Sends a batch. Orders whose fate is unknown are sent again, which their keys make
/// harmless.
///
/// # Errors
/// What makes it pointless to go on: a failure of the whole call that will not pass, or one
/// that has not passed for a minute.
pub(super) async fn send(
    client: Arc<Client>,
    batch: Batch,
    trouble: Trouble,
) -> Result<Done, Error> {
    let mut done = Done {
        number: batch.number,
        end: batch.end,
        created: 0,
        replayed: 0,
        failures: batch.failures,
    };
    let mut orders = batch.orders;
    let mut backoff = Backoff::default();
    let mut got_on_at = client.clock.instant();
    while !orders.is_empty() {
        let n_before = orders.len();
        let error = match attempt(&client, &orders).await {
            Ok(answers) => sort_out(&mut orders, answers, &mut done),
            Err(error) if is_transient(&error) => Some(error),
            Err(error) => return Err(error),
        };
        let Some(error) = error else { break };
        let now = client.clock.instant();
        if orders.len() < n_before {
            got_on_at = now;
            backoff.reset();
        }
        if now.duration_since(got_on_at) >= GIVE_UP_AFTER {
            return Err(error);
        }
        let told = Some(error.to_string());
        trouble.send_if_modified(|trouble| {
            let is_new = *trouble != told;
            *trouble = told;
            is_new
        });
        client.pause(&mut backoff, &error).await;
    }
    trouble.send_if_modified(|trouble| trouble.take().is_some());
    done.failures.sort_by_key(|failure| failure.line);
    Ok(done)
}

type Answers = Vec<Result<Receipt, Error>>;

async fn attempt(client: &Client, orders: &[(u64, CreateOrder)]) -> Result<Answers, Error> {
    let ctx: CallContext = client.context();
    let requests = orders.iter().map(|(_, order)| order.clone()).collect();
    let answers = client.api.create_orders(&ctx, requests).await?;
    if answers.len() == orders.len() {
        Ok(answers)
    } else {
        Err(Error::internal("the answers do not match the batch"))
    }
}

/// Takes note of the answers, and keeps the orders that have to be sent again. Returns one of
/// the reasons why, if there are any.
fn sort_out(
    orders: &mut Vec<(u64, CreateOrder)>,
    answers: Answers,
    done: &mut Done,
) -> Option<Error> {
    let mut again = Vec::new();
    let mut reason = None;
    for ((line, order), answer) in orders.drain(..).zip(answers) {
        match answer {
            Ok(receipt) if receipt.is_replayed => done.replayed += 1,
            Ok(_) => done.created += 1,
            Err(error) if may_pass(&error) => {
                again.push((line, order));
                reason = Some(error);
            }
            Err(error) => {
                let mut failure = LineFailure::new(line, &error);
                failure.violations.iter_mut().for_each(name_field);
                done.failures.push(failure);
            }
        }
    }
    *orders = again;
    reason
}

/// Whether an order may be taken later that was not taken now.
fn may_pass(error: &Error) -> bool {
    is_transient(error)
        || matches!(
            error,
            Error::LimitExceeded { .. } | Error::RequestInProgress { .. }
        )
}

/// The service names fields from the batch on, `requests/3/user_id`.
fn name_field(violation: &mut Violation) {
    let in_batch = violation.field.strip_prefix("requests/");
    if let Some((_, field)) = in_batch.and_then(|rest| rest.split_once('/')) {
        violation.field = field.to_owned();
    }
}
