//! The system as its users meet it: real sockets, real databases, real processes.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod batch;
mod contract;
mod crashes;
mod follow;
mod http;
mod limits;
mod logs;
mod metrics;
mod observe;
mod operators;
mod pages;
mod positions;
mod processes;
mod processing;
mod promises;
mod proxies;
mod pushes;
mod readme;
mod scale;
mod secrets;
mod shutdown;
mod sick;
mod simulation;
mod startup;
mod support;
mod traces;
mod websocket;
mod workers;
