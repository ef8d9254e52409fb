//! Events between processes by `NOTIFY`: the broker of those who have only a database.
//!
//! Publishing and listening have a connection each, apart from the pools: a notification is
//! never part of a business transaction, so a full queue of the server, or anything else
//! that goes wrong here, fails no commit and holds none up.
//!
//! A notification carries a text of less than 8000 bytes. Events are packed into as few as
//! they fit in: the id of the publishing process in the first line, so that it can leave its
//! own messages unread, then one event per line. Events within the limits of the domain are
//! at most 2.7 kB long; one that does not fit all the same is not sent, and the others read
//! it from the store.
//!
//! A process in which nobody watches does not listen, and while none listens nothing is sent:
//! a notification costs the server a transaction, whoever hears it. Listeners share an
//! advisory lock, so a publisher that can take it alone has nobody to tell.
//!
//! `LISTEN` belongs to a session, so the URL must not lead to a pooler in transaction mode.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use order_core::{BrokerError, EventReceiver, EventTransport, OrderEvent};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Error, types::Type};

use super::{
    ConnectError, PostgresConfig,
    connect::Target,
    errors::{Fault, heals_with_time},
    open, session,
};
use crate::event_message;

/// `NOTIFY` is per database, so the name need not tell systems apart.
const CHANNEL: &str = "order_events";

/// A publisher that comes before the lock has committed before it, and what it told is found
/// by the look-up that follows. The key is "orde" in ASCII, and a number. Nothing waits behind
/// this lock, so it may take longer than the session allows for others.
const LISTEN: &str = "SET lock_timeout = '4s'; SELECT pg_advisory_lock_shared(1869767781, 1); \
    LISTEN order_events";

/// Holds the lock no longer than the statement. Two publishers at a time may take each other
/// for a listener, which costs a notification.
const NOBODY_LISTENS: &str = "SELECT pg_try_advisory_xact_lock(1869767781, 1)";

const NOTIFY: &str = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";

/// The longest payload in bytes, by the server's own limit.
const PAYLOAD_LEN_MAX: usize = 7_999;

/// How long opening a connection may take, with everything that belongs to it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement may stay unanswered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a listener asks whether the server is still there, since nothing else would tell
/// it that a silent connection is dead, and whether anybody still watches.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Passes events between all processes on one database.
pub struct PostgresEventTransport {
    target: Target,
    /// The publisher of this process, in the first line of its messages.
    instance: String,
    /// The connection for publishing. Whoever uses it takes it out, so that one that is left
    /// in the middle of a statement is never used again.
    publisher: Mutex<Option<Link>>,
    n_foreign: AtomicU64,
}

impl PostgresEventTransport {
    /// Builds a transport for the processes on the database of `config`. Connects when it is
    /// first used.
    ///
    /// # Errors
    /// [`ConnectError::InvalidUrl`].
    pub fn new(config: &PostgresConfig) -> Result<Self, ConnectError> {
        let mut target = Target::parse(&config.url)?;
        // A notification waits for no disk and no standby: it would not survive a crash anyway.
        target.config = session::configure(target.config, "off");
        target.config.application_name("order-system events");
        Ok(Self {
            target,
            instance: format!("{:016x}", rand::random::<u64>()),
            publisher: Mutex::new(None),
            n_foreign: AtomicU64::new(0),
        })
    }

    /// How many messages were skipped, as a whole or in part, because they are no events.
    pub fn n_foreign(&self) -> u64 {
        self.n_foreign.load(Ordering::Relaxed)
    }

    /// Opens a connection and executes `first` on it.
    async fn connect(&self, first: Option<&str>) -> Result<Link, BrokerError> {
        let open = async {
            let (client, mut connection) = open::open(&self.target.config).await?;
            let messages =
                stream::poll_fn(move |cx| session::poll_message(&mut connection, cx)).boxed();
            let mut link = Link { client, messages };
            if let Some(sql) = first {
                link.execute(sql).await?;
            }
            Ok(link)
        };
        match timeout(OPEN_TIMEOUT, open).await {
            Ok(opened) => opened.map_err(|error: Error| {
                let (server, heals) = (self.server(), heals_with_time(&error));
                let source = error.into();
                if heals {
                    BrokerError::Unreachable { server, source }
                } else {
                    BrokerError::Refused { server, source }
                }
            }),
            Err(_) => Err(self.silent()),
        }
    }

    fn server(&self) -> String {
        format!("postgres://{}", self.target.server)
    }

    fn silent(&self) -> BrokerError {
        BrokerError::Unreachable {
            server: self.server(),
            source: "the database did not answer in time".into(),
        }
    }

