//! What is known of the jobs that workers outside have in hand.
//!
//! A report names the attempt over the whole life of a job; the retry policy counts within
//! a round. This memory joins the two for jobs that were leased through this process, and knows
//! when they were handed out.
//!
//! # Invariants
//! Bounded, whatever workers forget to report: two generations of entries, and when the
//! younger is full the older is dropped. A job that is not remembered is never taken for the
//! last attempt of its round, so forgetting costs an attempt and never an order.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use order_core::{Job, JobToken, OrderId, RetryPolicy};
use tokio::time::Instant;

/// Entries of one generation: several megabytes at most, and many more jobs than workers
/// outside have in hand at the same time.
const GENERATION_LEN_MAX: usize = 1 << 15;

/// A job that was handed out.
#[derive(Clone, Copy)]
pub(super) struct Handed {
    /// The attempt over the life of the job.
    attempt: u32,
    /// The same attempt within its round.
    pub(super) in_round: u32,
    /// When it was handed out.
    pub(super) at: Instant,
    /// When its order was created.
    pub(super) created_at: Timestamp,
}

impl Handed {
    /// A job that is handed out now.
    pub(super) fn now(job: &Job) -> Self {
        Self {
            attempt: job.attempt,
            in_round: job.attempt_in_round(),
            at: Instant::now(),
            created_at: job.order.created_at,
        }
    }
}

#[derive(Default)]
struct Generations {
    young: HashMap<OrderId, Handed>,
    old: HashMap<OrderId, Handed>,
}

/// Which attempt of its round a token stands for. For one that is not known here, the nearest
/// attempt that may be retried.
pub(super) fn attempt_in_round(
    handed: Option<Handed>,
    token: JobToken,
    retry: &RetryPolicy,
) -> u32 {
    match handed {
        Some(handed) => handed.in_round,
        None => token.attempt.min(retry.attempts_max.saturating_sub(1)),
    }
}

/// The jobs that workers outside have in hand.
#[derive(Default)]
pub(super) struct Rounds(Mutex<Generations>);

impl Rounds {
    /// Enters jobs that are about to be handed out.
    pub(super) fn remember(&self, jobs: impl IntoIterator<Item = (OrderId, Handed)>) {
        let mut generations = self.lock();
        for (order_id, handed) in jobs {
            if generations.young.len() >= GENERATION_LEN_MAX {
                generations.old = mem::take(&mut generations.young);
            }
            generations.young.insert(order_id, handed);
        }
    }

    /// The job that the token stands for; `None` if it is not known here.
    pub(super) fn find(&self, token: JobToken) -> Option<Handed> {
        let generations = self.lock();
        let handed = generations.young.get(&token.order_id);
        let handed = handed.or_else(|| generations.old.get(&token.order_id));
        handed
            .filter(|handed| handed.attempt == token.attempt)
            .copied()
    }

    /// Strikes out jobs that are done with. A newer attempt of the same order stays.
    pub(super) fn forget(&self, tokens: impl IntoIterator<Item = JobToken>) {
        let mut generations = self.lock();
        let Generations { young, old } = &mut *generations;
        for JobToken { order_id, attempt } in tokens {
            for generation in [&mut *young, &mut *old] {
                if generation
                    .get(&order_id)
                    .is_some_and(|handed| handed.attempt <= attempt)
                {
                    generation.remove(&order_id);
                }
            }
        }
    }

    /// No code that can panic runs under the lock, so a poisoned memory is still whole.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use order_core::IdGen as _;
    use order_testkit::clock::SeededIds;

    use super::*;

    fn token(order_id: OrderId, attempt: u32) -> JobToken {
        JobToken { order_id, attempt }
    }

    fn handed(attempt: u32, in_round: u32) -> Handed {
        Handed {
            attempt,
            in_round,
            at: Instant::now(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn position(rounds: &Rounds, token: JobToken) -> u32 {
        attempt_in_round(rounds.find(token), token, &policy())
    }

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts_max: 3,
            ..RetryPolicy::default()
        }
    }

    #[test]
    fn leased_job_keeps_its_place_in_its_round() {
        let rounds = Rounds::default();
        let order_id = SeededIds::new(1).order_id();
        rounds.remember([(order_id, handed(9, 3))]);

        assert_eq!(position(&rounds, token(order_id, 9)), 3);
        rounds.forget([token(order_id, 8)]);
        assert_eq!(position(&rounds, token(order_id, 9)), 3);
        rounds.forget([token(order_id, 9)]);
        assert_eq!(position(&rounds, token(order_id, 9)), 2);
    }

    #[test]
    fn unknown_job_is_never_at_its_last_attempt() {
        let rounds = Rounds::default();
        let order_id = SeededIds::new(1).order_id();
        for attempts_max in 1..5 {
            let policy = RetryPolicy {
                attempts_max,
                ..policy()
            };
            for attempt in 1..10 {
                let token = token(order_id, attempt);
                let in_round = attempt_in_round(rounds.find(token), token, &policy);
                assert!(policy.delay_after(in_round, 0.0).is_some());
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_the_newest_jobs_are_kept() {
        let rounds = Rounds::default();
        let ids = SeededIds::new(1);
        let order_ids: Vec<_> = (0..=3 * GENERATION_LEN_MAX)
            .map(|_| ids.order_id())
            .collect();

        rounds.remember(order_ids.iter().map(|id| (*id, handed(9, 3))));

        let generations = rounds.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_LEN_MAX);
        drop(generations);
        for order_id in order_ids.iter().rev().take(GENERATION_LEN_MAX) {
            assert_eq!(position(&rounds, token(*order_id, 9)), 3);
        }
    }
}
