//! Where the events of a session arrive.

use std::{future::pending, sync::Arc};

use order_core::Error;

use crate::{fill::Fill, gap::Events, hub::Shared, mailbox::Mailbox, offer::Delivery};

/// Where the events of a [`Session`](crate::Session) arrive.
pub struct Inbox {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    /// The gap that is being read, one at a time. It is kept here and not in the future of
    /// [`Inbox::next`], so that a reader that waits for other things too makes progress.
    fill: Option<Box<Fill>>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("mailbox", &self.mailbox)
            .finish_non_exhaustive()
    }
}

impl Inbox {
    pub(crate) fn new(shared: Arc<Shared>, mailbox: Arc<Mailbox>) -> Self {
        Self {
            shared,
            mailbox,
            fill: None,
        }
    }

    /// Appends what waits to `deliveries`, at least one event: at most one for each order
    /// that waits, and at most [`REPLAY_LEN_MAX`](crate::REPLAY_LEN_MAX) of one whose
    /// reader is behind. Versions of one order only rise; nothing is said about the order
    /// between orders.
    ///
    /// In [`Form::Full`](crate::Form::Full) versions follow each other without a gap: what
    /// the reader was too slow for is read from the store. In
    /// [`Form::Bare`](crate::Form::Bare) a slow reader skips versions, but not the last.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`], [`Error::DeadlineExceeded`] after 5 s and whatever else
    /// the store answers, if a gap cannot be read. [`Error::LimitExceeded`] if more than
    /// 1000 orders of one user wait. [`Error::ShuttingDown`] once the hub is closed and
    /// nothing waits. Each of them ends the session, so that nothing is skipped in silence:
    /// the reader subscribes again, with the versions it has seen.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self, deliveries: &mut Vec<Delivery>) -> Result<(), Error> {
        let n_before = deliveries.len();
        while deliveries.len() == n_before {
            tokio::select! {
                biased;
                events = read(&mut self.fill) => {
                    let (fill, events) = (self.fill.take(), events?);
                    if let Some(fill) = fill {
                        let n_filled = self.mailbox.fill(&fill.gap, &events, deliveries);
                        self.shared.count_filled(n_filled);
                    }
                }
                gap = self.mailbox.taken(deliveries) => {
                    let gap = gap?;
                    if self.fill.is_none() {
                        self.fill = gap.map(|gap| Box::new(Fill::begin(&self.shared, gap)));
                    }
                }
                () = self.shared.closed.cancelled(), if self.fill.is_none() => {
                    return Err(Error::shutting_down());
                }
            }
        }
        Ok(())
    }
}

/// Waits for the gap that is being read, for ever if there is none.
async fn read(fill: &mut Option<Box<Fill>>) -> Result<Events, Error> {
    match fill {
        Some(fill) => fill.events().await,
        None => pending().await,
    }
}