    /// What the failure of a statement on an open connection means.
    fn failed(&self, error: Error) -> BrokerError {
        let server = self.server();
        match Fault::from(error) {
            Fault::Connection(source) => BrokerError::Unreachable { server, source },
            Fault::Conflict(source)
            | Fault::Locked(source)
            | Fault::Row(source)
            | Fault::Unavailable(source)
            | Fault::Exhausted(source)
            | Fault::Defect(source) => BrokerError::Failed { server, source },
            Fault::DeadlineExceeded => self.silent(),
        }
    }

    /// Publishes on `link`, which is kept if that goes well.
    async fn publish_on(&self, mut link: Link, events: &[OrderEvent]) -> Result<Link, BrokerError> {
        let publish = async {
            if link.nobody_listens().await? {
                return Ok(());
            }
            link.notify(&pack(&self.instance, events)).await
        };
        match timeout(ANSWER_TIMEOUT, publish).await {
            Ok(notified) => notified.map_err(|error| self.failed(error))?,
            Err(_) => return Err(self.silent()),
        }
        Ok(link)
    }

    /// Listens until the connection is lost, or nobody has been watching for a while.
    async fn listen_while_watched(&self, receiver: &dyn EventReceiver) -> Result<(), BrokerError> {
        // A notification that comes together with the answer is lost here, and what it told
        // is found by the look-up.
        let Link {
            client,
            mut messages,
        } = self.connect(Some(LISTEN)).await?;
        receiver.resync();
        let hear = async {
            while let Some(message) = messages.next().await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => {
                        self.pass_on(notification.payload(), receiver);
                    }
                    Ok(_) => {}
                    Err(error) => return self.failed(error),
                }
            }
            BrokerError::Unreachable {
                server: self.server(),
                source: "the connection was closed".into(),
            }
        };
        let probe = async {
            loop {
                let was_watched = receiver.is_watched();
                sleep(PROBE_INTERVAL).await;
                if !was_watched && !receiver.is_watched() {
                    return Ok(());
                }
                match timeout(ANSWER_TIMEOUT, client.batch_execute("SELECT 1")).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(self.failed(error)),
                    Err(_) => return Err(self.silent()),
                }
            }
        };
        tokio::select! {
            biased;
            error = hear => Err(error),
            ended = probe => ended,
        }
    }

    /// Every process gets every event, so one in which nobody watches does not read them.
    fn pass_on(&self, payload: &str, receiver: &dyn EventReceiver) {
        if !receiver.is_watched() {
            return;
        }
        let unpacked = unpack(&self.instance, payload);
        if unpacked.is_foreign {
            self.n_foreign.fetch_add(1, Ordering::Relaxed);
        }
        if !unpacked.events.is_empty() {
            receiver.receive(&unpacked.events);
        }
    }
}

