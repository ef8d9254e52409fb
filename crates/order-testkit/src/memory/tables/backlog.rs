//! The backlog and the dead letters, as operators see them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use order_core::{Backlog, DeadLetterGroup, OrderId};

use super::Tables;

impl Tables {
    pub(in crate::memory) fn dead_letters(&self) -> Vec<DeadLetterGroup> {
        let mut groups: BTreeMap<&str, (u32, OrderId)> = BTreeMap::new();
        for (id, order) in &self.orders {
            if let Some(failure) = &order.failure {
                let (count, newest) = groups.entry(&failure.code).or_insert((0, *id));
                *count += 1;
                *newest = *id;
            }
        }
        let groups = groups
            .into_iter()
            .map(|(code, (count, example))| DeadLetterGroup {
                code: code.to_owned(),
                count,
                example,
            });
        let mut groups: Vec<_> = groups.collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        groups
    }

    pub(in crate::memory) fn backlog(&self, now: Timestamp) -> Backlog {
        let mut backlog = Backlog::default();
        for job in self.jobs.values() {
            let count = match job.due_at {
                None => &mut backlog.dead,
                Some(due_at) if due_at <= now => &mut backlog.due,
                Some(_) if job.is_held => &mut backlog.leased,
                Some(_) => &mut backlog.scheduled,
            };
            *count += 1;
        }
        let age = |since: Timestamp| now.duration_since(since).unsigned_abs();
        let due = self.jobs.values().filter_map(|job| job.due_at);
        backlog.oldest_due = due.filter(|due_at| *due_at <= now).min().map(age);
        backlog.events = self.outbox.len();
        backlog.oldest_event = self.outbox.oldest().map(age);
        backlog
    }
}
