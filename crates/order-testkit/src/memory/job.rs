//! The row of a job.

use jiff::Timestamp;

/// The work an order still needs.
pub(super) struct JobRow {
    pub(super) attempt: u32,
    pub(super) attempts_before: u32,
    /// From when on the job may be claimed; `None` while it is buried.
    pub(super) due_at: Option<Timestamp>,
    /// Whether the last claim holds the job.
    pub(super) is_held: bool,
    /// Whether work under that claim is marked as begun.
    pub(super) is_begun: bool,
    /// The last attempt that was reported as failed and is retried.
    pub(super) retried: Option<u32>,
    /// What went wrong last.
    pub(super) last_error: Option<String>,
}

impl JobRow {
    /// A free job in a new round of attempts.
    pub(super) fn new(attempt: u32, due_at: Timestamp) -> Self {
        Self {
            attempt,
            attempts_before: attempt,
            due_at: Some(due_at),
            is_held: false,
            is_begun: false,
            retried: None,
            last_error: None,
        }
    }

    /// Whether `attempt` is the last claim and holds the job.
    pub(super) fn is_current(&self, attempt: u32) -> bool {
        self.is_held && self.attempt == attempt
    }

    /// Ends the claim that holds the job; the job is due at `due_at`, or buried.
    pub(super) fn let_go(&mut self, due_at: Option<Timestamp>) {
        self.due_at = due_at;
        self.is_held = false;
        self.is_begun = false;
    }

    pub(super) fn claim(&mut self, due_at: Timestamp) {
        if self.is_held && !self.is_begun {
            self.attempts_before += 1;
        }
        self.attempt += 1;
        self.due_at = Some(due_at);
        self.is_held = true;
        self.is_begun = false;
    }
}
