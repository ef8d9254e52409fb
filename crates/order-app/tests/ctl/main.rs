//! `orderctl` as its users meet it: arguments in, text, files and exit codes out.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod fake;
mod import;
mod listing;
mod one_order;
mod operators;
mod real_service;
mod redrive;
mod support;
mod watch;
