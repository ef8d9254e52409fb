//! The contracts of the ports as tests that run against every adapter.
//!
//! An adapter's test file implements [`Subject`] and calls
//! [`store_conformance!`](crate::store_conformance), which writes one test per case, each
//! with a fresh subject; and [`lease::check_lease_protocol`], which compares random
//! histories with a model. Transports of events have a subject and a macro of their own, in
//! [`events`]. The suites know the ports only: nothing here may depend on what an adapter is
//! made of.
//!
//! # What the cases take a current token to be
//! A token is current from its claim until the job is completed, retried, released, buried,
//! requeued or claimed again. Lease expiry alone does not make it stale.
#![expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a case panics when the adapter under test breaks its contract"
)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use order_core::{AdminStore, EventOutbox, Identity, JobQueue, OrderId, OrderStore, ProcessId};

pub mod backlog;
pub mod claim;
pub mod cluster;
pub mod commit;
pub mod complete;
pub mod create;
pub mod events;
pub mod external_ids;
pub mod hints;
pub mod keys;
pub mod lease;
pub mod list;
pub mod outbox;
pub mod prune;
pub mod read;
pub mod record;
mod scene;
pub mod tickets;
pub mod traces;
pub mod unreadable;

/// The longest lease and the longest retry delay the cases use, except for buried jobs,
/// which have no end. A subject that owns its clock moves it by more than this.
pub const LEASE: Duration = Duration::from_hours(1);

/// The process as which a subject opens its store.
pub fn identity() -> Identity {
    Identity {
        id: ProcessId::from_u64(u64::MAX - 1),
        program: "order-test".to_owned(),
        place: "host:1".to_owned(),
    }
}

/// An adapter under test, holding a store without orders.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// The store.
    fn store(&self) -> Arc<dyn OrderStore>;

    /// The queue over the jobs of the same store.
    fn queue(&self) -> Arc<dyn JobQueue>;

    /// The outbox of the same store. Nobody has enabled it.
    fn outbox(&self) -> Arc<dyn EventOutbox>;

    /// The records of the orders of the same store, and the processes.
    fn admin(&self) -> Arc<dyn AdminStore>;

    /// Makes every job due that is leased or waits for its retry, as if [`LEASE`] had
    /// passed. Buried jobs stay buried.
    ///
    /// A database whose time cannot be moved does it by hand:
    /// `UPDATE jobs SET due_at = now() WHERE due_at < 'infinity'`.
    async fn expire_leases(&self);

    /// Lets the database's time move on by at least one microsecond. Nothing to do where
    /// the database has a clock of its own.
    async fn tick(&self) {}

    /// Makes the stored row of an order one that no program can read. `false` where orders
    /// are not stored as rows.
    async fn break_order(&self, _order_id: OrderId) -> bool {
        false
    }

    /// Makes the stored position of an order in a trace one that is not valid. `false` where
    /// orders are not stored as rows.
    async fn break_trace(&self, _order_id: OrderId) -> bool {
        false
    }

    /// Removes an order and its history, as an operator may by hand. `false` where orders are
    /// not stored as rows.
    async fn remove_order(&self, _order_id: OrderId) -> bool {
        false
    }

    /// Lets every process have reported earlier, by `age`.
    ///
    /// A database whose time cannot be moved does it by hand.
    async fn age_processes(&self, age: Duration);

    /// Makes the stored figures of every process this JSON object. `false` where they are not
    /// stored as text.
    async fn write_figures(&self, _json: &str) -> bool {
        false
    }

    /// Makes an order one that a program wrote which did not know of records. `false` where
    /// orders are not stored as rows.
    async fn forget_record(&self, _order_id: OrderId) -> bool {
        false
    }

    /// Another handle on the same database, as another process would open it. `None` where
    /// the database is the handle.
    async fn another_store(&self) -> Option<Arc<dyn OrderStore>> {
        None
    }

    /// The queue over the jobs of the same store, as process `identity` would open it. `None` where
    /// the database is the handle.
    async fn queue_of(&self, _identity: Identity) -> Option<Arc<dyn JobQueue>> {
        None
    }
}

