//! gRPC over HTTP/2 as its specification has it: content types and compression.

use http::StatusCode;
use order_rpc::proto::{
    GetOrderRequest, WatchOrdersRequest, order_service_client::OrderServiceClient,
    watch_orders_request::Watch,
};
use tonic::codec::CompressionEncoding::Gzip;

use crate::{
    raw::RawClient,
    support::{TestServer, id},
    workers::channel,
};

#[tokio::test]
async fn only_grpc_is_answered() {
    let server = TestServer::start([]).await;
    let mut raw = RawClient::connect(server.address).await;
    for (content_type, status) in [
        ("application/grpc", StatusCode::OK),
        ("application/grpc+proto", StatusCode::OK),
        ("application/json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("application/grpc-web", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        assert_eq!(raw.status_for(content_type).await, status, "{content_type}");
    }
    drop(raw);
    server.stop().await;
}

#[tokio::test]
async fn messages_may_be_compressed_and_streams_are_not() {
    let server = TestServer::start([]).await;
    let mut client = OrderServiceClient::new(channel(&server))
        .send_compressed(Gzip)
        .accept_compressed(Gzip);

    let request = GetOrderRequest {
        order_id: id(10).to_string(),
    };
    let answer = client.get_order(request).await.expect("an answer");
    assert_eq!(
        answer.metadata().get("grpc-encoding").expect("named"),
        "gzip"
    );
    assert!(answer.into_inner().order.is_some());

    let request = WatchOrdersRequest {
        orders: vec![Watch {
            order_id: id(10).to_string(),
            ..Watch::default()
        }],
    };
    let mut events = client
        .watch_orders(request)
        .await
        .expect("a stream")
        .into_inner();
    let event = events.message().await.expect("no error");
    assert!(event.is_some());
    drop((events, client));
    server.stop().await;
}
