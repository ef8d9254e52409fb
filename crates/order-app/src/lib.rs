//! The composition root: the only crate that sees all the others. It reads the
//! configuration, builds the parts, starts and stops them in order, and holds the
//! binaries.

mod admin;
mod backlog;
pub mod cli;
pub mod config;
pub mod ctl;
mod figures;
pub mod healthcheck;
pub mod lifecycle;
mod maintenance;
mod metrics;
mod presence;
pub mod process;
mod starting;
pub mod telemetry;
mod traces;
mod wire;

/// Faster than the C library's allocator on the many small buffers of a server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
