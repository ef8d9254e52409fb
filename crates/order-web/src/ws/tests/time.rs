//! Timeouts and the drain, over pipes in memory and under paused time: the clock moves
//! only when everybody waits.

use std::{pin::pin, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use order_core::{OrderStatus, RequestId};
use order_hub::HubConfig;
use tokio::{
    io::{AsyncReadExt as _, DuplexStream},
    time::{Instant, sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{Client, World, order_id};
use crate::ws::{
    Shared, WsConfig,
    admission::Admission,
    connection::{Connection, Guest},
};

/// Bytes that a pipe takes without a reader.
const PIPE_LEN: usize = 1_024;

impl World {
    async fn connection(&self, config: WsConfig) -> (Connection<DuplexStream>, DuplexStream) {
        let deps = self.deps(config);
        let shared = Shared {
            admission: Admission::new(&deps.config, &deps.stats),
            hub: deps.hub,
            tickets: deps.tickets,
            clock: deps.clock,
            config: deps.config,
            tracker: deps.tracker,
            stop: deps.stop,
            stats: deps.stats,
        };
        let (here, there) = tokio::io::duplex(PIPE_LEN);
        let (session, inbox) = self.hub.session().expect("room");
        let guest = Guest {
            request_id: RequestId::from_uuid(uuid::Uuid::nil()),
            admitted: shared.admission.admit([0; 4].into()).expect("room"),
            session,
            inbox,
            may_authenticate: true,
        };
        let connection = Connection::new(Arc::new(shared), here, guest).await;
        (connection, there)
    }

    async fn connect(&self, config: WsConfig) -> Client<DuplexStream> {
        let (connection, there) = self.connection(config).await;
        self.tracker.spawn(connection.run());
        Client {
            socket: WebSocketStream::from_raw_socket(there, Role::Client, None).await,
        }
    }

    /// Waits until all sockets are gone and returns how long it took.
    async fn drained(&self) -> Duration {
        let start = Instant::now();
        self.tracker.close();
        self.tracker.wait().await;
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_answer_a_ping_is_closed_with_4009() {
    let world = World::new(HubConfig::default());
    let (connection, mut there) = world.connection(WsConfig::default()).await;
    world.tracker.spawn(connection.run());
    let start = Instant::now();
    let (mut ping, mut close) = ([0; 2], [0; 4]);
    there.read_exact(&mut ping).await.expect("a ping");
    let ping_at = start.elapsed();
    let pinged = Instant::now();
    there.read_exact(&mut close).await.expect("a close frame");
    let silence = pinged.elapsed();
    assert_eq!(
        (ping, &close[2..]),
        ([0x89, 0], &4009_u16.to_be_bytes()[..])
    );
    assert!(ping_at <= Duration::from_secs(26), "{ping_at:?}");
    assert_eq!(silence.as_secs(), 8);
    // It does not close its side either.
    world.drained().await;
    assert_eq!(world.hub.n_sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn client_that_answers_pings_stays() {
    let world = World::new(HubConfig::default());
    let mut client = world.connect(WsConfig::default()).await;
    let start = Instant::now();
    for _ in 0..20 {
        assert!(matches!(client.next().await, Message::Ping(_)));
    }
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_secs(19 * 25), "{elapsed:?}");
    client.check_silent().await;
}

#[tokio::test(start_paused = true)]
async fn slow_client_skips_and_stuck_client_is_closed_with_4008() {
    let world = World::new(HubConfig::default());
    world.commit(1, OrderStatus::Pending);
    let mut client = world.connect(WsConfig::default()).await;
    client.send_order(1).await;
    client.check_silent().await;
    // More than the pipe holds: the rest is conflated while the client does not look.
    for _ in 0..100 {
        world.publish(1, OrderStatus::Processing);
        tokio::task::yield_now().await;
    }
    world.publish(1, OrderStatus::Processed);
    let mut n_seen = 0;
    let last = loop {
        let text = client.text().await;
        n_seen += 1;
        if text.contains("PROCESSED") {
            break text;
        }
    };
    assert!(last.contains(&order_id(1).to_string()), "{last}");
    assert!(n_seen < 50, "{n_seen} frames were not conflated");

    for _ in 0..100 {
        world.publish(1, OrderStatus::Processing);
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_secs(10) + Duration::from_millis(1)).await;
    assert_eq!(world.hub.n_sessions(), 0, "its subscriptions are gone");
    assert_eq!(client.close_frame().await.0, 4008);
}

#[tokio::test(start_paused = true)]
async fn stuck_client_does_not_outlive_the_close_timeout() {
    let world = World::new(HubConfig::default());
    world.commit(1, OrderStatus::Pending);
    let mut client = world.connect(WsConfig::default()).await;
    client.send_order(1).await;
    client.check_silent().await;
    for _ in 0..100 {
        world.publish(1, OrderStatus::Processing);
        tokio::task::yield_now().await;
    }
    let took = world.drained().await;
    assert!(took <= Duration::from_secs(10 + 2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn hanging_store_is_given_up_and_holds_up_nobody_else() {
    let world = World::new(HubConfig::default());
    for n in 1..=2 {
        world.commit(n, OrderStatus::Pending);
    }
    let config = WsConfig {
        pong_timeout: Duration::from_secs(1),
        ping_interval: Duration::from_secs(1),
        ..WsConfig::default()
    };
    let mut client = world.connect(config).await;
    client.send_order(1).await;
    client.check_silent().await;
    world.store.is_hanging.store(true, Ordering::Relaxed);
    client.send_order(2).await;
    world.publish(1, OrderStatus::Processed);
    assert!(client.text().await.contains("PROCESSED"));
    // Pongs wait behind the read, which takes longer than the pong timeout.
    let answer = client.text().await;
    assert!(answer.contains("DEADLINE_EXCEEDED"), "{answer}");
    assert!(answer.contains(&order_id(2).to_string()), "{answer}");
    client.check_silent().await;
}

#[tokio::test(start_paused = true)]
async fn stop_closes_all_spread_over_the_window() {
    let world = World::new(HubConfig::default());
    world.commit(1, OrderStatus::Pending);
    let config = WsConfig {
        goodbye_spacing: Duration::from_secs(10),
        ..WsConfig::default()
    };
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = world.connect(config.clone()).await;
        client.send_order(1).await;
        client.check_silent().await;
        clients.push(client);
    }
    world.stop.cancel();
    // Until its own end each socket works.
    tokio::task::yield_now().await;
    world.publish(1, OrderStatus::Processed);
    let start = Instant::now();
    let ends = clients.into_iter().map(|mut client| async move {
        assert!(client.text().await.contains("PROCESSED"));
        let (code, reason) = client.close_frame().await;
        assert!(client.socket.next().await.is_none());
        (code, reason, start.elapsed())
    });
    let ends = futures_util::future::join_all(ends).await;
    for (code, reason, at) in &ends {
        assert_eq!(*code, 1012);
        let retry_after = reason.strip_prefix("the server restarts; retry_after_ms=");
        let retry_after: u32 = retry_after.and_then(|ms| ms.parse().ok()).expect("a hint");
        assert!(retry_after <= 5_000);
        assert!(*at <= config.drain_window, "{at:?}");
    }
    let is_spread = |distance: fn(&(u16, String, Duration)) -> String| {
        let mut values: Vec<_> = ends.iter().map(distance).collect();
        values.sort();
        values.dedup();
        values.len() > 10
    };
    assert!(is_spread(|(_, _, at)| format!("{at:?}")), "all at once");
    assert!(
        is_spread(|(_, reason, _)| reason.clone()),
        "one hint for all"
    );
}

#[tokio::test(start_paused = true)]
async fn stop_ends_within_the_window_whatever_clients_do() {
    let world = World::new(HubConfig::default());
    world.commit(1, OrderStatus::Pending);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = world.connect(WsConfig::default()).await;
        client.send_order(1).await;
        client.check_silent().await;
        clients.push(client);
    }
    for _ in 0..100 {
        world.publish(1, OrderStatus::Processing);
        tokio::task::yield_now().await;
    }
    world.stop.cancel();
    let took = world.drained().await;
    assert!(took <= WsConfig::default().drain_window, "{took:?}");
    assert_eq!(world.hub.n_sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn closed_hub_ends_the_sockets() {
    let world = World::new(HubConfig::default());
    let mut client = world.connect(WsConfig::default()).await;
    world.hub.close();
    assert_eq!(client.close_frame().await.0, 1012);
}

#[tokio::test(start_paused = true)]
async fn client_that_leaves_leaves_nothing_behind() {
    let world = World::new(HubConfig::default());
    world.commit(1, OrderStatus::Pending);
    for says_goodbye in [true, false] {
        let mut client = world.connect(WsConfig::default()).await;
        client.send_order(1).await;
        client.check_silent().await;
        if says_goodbye {
            client.socket.close(None).await.expect("open");
            while client.socket.next().await.is_some() {}
        }
        drop(client);
        world.drained().await;
        assert_eq!(world.hub.n_sessions(), 0, "{says_goodbye}");
        world.tracker.reopen();
    }
}

#[tokio::test]
async fn idle_socket_is_small() {
    let world = World::new(HubConfig::default());
    let (connection, _there) = world.connection(WsConfig::default()).await;
    let run = pin!(connection.run());
    let len = size_of_val(&*run);
    assert!(len <= 4_096, "the future of a socket has {len} bytes");
    assert!(run.now_or_never().is_none());
}
