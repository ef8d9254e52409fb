//! Everything that speaks HTTP: the REST API, the WebSocket endpoint, health, the console, and the
//! listener they share. It adapts [`order_core::OrderApi`] and the hub to the wire and
//! knows neither gRPC nor a database.

pub mod console;
pub mod http;
pub use http::admin;
pub mod json;
pub mod origin;
pub mod ws;
