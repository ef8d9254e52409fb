//! Which attempt of its round a leased job is.
//!
//! A report names the attempt over the whole life of a job; the retry policy counts within
//! a round. This memory joins the two for jobs that were leased through this process.
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

use order_core::{JobToken, OrderId, RetryPolicy};

/// Entries of one generation: several megabytes at most, and many more jobs than workers
/// outside have in hand at the same time.
const GENERATION_LEN_MAX: usize = 1 << 15;

/// An attempt over the life of a job, and the same attempt within its round.
type Position = (u32, u32);

#[derive(Default)]
struct Generations {
    young: HashMap<OrderId, Position>,
    old: HashMap<OrderId, Position>,
}

/// The jobs that workers outside have in hand.
#[derive(Default)]
pub(super) struct Rounds(Mutex<Generations>);

impl Rounds {
    /// Enters jobs that are about to be handed out, each with its attempt in its round.
    pub(super) fn remember(&self, jobs: impl IntoIterator<Item = (JobToken, u32)>) {
        let mut generations = self.lock();
        for (JobToken { order_id, attempt }, in_round) in jobs {
            if generations.young.len() >= GENERATION_LEN_MAX {
                generations.old = mem::take(&mut generations.young);
            }
            generations.young.insert(order_id, (attempt, in_round));
        }
    }

    /// Which attempt of its round the token stands for. For one that is not known here, the
    /// nearest attempt that may be retried.
    pub(super) fn attempt_in_round(&self, token: JobToken, retry: &RetryPolicy) -> u32 {
        let generations = self.lock();
        let position = generations
            .young
            .get(&token.order_id)
            .or_else(|| generations.old.get(&token.order_id));
        match position {
            Some((attempt, in_round)) if *attempt == token.attempt => *in_round,
            _ => token.attempt.min(retry.attempts_max.saturating_sub(1)),
        }
    }

    /// Strikes out jobs that are done with. A newer attempt of the same order stays.
    pub(super) fn forget(&self, tokens: impl IntoIterator<Item = JobToken>) {
        let mut generations = self.lock();
        let Generations { young, old } = &mut *generations;
        for JobToken { order_id, attempt } in tokens {
            for generation in [&mut *young, &mut *old] {
                if generation
                    .get(&order_id)
                    .is_some_and(|(of, _)| *of <= attempt)
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
        rounds.remember([(token(order_id, 9), 3)]);

        assert_eq!(rounds.attempt_in_round(token(order_id, 9), &policy()), 3);
        rounds.forget([token(order_id, 8)]);
        assert_eq!(rounds.attempt_in_round(token(order_id, 9), &policy()), 3);
        rounds.forget([token(order_id, 9)]);
        assert_eq!(rounds.attempt_in_round(token(order_id, 9), &policy()), 2);
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
                let in_round = rounds.attempt_in_round(token(order_id, attempt), &policy);
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

        rounds.remember(order_ids.iter().map(|id| (token(*id, 9), 3)));

        let generations = rounds.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_LEN_MAX);
        drop(generations);
        for order_id in order_ids.iter().rev().take(GENERATION_LEN_MAX) {
            assert_eq!(rounds.attempt_in_round(token(*order_id, 9), &policy()), 3);
        }
    }
}
