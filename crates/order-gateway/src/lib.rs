//! Everything that speaks HTTP: the REST API, the WebSocket endpoint, health, and the
//! listener they share. It adapts [`order_core::OrderApi`] and the hub to the wire and
//! knows neither gRPC nor a database.

pub mod admin;
pub mod http;
pub mod serve;
pub mod ws;
