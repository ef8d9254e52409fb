//! What tests share: conformance suites for every port, clocks and ids that tests own, a store
//! in memory, and real servers on free ports. Knows `order-core` and nothing above it.

pub mod clock;
pub mod conformance;
pub mod fault;
pub mod memory;
pub mod server;
