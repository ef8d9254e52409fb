//! What the API says about itself, held against what it does.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod limits;
mod pages;
mod refusals;
mod routes;
mod schema;
mod streams;
mod support;
