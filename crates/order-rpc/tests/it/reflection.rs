//! The server describes itself.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use order_rpc::{ADMIN_SERVICE_NAME, RpcServerConfig, SERVICE_NAME, WORKER_SERVICE_NAME};
use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::{Code, Status, Streaming};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};
use tonic_reflection::pb::v1alpha::{
    self, server_reflection_client::ServerReflectionClient as OldClient,
    server_reflection_request::MessageRequest as OldRequest,
    server_reflection_response::MessageResponse as OldResponse,
};

use crate::{
    fake_workers::FakeWorkers,
    support::{TestServer, server_config, soon},
    workers::channel,
};

type Answers = Streaming<ServerReflectionResponse>;

/// Asks one question and keeps the stream open.
async fn ask(
    server: &TestServer,
    question: MessageRequest,
) -> Result<(MessageResponse, Answers), Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let questions = stream::iter([request]).chain(stream::pending());
    let mut client = ServerReflectionClient::new(channel(server));
    let mut answers = soon(client.server_reflection_info(questions))
        .await?
        .into_inner();
    let answer = soon(answers.next()).await.expect("an answer")?;
    Ok((answer.message_response.expect("a message"), answers))
}

async fn services(server: &TestServer) -> Vec<String> {
    let question = MessageRequest::ListServices(String::new());
    let (answer, _) = ask(server, question).await.expect("an answer");
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("unexpected {answer:?}");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let health = "grpc.health.v1.Health";
    let reflection = "grpc.reflection.v1.ServerReflection";
    let old = "grpc.reflection.v1alpha.ServerReflection";
    let server = TestServer::start([]).await;
    assert_eq!(
        services(&server).await,
        [health, reflection, old, ADMIN_SERVICE_NAME, SERVICE_NAME]
    );
    server.stop().await;
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers, server_config()).await;
    assert_eq!(
        services(&server).await,
        [
            health,
            reflection,
            old,
            ADMIN_SERVICE_NAME,
            SERVICE_NAME,
            WORKER_SERVICE_NAME
        ]
    );
    server.stop().await;
}

/// What Postman, older grpcurl and many others speak.
#[tokio::test]
async fn reflection_answers_in_its_old_version() {
    let server = TestServer::start([]).await;
    let question = v1alpha::ServerReflectionRequest {
        message_request: Some(OldRequest::ListServices(String::new())),
        ..v1alpha::ServerReflectionRequest::default()
    };
    let mut client = OldClient::new(channel(&server));

    let answers = client
        .server_reflection_info(stream::iter([question]))
        .await;

    let mut answers = answers.expect("an answer").into_inner();
    let answer = soon(answers.next())
        .await
        .expect("a message")
        .expect("no error");
    let Some(OldResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("unexpected {answer:?}");
    };
    assert_eq!(list.service.len(), 5);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn reflection_describes_every_service_and_its_imports() {
    let workers = Arc::new(FakeWorkers::default());
    let server = TestServer::start_with_workers(workers, server_config()).await;
    for (question, file) in [
        (
            MessageRequest::FileContainingSymbol(SERVICE_NAME.to_owned()),
            "order/v1/order.proto",
        ),
        (
            MessageRequest::FileContainingSymbol(WORKER_SERVICE_NAME.to_owned()),
            "order/v1/worker.proto",
        ),
        (
            MessageRequest::FileContainingSymbol(ADMIN_SERVICE_NAME.to_owned()),
            "order/v1/admin.proto",
        ),
        (
            MessageRequest::FileByFilename("google/protobuf/duration.proto".to_owned()),
            "google/protobuf/duration.proto",
        ),
    ] {
        let (answer, _) = ask(&server, question).await.expect("an answer");
        let MessageResponse::FileDescriptorResponse(files) = answer else {
            panic!("unexpected {answer:?}");
        };
        let descriptor = FileDescriptorProto::decode(&*files.file_descriptor_proto[0]);
        assert_eq!(descriptor.expect("a descriptor").name(), file);
    }
    server.stop().await;
}

#[tokio::test]
async fn reflection_can_be_off() {
    let config = RpcServerConfig {
        reflection: false,
        ..server_config()
    };
    let server = TestServer::start_with([], config).await;
    let question = MessageRequest::ListServices(String::new());
    let refused = ask(&server, question).await.expect_err("a refusal");
    assert_eq!(refused.code(), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn open_reflection_stream_does_not_hold_up_a_stop() {
    let config = RpcServerConfig {
        drain_timeout: Duration::from_mins(1),
        ..server_config()
    };
    let server = TestServer::start_with([], config).await;
    let question = MessageRequest::ListServices(String::new());
    let (_, mut answers) = ask(&server, question).await.expect("an answer");
    // Far less than the drain.
    server.stop().await;
    assert!(soon(answers.next()).await.is_none());
}