#[async_trait]
impl EventTransport for PostgresEventTransport {
    async fn publish(&self, events: &[OrderEvent]) -> Result<(), BrokerError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut publisher = self.publisher.lock().await;
        if let Some(link) = publisher.take() {
            match self.publish_on(link, events).await {
                Ok(link) => {
                    *publisher = Some(link);
                    return Ok(());
                }
                // It may have been dead for long, and nobody looked. A fresh one will tell.
                Err(BrokerError::Unreachable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let link = self.connect(None).await?;
        *publisher = Some(self.publish_on(link, events).await?);
        Ok(())
    }

    async fn listen(&self, receiver: Arc<dyn EventReceiver>) -> Result<Infallible, BrokerError> {
        loop {
            // A process in which nobody watches has no connection.
            receiver.until_watched().await;
            self.listen_while_watched(&*receiver).await?;
        }
    }
}

/// A connection that moves only while somebody waits for it, so that dropping what waits
/// closes it.
struct Link {
    client: Client,
    messages: BoxStream<'static, Result<AsyncMessage, Error>>,
}

impl Link {
    async fn execute(&mut self, sql: &str) -> Result<(), Error> {
        drive(&mut self.messages, self.client.batch_execute(sql)).await
    }

    async fn nobody_listens(&mut self) -> Result<bool, Error> {
        let ask = self.client.query_typed(NOBODY_LISTENS, &[]);
        let rows = drive(&mut self.messages, ask).await?;
        rows.first().map_or(Ok(false), |row| row.try_get(0))
    }

    async fn notify(&mut self, payloads: &[String]) -> Result<(), Error> {
        let params = [
            (&CHANNEL as _, Type::TEXT),
            (&payloads as _, Type::TEXT_ARRAY),
        ];
        let notify = self.client.query_typed(NOTIFY, &params);
        drive(&mut self.messages, notify).await?;
        Ok(())
    }
}

/// Moves a connection until a statement on it is answered. Its own messages mean nothing to
/// those who do not listen.
async fn drive<T>(
    messages: &mut BoxStream<'static, Result<AsyncMessage, Error>>,
    statement: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut statement = std::pin::pin!(statement);
    loop {
        tokio::select! {
            biased;
            answer = &mut statement => return answer,
            message = messages.next() => match message {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                // The driver has ended, and the statement has been told.
                None => return statement.await,
            },
        }
    }
}

/// Packs events into payloads, in their order.
fn pack(instance: &str, events: &[OrderEvent]) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for event in events {
        let text = event_message::encode(event);
        let line_len = 1 + text.len();
        if instance.len() + line_len > PAYLOAD_LEN_MAX {
            continue;
        }
        match payloads.last_mut() {
            Some(payload) if payload.len() + line_len <= PAYLOAD_LEN_MAX => {
                payload.push('\n');
                payload.push_str(&text);
            }
            _ => payloads.push(format!("{instance}\n{text}")),
        }
    }
    payloads
}

#[derive(Debug, PartialEq, Eq)]
struct Unpacked {
    events: Vec<OrderEvent>,
    /// Whether there is something in it that no process of this system sends.
    is_foreign: bool,
}

/// Unpacks the events of a payload of another process.
fn unpack(instance: &str, payload: &str) -> Unpacked {
    let mut lines = payload.split('\n');
    if lines.next() == Some(instance) {
        return Unpacked {
            events: Vec::new(),
            is_foreign: false,
        };
    }
    let decoded: Vec<_> = lines.map(event_message::decode).collect();
    Unpacked {
        is_foreign: decoded.is_empty() || decoded.contains(&None),
        events: decoded.into_iter().flatten().collect(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use order_core::{Cause, OrderId, OrderStatus, UserId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const INSTANCE: &str = "0123456789abcdef";

    fn event(user_id: &str, message: Option<&str>) -> OrderEvent {
        OrderEvent {
            order_id: OrderId::from_uuid(Uuid::from_u128(7)),
            user_id: UserId::parse(user_id).unwrap(),
            version: u32::MAX,
            status: OrderStatus::Failed,
            at: Timestamp::from_microsecond(253_402_207_199_999_999).unwrap(),
            cause: message.map(|message| Cause::new("C".repeat(64), message)),
            trace_parent: None,
        }
    }

    proptest! {
        #[test]
        fn events_come_out_as_they_went_in(
            messages in proptest::collection::vec(proptest::option::of("\\PC{0,500}"), 0..12),
        ) {
            let events: Vec<_> = messages.iter().map(|m| event("ada", m.as_deref())).collect();

            let payloads = pack(INSTANCE, &events);

            prop_assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD_LEN_MAX));
            let filled = payloads.windows(2).all(|two| {
                two[0].len() + two[1].lines().nth(1).unwrap().len() + 1 > PAYLOAD_LEN_MAX
            });
            prop_assert!(filled, "an event would have fitted into the payload before it");
            let unpacked = payloads.iter().map(|payload| unpack("another", payload));
            let unpacked: Vec<_> = unpacked.flat_map(|unpacked| unpacked.events).collect();
            prop_assert_eq!(unpacked, events);
        }

        #[test]
        fn foreign_payload_has_no_events(payload in "\\PC{0,80}(\n\\PC{0,80}){0,2}") {
            let unpacked = unpack(INSTANCE, &payload);
            prop_assert_eq!(unpacked, Unpacked { events: Vec::new(), is_foreign: true });
        }
    }

    #[test]
    fn longest_event_fits() {
        for char in ["\u{10348}", "\"", "\\"] {
            let event = event(&char.repeat(128), Some(&char.repeat(500)));
            let payloads = pack(INSTANCE, std::slice::from_ref(&event));
            assert_eq!(unpack("another", &payloads[0]).events, [event]);
            assert!(payloads[0].len() <= 2_750, "{}", payloads[0].len());
        }
    }

    #[test]
    fn event_that_does_not_fit_is_left_out() {
        let fits = event("ada", None);
        let cause = Cause {
            code: "CODE".to_owned(),
            message: "x".repeat(PAYLOAD_LEN_MAX),
        };
        let too_long = OrderEvent {
            cause: Some(cause),
            ..fits.clone()
        };
        let payloads = pack(INSTANCE, &[fits.clone(), too_long, fits.clone()]);
        assert_eq!(unpack("another", &payloads[0]).events, [fits.clone(), fits]);
        assert_eq!(payloads.len(), 1);
    }

    #[test]
    fn own_payload_is_left_unread() {
        let payloads = pack(INSTANCE, &[event("ada", None)]);
        let unread = Unpacked {
            events: Vec::new(),
            is_foreign: false,
        };
        assert_eq!(unpack(INSTANCE, &payloads[0]), unread);
    }

    #[test]
    fn neighbours_of_a_foreign_line_are_taken() {
        let event = event("ada", None);
        let payload = format!("new\n{}\nsomething new", event_message::encode(&event));
        let unpacked = unpack(INSTANCE, &payload);
        assert!(unpacked.is_foreign);
        assert_eq!(unpacked.events, [event]);
    }
}
