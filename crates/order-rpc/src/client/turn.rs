//! Whose turn it is among the addresses of the service: that of the next one with each call,
//! or, in a rush of creates, with each slice of time.
//!
//! A replica that had nothing to do since its last call answers cold: its threads and the
//! backends of its database connections were asleep, and the caches of the processor belong
//! to others. Where the processors are busy this costs some of the throughput, so a rush that
//! lasts stays with one replica for a moment (`docs/adr/0016-a-rush-stays.md`). Nothing
//! else does: orders that come one by one or in a burst are best shared by the workers of
//! all replicas.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a rush stays with one address.
const SLICE: Duration = Duration::from_millis(50);

/// How long there must have been a rush before it stays anywhere.
const WARM_UP: Duration = Duration::from_millis(250);

/// A rush is over when no call of it begins for longer than this.
const PAUSE_MAX: Duration = Duration::from_millis(25);

/// When it is the turn of the next address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rotate {
    /// With each call.
    EachCall,
    /// With each slice of time while there is a rush of such calls, else with each call.
    EachSlice,
}

/// The turn of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Counts the calls.
    pub(super) call: usize,
    /// Counts the slices, if the turn is that of a slice.
    pub(super) slice: Option<usize>,
}

/// Counts calls and slices.
pub(super) struct Turns {
    n_calls: AtomicUsize,
    rush: Mutex<Option<Rush>>,
}

impl Turns {
    /// No calls yet.
    pub(super) fn new() -> Self {
        Self {
            // Clients that start together do not go round together.
            n_calls: AtomicUsize::new(rand::random::<u16>().into()),
            rush: Mutex::default(),
        }
    }

    /// The turn of a call that begins `now`.
    pub(super) fn next(&self, rotate: Rotate, now: Instant) -> Turn {
        let call = self.n_calls.fetch_add(1, Ordering::Relaxed);
        let slice = match rotate {
            Rotate::EachCall => None,
            Rotate::EachSlice => {
                let mut rush = self.rush.lock().unwrap_or_else(PoisonError::into_inner);
                let lasting = rush.take().filter(|rush| rush.goes_on(now));
                let rush = rush.insert(lasting.unwrap_or_else(|| Rush::new(call, now)));
                rush.slice(now)
            }
        };
        Turn { call, slice }
    }
}

/// Calls of [`Rotate::EachSlice`] without a pause.
struct Rush {
    /// The first call. The slices are counted from there, so that not each rush begins with
    /// the same address.
    call: usize,
    began: Instant,
    /// When the last of the calls began.
    last: Instant,
}

impl Rush {
    fn new(call: usize, now: Instant) -> Self {
        Self {
            call,
            began: now,
            last: now,
        }
    }

    /// Whether a call that begins `now` belongs to it.
    fn goes_on(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) <= PAUSE_MAX
    }

    /// Adds a call. Returns the slice that it belongs to, once there are slices.
    fn slice(&mut self, now: Instant) -> Option<usize> {
        self.last = now;
        let lasted = now.saturating_duration_since(self.began);
        let n_slices = usize::try_from(lasted.as_nanos() / SLICE.as_nanos()).unwrap_or(usize::MAX);
        (lasted >= WARM_UP).then(|| self.call.wrapping_add(n_slices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// The slices of calls that begin so many milliseconds after the start, counted from the
    /// call with which the last rush began.
    fn slices(calls: impl IntoIterator<Item = u64>) -> Vec<Option<usize>> {
        let start = tokio::time::Instant::now().into_std();
        let turns = Turns::new();
        let slice = |at| {
            let turn = turns.next(Rotate::EachSlice, start + ms(at));
            let rush = turns.rush.lock().expect("not poisoned");
            let first = rush.as_ref().expect("there is one").call;
            turn.slice.map(|slice| slice - first)
        };
        calls.into_iter().map(slice).collect()
    }

    #[test]
    fn rush_is_cut_into_slices_once_it_lasts() {
        let slices = slices((0..=400).step_by(10));
        let (burst, rush) = slices.split_at(25);
        assert_eq!(burst, [None; 25]);
        let expected = [[Some(5); 5], [Some(6); 5], [Some(7); 5]].concat();
        assert_eq!(rush.get(..15), Some(expected.as_slice()));
    }

    #[test]
    fn rush_ends_with_a_pause() {
        for (pause, is_over) in [(25, false), (26, true)] {
            let before = (0..=300).step_by(10);
            let after = before.clone().map(|at| 300 + pause + at);
            let slices = slices(before.chain(after));
            assert_eq!(slices[30], Some(6));
            assert_eq!(slices[31].is_none(), is_over);
            assert_eq!(slices[61], Some(if is_over { 6 } else { 12 }));
        }
    }

    #[test]
    fn other_calls_are_no_part_of_a_rush() {
        let start = tokio::time::Instant::now().into_std();
        let turns = Turns::new();
        for at in (0..1_000).step_by(10) {
            let rotate = if at % 50 == 0 {
                Rotate::EachSlice
            } else {
                Rotate::EachCall
            };
            assert_eq!(turns.next(rotate, start + ms(at)).slice, None);
        }
    }

    #[test]
    fn time_that_runs_backwards_harms_nothing() {
        assert_eq!(slices([300, 0, 310]), [None; 3]);
    }
}
