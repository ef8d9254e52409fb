//! The order system over gRPC, both ways.
//!
//! [`serve`] puts any [`OrderApi`](order_core::OrderApi) on a socket; [`RemoteOrderApi`] is
//! the same trait on the other side, so whoever calls it cannot tell the two apart. What
//! crosses the wire is in [`proto`]; `convert` and [`status`] are the only places that
//! know both the wire and the domain. Nothing here decides about orders, knows HTTP as
//! clients see it, or reads the configuration of a process.

mod client;
mod convert;
mod executor;
mod interceptor;
mod server;
pub mod status;

pub use client::{ConfigError, RemoteOrderApi, RpcClientConfig};
pub use server::{RpcServerConfig, RpcServerDeps, ServeError, serve};

/// The messages and stubs of `proto/order/v1/order.proto`.
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

/// Full name of the service, as in paths and in health checks.
pub const SERVICE_NAME: &str = proto::order_service_server::SERVICE_NAME;

/// Metadata that carries the id of a request, in and out.
pub(crate) const REQUEST_ID_HEADER: &str = "x-request-id";

/// The longest request message, in bytes. A batch of 1000 orders with the longest user ids
/// has little more than half of it.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// The longest answer a client reads, in bytes. A page of 1000 failed orders with the
/// longest texts has 2.7 MB.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
