//! What got its first watcher or lost its last one.

use std::{collections::HashMap, hash::Hash};

/// The changes of one part of the topics since somebody asked, under the lock of that part.
///
/// A topic can only come after it went and go after it came, so two changes of one topic are
/// none. That bounds the changes, however long nobody asks: those that came are watched now,
/// and those that went were watched then.
#[derive(Debug)]
pub(crate) struct Changes<K> {
    /// By topic, whether it is watched now. `None` if nobody will ask.
    changed: Option<HashMap<K, bool>>,
}

impl<K: Eq + Hash> Changes<K> {
    pub(crate) fn new(is_tracked: bool) -> Self {
        Self {
            changed: is_tracked.then(HashMap::new),
        }
    }

    /// Takes note that a topic is watched now, or no longer.
    pub(crate) fn note(&mut self, key: K, is_watched: bool) {
        if let Some(changed) = &mut self.changed
            && changed.remove(&key).is_none()
        {
            changed.insert(key, is_watched);
        }
    }

    /// Hands out the changes.
    pub(crate) fn take(&mut self) -> HashMap<K, bool> {
        self.changed
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }
}
