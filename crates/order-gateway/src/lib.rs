//! Everything that speaks HTTP: the REST API, the WebSocket endpoint, health, and the
//! listener they share. It adapts [`order_core::OrderApi`] and the hub to the wire and
//! knows neither gRPC nor a database.

pub mod http;
pub use http::admin;
/// Orders and events as JSON, for whoever writes them elsewhere in the same form.
pub mod json {
    pub use crate::http::dto::{CauseBody, EventBody, OrderBody};
}
pub mod origin;
pub mod ws;
