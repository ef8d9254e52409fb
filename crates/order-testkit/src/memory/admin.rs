//! The `AdminStore`: records of orders, processes and pauses.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    AdminStore, Backlog, CallContext, ClusterState, Directive, Error, Identity, OrderId,
    OrderRecord, ProcessId, ProcessReport, ProcessState,
};

use super::{MemoryStore, later};

/// How long the row of a process is kept after its last report.
const KEPT_FOR: Duration = Duration::from_hours(1);

/// Processes, as they report themselves.
#[derive(Default)]
pub(super) struct Processes {
    rows: BTreeMap<ProcessId, ProcessState>,
    are_all_paused: bool,
}

/// Whether a process is shown.
fn is_shown(process: &ProcessState, now: Timestamp) -> bool {
    later(process.seen_at, ProcessReport::SHOWN_FOR) > now
}

impl Processes {
    /// The name of a process that has reported itself.
    pub(super) fn name(&self, id: ProcessId) -> Option<String> {
        let process = self.rows.get(&id)?;
        Some(process.report.identity.name())
    }

    fn report(&mut self, report: &ProcessReport, now: Timestamp) -> Directive {
        self.rows
            .retain(|_, process| later(process.seen_at, KEPT_FOR) >= now);
        let process = self
            .rows
            .entry(report.identity.id)
            .or_insert_with(|| ProcessState {
                report: report.clone(),
                seen_at: now,
                is_paused: false,
            });
        process.seen_at = now;
        process.report.figures = report.figures.clone();
        Directive {
            is_paused: process.is_paused || self.are_all_paused,
        }
    }

    fn shown(&self, now: Timestamp) -> Vec<ProcessState> {
        let shown = self.rows.values().filter(|process| is_shown(process, now));
        let mut shown: Vec<_> = shown.cloned().collect();
        shown.sort_by_key(|process| std::cmp::Reverse(process.seen_at));
        shown.truncate(ProcessReport::LEN_MAX as usize);
        let name = |process: &ProcessState| {
            let Identity { id, program, place } = process.report.identity.clone();
            (program, place, id)
        };
        shown.sort_by_key(name);
        shown
    }

    fn set_paused(&mut self, id: Option<ProcessId>, is_paused: bool, now: Timestamp) -> bool {
        let flag = match id {
            None => Some(&mut self.are_all_paused),
            Some(id) => {
                let process = self.rows.get_mut(&id);
                let shown = process.filter(|process| is_shown(process, now));
                shown.map(|process| &mut process.is_paused)
            }
        };
        flag.map(|flag| *flag = is_paused).is_some()
    }
}

#[async_trait]
impl AdminStore for MemoryStore {
    async fn record(
        &self,
        _ctx: &CallContext,
        order_id: OrderId,
    ) -> Result<Option<OrderRecord>, Error> {
        let (tables, now) = self.lock();
        Ok(tables.record(order_id, now))
    }

    async fn cluster(&self, _ctx: &CallContext) -> Result<ClusterState, Error> {
        let (tables, now) = self.lock();
        Ok(ClusterState {
            at: now,
            is_paused: tables.processes.are_all_paused,
            backlog: Backlog::default(),
            processes: tables.processes.shown(now),
        })
    }

    async fn report(&self, _ctx: &CallContext, report: &ProcessReport) -> Result<Directive, Error> {
        let (mut tables, now) = self.lock();
        Ok(tables.processes.report(report, now))
    }

    async fn set_paused(
        &self,
        _ctx: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<bool, Error> {
        let (mut tables, now) = self.lock();
        Ok(tables.processes.set_paused(process_id, is_paused, now))
    }
}
