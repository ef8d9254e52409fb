//! A client without any of the comforts: sends the bytes and headers a test wants.

use std::{convert::Infallible, net::SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use order_core::Error;
use order_rpc::status::from_status;
use prost::Message;
use tokio::{net::TcpSocket, task::JoinSet};
use tonic::Status;

use crate::support::soon;

/// What is sent, whole or not.
type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// One HTTP/2 connection. Dropping it breaks it off.
pub(crate) struct RawClient {
    address: SocketAddr,
    sender: SendRequest<Sent>,
    tasks: JoinSet<()>,
}

/// An answer, read to its end.
pub(crate) struct RawAnswer {
    pub(crate) headers: HeaderMap,
    pub(crate) status: Status,
    body: Bytes,
}

impl RawAnswer {
    /// The error in the status.
    pub(crate) fn error(self) -> Error {
        from_status(self.status)
    }

    /// The message in the body.
    pub(crate) fn message<M: Message + Default>(&self) -> M {
        M::decode(self.body.slice(5..)).expect("a message")
    }
}

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_from("127.0.0.1:0", address).await
    }

    pub(crate) async fn connect_from(local: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let local = local.parse().expect("an address");
        socket.bind(local).expect("an address of this machine");
        let stream = socket.connect(address).await.expect("it listens");
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            // How it ends is seen by the calls on it.
            let _ = connection.await;
        });
        Self {
            address,
            sender,
            tasks,
        }
    }

    /// Begins a call and sends no more than the first bytes of its message.
    pub(crate) fn begin(&mut self, path: &str, headers: &[(&str, &str)]) {
        let first_bytes = Ok(Frame::data(Bytes::from_static(&[0, 0])));
        let body = stream::once(async { first_bytes }).chain(stream::pending());
        let request = self.request(path, headers, StreamBody::new(body).boxed_unsync());
        let response = self.sender.send_request(request);
        self.tasks.spawn(async {
            // Nobody waits for an answer.
            let _ = response.await;
        });
    }

    fn request(&self, path: &str, headers: &[(&str, &str)], body: Sent) -> Request<Sent> {
        let mut request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).expect("valid")
    }

    /// The status of HTTP with which a request of this type is answered.
    pub(crate) async fn status_for(&mut self, content_type: &'static str) -> StatusCode {
        let path = "/order.v1.OrderService/GetOrder";
        let mut request = self.request(path, &[], Full::default().boxed_unsync());
        let value = HeaderValue::from_static(content_type);
        request.headers_mut().insert("content-type", value);
        let response = soon(self.sender.send_request(request)).await;
        response.expect("an answer").status()
    }

    /// Sends a call of a method of the order service.
    pub(crate) async fn call<M: Message>(
        &mut self,
        method: &str,
        headers: &[(&str, &str)],
        message: &M,
    ) -> RawAnswer {
        let path = format!("/order.v1.OrderService/{method}");
        self.send(&path, headers, &message.encode_to_vec()).await
    }

    pub(crate) async fn send(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        message: &[u8],
    ) -> RawAnswer {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).expect("not that large"));
        frame.put_slice(message);
        let request = self.request(path, headers, Full::new(frame.freeze()).boxed_unsync());
        let response = self.sender.send_request(request);
        let response = soon(response).await.expect("an answer");
        read(response).await
    }
}

async fn read(response: http::Response<Incoming>) -> RawAnswer {
    let (parts, body) = response.into_parts();
    let body = soon(body.collect()).await.expect("a whole answer");
    let status = body
        .trailers()
        .and_then(Status::from_header_map)
        .or_else(|| Status::from_header_map(&parts.headers))
        .expect("a status");
    RawAnswer {
        headers: parts.headers,
        status,
        body: body.to_bytes(),
    }
}
