//! The console: every page, what is sent from it, and what it sends while it is open.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod actions;
mod fake;
mod live;
mod pages;
mod problems;
mod protection;
mod support;
