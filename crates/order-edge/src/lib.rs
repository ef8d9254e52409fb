//! The edge of every process that listens: one server loop and one pipeline around each call.
//!
//! [`serve`](mod@serve) owns sockets: how many connections, how slow, how idle, how old, and how
//! they end. [`pipeline`] owns calls: ids, deadlines, admission, panics and the access log. Both
//! know HTTP messages only; how a transport answers and logs is its [`pipeline::Exchange`].

pub mod admission;
mod arriving;
pub mod batch;
mod correlation;
mod exchange;
pub mod pipeline;
mod proxies;
pub mod serve;
pub mod slots;
mod stats;

pub use pipeline::Answer;
pub use proxies::TrustedProxies;
pub use serve::{Connection, ServeConfig, ServeError, client_address, serve};
pub use stats::{CallLabels, CallStats, ConnectionStats};
