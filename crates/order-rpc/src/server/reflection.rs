//! gRPC reflection v1: lets tools ask for the contract of what is served.

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::Body as HttpBody;
use http_body_util::{BodyStream, StreamBody};
use order_core::BoxError;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic_reflection::server::{
    Builder, Error,
    v1::{ServerReflection, ServerReflectionServer},
};

use crate::{SERVICE_NAME, WORKER_SERVICE_NAME, proto};

/// Where its paths begin.
pub(super) const PREFIX: &str = "/grpc.reflection.v1.ServerReflection/";

const OWN_NAME: &str = "grpc.reflection.v1.ServerReflection";
const HEALTH_NAME: &str = "grpc.health.v1.Health";

/// The service over the descriptors of the contract; lists what is served.
///
/// # Errors
/// If the descriptors made by the build are not valid.
pub(super) fn reflection(
    has_workers: bool,
) -> Result<ServerReflectionServer<impl ServerReflection>, Error> {
    let mut builder = Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICE_NAME)
        .with_service_name(HEALTH_NAME)
        .with_service_name(OWN_NAME);
    if has_workers {
        builder = builder.with_service_name(WORKER_SERVICE_NAME);
    }
    builder.build_v1()
}

/// Ends the questions of a client when its connection is to go away: a tool that keeps its
/// stream open would keep a drain waiting.
pub(super) fn until_draining<B>(questions: B, draining: CancellationToken) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let frames = BodyStream::new(questions).take_until(draining.cancelled_owned());
    Body::new(StreamBody::new(frames))
}
