//! Whether a process claims jobs, as operators may switch it.

use tokio::sync::watch;

/// A switch that claims wait for. Nothing is claimed while it is on.
pub(crate) struct Pause(watch::Sender<bool>);

impl Default for Pause {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Pause {
    pub(crate) fn set(&self, is_on: bool) {
        self.0
            .send_if_modified(|was_on| std::mem::replace(was_on, is_on) != is_on);
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is on.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn begun(&self) {
        self.becomes(true).await;
    }

    /// Waits until it is off.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn over(&self) {
        self.becomes(false).await;
    }

    async fn becomes(&self, wanted: bool) {
        // Most waits are over before they begin, and registering costs more than that.
        if self.is_on() != wanted {
            // The sender is here, so this ends with the value and never without.
            let _ = self.0.subscribe().wait_for(|is_on| *is_on == wanted).await;
        }
    }
}
