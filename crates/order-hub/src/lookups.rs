//! What the reconcile task is asked to look up before its next pass.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Mutex,
};

use order_core::{OrderId, Topic, UserId};
use tokio::sync::Notify;

use crate::lock;

/// How many topics wait to be looked up. Looking at everything is less work than more.
const LOOKUPS_LEN_MAX: usize = 10_000;

/// Look-ups that wait. However many ask for them meanwhile, they are made together.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    wanted: Mutex<Wanted>,
    asked: Notify,
}

/// What to look up.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) order_ids: HashSet<OrderId>,
    pub(crate) user_ids: BTreeSet<UserId>,
    /// All that is watched, these among them.
    pub(crate) is_everything: bool,
}

impl Wanted {
    fn len(&self) -> usize {
        self.order_ids.len() + self.user_ids.len()
    }

    fn is_empty(&self) -> bool {
        !self.is_everything && self.len() == 0
    }

    fn add(&mut self, topics: &[Topic]) {
        for topic in topics {
            match topic {
                Topic::Order(order_id) => {
                    self.order_ids.insert(*order_id);
                }
                Topic::User(user_id) => {
                    self.user_ids.insert(user_id.clone());
                }
            }
        }
    }
}

impl Lookups {
    /// Asks for these topics.
    pub(crate) fn ask(&self, topics: &[Topic]) {
        let mut wanted = lock(&self.wanted);
        if wanted.is_everything {
            return;
        }
        if wanted.len() + topics.len() > LOOKUPS_LEN_MAX {
            drop(wanted);
            return self.ask_everything();
        }
        wanted.add(topics);
        drop(wanted);
        self.asked.notify_one();
    }

    /// Asks for all that is watched.
    pub(crate) fn ask_everything(&self) {
        *lock(&self.wanted) = Wanted {
            is_everything: true,
            ..Wanted::default()
        };
        self.asked.notify_one();
    }

    /// Waits until something is asked for, and takes it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn taken(&self) -> Wanted {
        loop {
            let wanted = std::mem::take(&mut *lock(&self.wanted));
            if !wanted.is_empty() {
                return wanted;
            }
            self.asked.notified().await;
        }
    }
}
