//! gRPC reflection: lets tools ask for the contract of what is served. Many still speak v1alpha.

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::Body as HttpBody;
use http_body_util::{BodyStream, StreamBody};
use order_core::BoxError;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

use crate::{ADMIN_SERVICE_NAME, SERVICE_NAME, WORKER_SERVICE_NAME, proto};

/// Where its paths begin, in both versions.
pub(super) const PREFIX: &str = "/grpc.reflection.v1";

const OWN_NAMES: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
const HEALTH_NAME: &str = "grpc.health.v1.Health";

/// Adds the service over the descriptors of the contract; lists what is served.
///
/// # Errors
/// If the descriptors made by the build are not valid.
pub(super) fn add_reflection(routes: Routes, has_workers: bool) -> Result<Routes, Error> {
    let workers = has_workers.then_some(WORKER_SERVICE_NAME);
    let names = [SERVICE_NAME, ADMIN_SERVICE_NAME, HEALTH_NAME]
        .into_iter()
        .chain(OWN_NAMES);
    let names: Vec<_> = names.chain(workers).collect();
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        names
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let routes = routes.add_service(builder().build_v1()?);
    Ok(routes.add_service(builder().build_v1alpha()?))
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
