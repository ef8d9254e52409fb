//! The order system over gRPC, both ways.
//!
//! [`serve`] puts any [`OrderApi`](order_core::OrderApi) on a socket, and beside it a
//! [`WorkerApi`](order_core::WorkerApi) for workers in any language; [`RemoteOrderApi`] is
//! the first trait on the other side, so whoever calls it cannot tell the two apart. What
//! crosses the wire is in [`proto`]; `convert` and [`status`] are the only places that
//! know both the wire and the domain. Nothing here decides about orders, knows HTTP as
//! clients see it, or reads the configuration of a process.

mod client;
mod convert;
mod executor;
mod server;
pub mod status;

pub use client::{
    AttemptLabels, ConfigError, RemoteOrderApi, Resolve, RpcClientConfig, RunningLanes,
};
pub use server::{RpcLabels, RpcServerConfig, RpcServerDeps, ServeError, serve};

/// The messages and stubs of `proto/order/v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::pedantic,
    reason = "generated from the contract, which has the documentation"
)]
pub mod proto {
    tonic::include_proto!("order.v1");

    /// The contract as a serialized `google.protobuf.FileDescriptorSet`, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/order_descriptor.bin"));
}

/// Full name of the order service, as in paths and in health checks.
pub const SERVICE_NAME: &str = proto::order_service_server::SERVICE_NAME;

/// Full name of the service for operators.
pub const ADMIN_SERVICE_NAME: &str = proto::admin_service_server::SERVICE_NAME;

/// Full name of the service for workers.
pub const WORKER_SERVICE_NAME: &str = proto::worker_service_server::SERVICE_NAME;

/// Metadata that carries the id of a request, in and out.
pub(crate) const REQUEST_ID_HEADER: &str = "x-request-id";

/// Metadata that carries the place of a call in a distributed trace, in and out (W3C Trace
/// Context).
pub(crate) const TRACE_PARENT_HEADER: &str = "traceparent";

/// Metadata that carries what vendors keep about the trace, beside the place.
pub(crate) const TRACE_STATE_HEADER: &str = "tracestate";

/// Metadata that carries the key of a request that may be repeated.
pub(crate) const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// Metadata that carries the name of the process that took the request from a client.
pub(crate) const GATEWAY_HEADER: &str = "x-gateway";

/// Metadata that says `true` where an earlier call with the same key did the work.
pub(crate) const IDEMPOTENT_REPLAYED_HEADER: &str = "idempotent-replayed";

/// The longest request message, in bytes. A batch of 1000 orders with the longest user ids
/// and without metadata has little more than half of it; the largest single order has a
/// tenth.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;
