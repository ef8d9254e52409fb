//! Watching orders over real sockets.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::{Engine, Http, PATIENCE, Shape, System, database, run};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) async fn connect(system: &System) -> Socket {
    connect_async(system.ws_url()).await.expect("a WebSocket").0
}

pub(crate) async fn say(socket: &mut Socket, text: impl Into<String>) {
    socket.send(Message::text(text.into())).await.expect("sent");
}

pub(crate) async fn hear(socket: &mut Socket) -> Value {
    let text = async {
        loop {
            match socket.next().await.expect("open").expect("no error") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) => {}
                other => panic!("unexpected frame {other:?}"),
            }
        }
    };
    // Pings do not restart the timeout: they arrive as long as the socket is open.
    tokio::time::timeout(PATIENCE, text).await.expect("in time")
}

#[test]
fn a_bare_id_subscribes_to_each_change() {
    run(async {
        for (shape, engine) in [
            (Shape::AllInOne, Engine::Sqlite),
            (Shape::Split, Engine::Sqlite),
            (Shape::Split, Engine::Postgres),
        ] {
            let database = database!(engine);
            let system = System::start(shape, &database, &["--processor-delay", "300ms"]).await;
            let http = Http::new(system.http_addr());
            let mut socket = connect(&system).await;
            let bare = http.create_order().await;
            say(&mut socket, bare.clone()).await;
            assert_eq!(
                hear(&mut socket).await,
                json!({"order_id": bare, "status": "PROCESSED"})
            );
            // An order that has already left PENDING answers at once, quoted or not.
            say(&mut socket, format!("\"{bare}\"")).await;
            assert_eq!(
                hear(&mut socket).await,
                json!({"order_id": bare, "status": "PROCESSED"})
            );
            drop(socket);
            system.stop().await;
        }
    });
}

#[test]
fn an_unknown_id_is_answered_and_the_socket_stays_open() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::AllInOne, &database, &[]).await;
        let mut socket = connect(&system).await;
        say(&mut socket, "0198c5a0-5d5c-7abc-8def-0123456789ab").await;
        assert_eq!(hear(&mut socket).await["error"]["code"], "ORDER_NOT_FOUND");
        say(&mut socket, "garbage").await;
        assert_eq!(hear(&mut socket).await["error"]["code"], "INVALID_ARGUMENT");
        let id = Http::new(system.http_addr()).create_order().await;
        say(&mut socket, id.clone()).await;
        assert_eq!(
            hear(&mut socket).await,
            json!({"order_id": id, "status": "PROCESSED"})
        );
        drop(socket);
        system.stop().await;
    });
}

#[test]
fn a_subscription_resumes_where_it_was() {
    run(async {
        let database = database!(Engine::Sqlite);
        let system = System::start(Shape::Split, &database, &["--processor-delay", "1h"]).await;
        let http = Http::new(system.http_addr());
        let id = http.create_order().await;
        let cancelled = http
            .send(Method::POST, &format!("/orders/{id}/cancel"), None)
            .await;
        assert_eq!(cancelled.status, 200, "{cancelled:?}");
        let mut socket = connect(&system).await;
        say(
            &mut socket,
            json!({"id": 1, "subscribe": {"order": id, "since": 1}}).to_string(),
        )
        .await;
        let answer = hear(&mut socket).await;
        assert_eq!(answer["id"], 1);
        let subscribed = &answer["subscribed"];
        assert_eq!(
            (&subscribed["version"], &subscribed["recovered"]),
            (&json!(2), &json!(true))
        );
        assert_eq!(
            subscribed["events"].as_array().map(Vec::len),
            Some(1),
            "{subscribed}"
        );
        assert_eq!(subscribed["events"][0]["status"], "CANCELLED");
        drop(socket);
        system.stop().await;
    });
}