/// Writes one `#[tokio::test]` per case of the contract of `OrderStore`, `JobQueue` and
/// `EventOutbox`.
///
/// Takes the path of an `async fn() -> Option<impl Subject>` that makes a fresh subject for
/// each case. `None` skips the case; the function must then say so on standard error.
#[macro_export]
macro_rules! store_conformance {
    ($make:path) => {
        $crate::store_conformance! { $make;
            create {
                new_order_is_pending_at_version_1
                same_id_and_content_is_a_retry
                retry_answers_with_the_order_as_it_is_now
                same_id_and_other_content_is_refused
                first_of_equal_ids_in_a_slice_wins
                bad_order_fails_alone
                large_slice_is_answered_in_order
                amounts_and_texts_are_kept_exactly
                metadata_is_kept_exactly
                empty_slices_are_answered_empty
            }
            commit {
                change_is_applied_with_its_event
                change_on_an_old_version_is_stale
                change_of_an_unknown_order_is_stale
                every_transition_moves_the_order_and_its_job
                failure_is_stored_and_cleared
                redrive_starts_a_new_round
                redrive_makes_the_tokens_of_earlier_rounds_stale
                requeue_creates_a_missing_job
                change_is_found_by_its_id
                stale_change_leaves_its_neighbours_alone
                one_of_two_equal_changes_wins
                one_of_two_concurrent_changes_wins
                large_slice_of_changes_is_answered_in_order
            }
            read {
                unknown_order_is_not_found
                history_has_no_gaps
                history_is_read_in_pieces
                states_leave_unknown_orders_out
                recent_states_are_the_newest_of_each_user
                states_say_why
                store_is_ready
            }
            list {
                list_is_by_id_descending
                list_ends_when_an_answer_is_full
                list_is_filtered
                bounds_are_exclusive
                list_pages_are_stable_while_inserting
                filtered_pages_are_stable_while_inserting
            }
            keys {
                repeated_key_is_answered_as_created
                own_retry_with_a_key_is_the_same_id
                key_with_other_content_is_refused
                keys_of_other_owners_and_operations_are_others
                failed_order_leaves_no_key
                first_of_equal_keys_in_a_slice_wins
                one_of_many_concurrent_creates_with_a_key_wins
                stored_key_is_found
                large_slice_of_keyed_orders_is_answered_in_order
                key_commits_with_its_change
                change_whose_key_is_there_is_stale
                stale_change_stores_no_key
                one_of_two_changes_with_a_key_wins
            }
            external_ids {
                external_id_is_unique_per_user
                retry_by_id_does_not_meet_its_own_external_id
                first_of_equal_external_ids_in_a_slice_wins
                one_of_many_concurrent_creates_gets_the_external_id
            }
            tickets {
                ticket_is_taken_once
                ticket_that_is_stored_twice_is_one
                one_of_many_concurrent_takers_gets_the_ticket
                expired_ticket_is_worth_nothing
                page_token_key_is_shared
            }
            backlog {
                jobs_are_counted_by_what_they_wait_for
                events_are_counted_while_they_wait
                dead_letters_are_grouped_by_their_codes
            }
            record {
                record_tells_the_whole_life_of_an_order
                record_tells_what_the_job_waits_for
                record_of_an_order_of_an_older_program_has_gaps
                record_of_an_unknown_order_is_none
                record_of_an_unreadable_order_is_an_error
                long_record_is_cut_to_the_newest_entries
                lost_attempt_names_the_process_that_was_killed
                lost_attempt_of_an_unknown_process_has_no_worker
                long_list_of_retries_is_cut_to_the_newest
                record_tells_which_events_are_unpublished
                record_does_not_search_a_long_outbox
            }
            cluster {
                process_is_shown_while_it_reports
                processes_are_shown_by_program_and_place
                processes_that_reported_last_are_shown
                one_process_is_paused_until_it_is_resumed
                all_processes_are_paused_together
                unknown_process_is_not_paused
                operators_who_pause_at_once_agree
                process_is_forgotten_after_an_hour
                figures_of_another_version_are_read
            }
            prune {
                expired_keys_and_tickets_are_removed
                prune_removes_at_most_its_limit
                removed_key_may_be_used_anew
                expired_key_counts_until_it_is_removed
            }
            claim {
                unleased_order_is_claimable_at_once
                order_born_leased_is_claimable_after_its_lease
                zero_lease_is_due_again_at_once
                claimed_job_is_abandoned_after_its_lease
                abandoned_attempt_counts_if_it_began
                abandoned_jobs_are_claimed_one_at_a_time
                claim_takes_the_longest_due_first_up_to_its_limit
                claim_shows_the_order_as_it_is
                concurrent_claims_share_no_job
                overdue_claim_leaves_fresh_jobs_alone
                hinted_claim_gets_the_due_jobs_it_names
                equal_hints_are_one_attempt
                one_of_two_consumers_of_a_hint_wins
                extend_keeps_a_lease_and_reports_lost_tokens
                late_worker_may_still_extend
                release_makes_due_at_once_and_burns_no_attempt
                release_ignores_stale_tokens
                large_slices_of_tokens_are_answered
            }
            complete {
                processed_ends_the_order_and_its_job
                failed_buries_the_job
                retry_waits_for_its_delay
                retry_without_delay_is_due_at_once
                postponed_job_burns_no_attempt
                late_worker_nobody_overtook_may_still_finish
                stale_token_changes_nothing
                attempt_zero_is_never_current
                buried_job_answers_no_token
                cancelled_order_makes_its_tokens_stale
                mixed_slice_is_answered_in_order
                equal_completions_are_one
                repeated_report_is_answered_as_the_first
                repeated_retry_counts_once
                retry_ends_the_token
                one_of_two_concurrent_completions_wins
                start_is_idempotent
                start_is_fenced
                started_order_can_be_finished_and_given_up
                large_slice_of_completions_is_answered_in_order
            }
            unreadable {
                unreadable_order_is_left_out_of_claims
                unreadable_order_is_left_out_of_pages
                unreadable_order_fails_alone_in_a_batch
            }
            traces {
                trace_is_told_by_every_claim
                trace_is_kept_with_events_for_others
                trace_that_is_not_valid_is_ignored
            }
            outbox {
                outbox_keeps_nothing_until_it_is_enabled
                every_version_of_every_order_is_kept_once
                refused_writes_leave_no_entry
                enabling_twice_keeps_events_once
                disabled_outbox_is_empty_and_keeps_nothing
                events_of_every_process_are_kept
                removed_entries_do_not_come_back
                positions_are_never_used_again
                large_slices_are_kept_and_removed
                entries_of_an_order_are_read_by_version
                right_to_publish_is_exclusive
                right_to_publish_ends_with_its_lease
                one_of_many_concurrent_relays_gets_the_right
                entry_without_its_event_holds_up_no_others
            }
        }
    };
    ($make:path; $($module:ident { $($case:ident)+ })+) => {
        $($(
            #[tokio::test]
            async fn $case() {
                if let Some(subject) = $make().await {
                    $crate::conformance::$module::$case(&subject).await;
                }
            }
        )+)+
    };
}
