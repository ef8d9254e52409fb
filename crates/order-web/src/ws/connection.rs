//! One socket from the upgrade to the close, in one task.
//!
//! The task waits for whatever comes first: an answer it is reading from the store, the
//! stop of the server, a message, events for the client, or its one timer. While an answer
//! is being read no further message is taken, so a client that asks faster than the store
//! answers is held back by TCP, and answers come in the order of the questions.
//!
//! Every wait ends: reads of the store, writes, pongs, the close and the drain each have a
//! limit. What is needed rarely is boxed, because an idle socket pays for the whole future.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _, future::BoxFuture};
use order_core::{Error, RequestId, UserId, WatchOrder};
use order_hub::{Delivery, Inbox, Session};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::{
    CloseLabels, Shared,
    admission::Admitted,
    close::{self, Close},
    command::{self, Action, Command, Subject},
    end::End,
    frame,
    lookup::{Found, Lookup},
    rate::RateLimit,
};
use crate::http::span;

/// How long the closing handshake may take, with all that the client has sent before it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much is read and thrown away after a close. A socket that is closed with unread
/// input resets the connection, and the client may never see the close frame.
const DISCARD_LEN_MAX: usize = 1024 * 1024;

/// The upper end of the wait that a client is asked for when the server restarts.
const RETRY_AFTER_MAX_MS: u32 = 5_000;

/// Allocated with the socket. The largest message is read into a larger one, and given back.
const READ_BUFFER_LEN: usize = 4 * 1024;

/// Messages for one write are gathered up to this length. The buffer grows on use only.
const WRITE_BUFFER_LEN: usize = 4 * 1024;

/// Holds the largest answer above what is gathered: a replay of 300 events, each with a cause
/// of 500 characters of up to four bytes, is about 660 KiB.
const WRITE_BUFFER_LEN_MAX: usize = 1024 * 1024;

/// How many orders of a list count as one message.
const ORDERS_PER_MESSAGE: u32 = 10;

/// A command that reads the store: gives the session back.
type Running = BoxFuture<'static, (Session, Found)>;

/// What the loop waited for.
enum Step {
    Answered(Session, Found),
    Stopping,
    Received(Option<Result<Message, tungstenite::Error>>),
    Delivered(Result<(), Error>),
    Timer,
}

/// Somebody who was let in.
pub(super) struct Guest {
    pub(super) request_id: RequestId,
    pub(super) admitted: Admitted,
    pub(super) session: Session,
    pub(super) inbox: Inbox,
    /// Whether a ticket may still be shown.
    pub(super) may_authenticate: bool,
}

/// One socket and what it follows.
pub(super) struct Connection<S> {
    shared: Arc<Shared>,
    request_id: RequestId,
    admitted: Admitted,
    may_authenticate: bool,
    socket: WebSocketStream<S>,
    /// `None` while `running` has it.
    session: Option<Session>,
    running: Option<Running>,
    inbox: Inbox,
    deliveries: Vec<Delivery>,
    rate: RateLimit,
    /// A client that sends too fast is read on from here, and held back by TCP until then.
    held_until: Option<Instant>,
    /// When the next ping is due, or the pong.
    heartbeat_at: Instant,
    is_awaiting_pong: bool,
    /// When to say goodbye; set once the server stops.
    close_at: Option<Instant>,
    is_hub_closed: bool,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    pub(super) async fn new(shared: Arc<Shared>, stream: S, guest: Guest) -> Self {
        let config = &shared.config;
        let socket_config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_LEN)
            .write_buffer_size(WRITE_BUFFER_LEN)
            .max_write_buffer_size(WRITE_BUFFER_LEN_MAX)
            .max_message_size(Some(config.message_len_max))
            .max_frame_size(Some(config.message_len_max));
        let now = Instant::now();
        // The first ping comes early by chance, so that sockets opened together, as after
        // a restart, do not ping together for ever.
        let first_ping = config.ping_interval.mul_f64(rand::random());
        Self {
            rate: RateLimit::new(config.messages_per_second_max, now),
            held_until: None,
            heartbeat_at: now + first_ping,
            socket: WebSocketStream::from_raw_socket(stream, Role::Server, Some(socket_config))
                .await,
            shared,
            request_id: guest.request_id,
            admitted: guest.admitted,
            may_authenticate: guest.may_authenticate,
            session: Some(guest.session),
            running: None,
            inbox: guest.inbox,
            deliveries: Vec::new(),
            is_awaiting_pong: false,
            close_at: None,
            is_hub_closed: false,
        }
    }

    /// Serves the socket until it is closed, and no longer than the drain window lasts
    /// once the server stops.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let cut = async {
            shared.stop.cancelled().await;
            sleep(shared.config.drain_window).await;
        };
        tokio::select! {
            biased;
            () = cut => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let timer = sleep_until(self.timer_at());
        tokio::pin!(timer);
        let end = loop {
            if timer.deadline() != self.timer_at() {
                timer.as_mut().reset(self.timer_at());
            }
            let step = tokio::select! {
                biased;
                (session, found) = running(&mut self.running) => Step::Answered(session, found),
                () = self.shared.stop.cancelled(), if self.close_at.is_none() => Step::Stopping,
                message = self.socket.next(), if self.running.is_none() && self.held_until.is_none() => {
                    Step::Received(message)
                }
                result = self.inbox.next(&mut self.deliveries), if !self.is_hub_closed => {
                    Step::Delivered(result)
                }
                () = timer.as_mut() => Step::Timer,
            };
            if let Err(end) = self.step(step).await {
                break end;
            }
        };
        Box::pin(self.finish(end)).await;
    }

    async fn step(&mut self, step: Step) -> Result<(), End> {
        match step {
            Step::Answered(session, found) => {
                self.running = None;
                self.session = Some(session);
                match found {
                    Found::Answers(answers) => self.write(answers).await,
                    Found::Ticket { id, user_id } => self.authenticate(id, user_id).await,
                }
            }
            Step::Stopping => {
                self.plan_close();
                Ok(())
            }
            // The hub has nothing to say any more; the socket ends as on a stop.
            Step::Delivered(Err(Error::ShuttingDown { .. })) => {
                self.is_hub_closed = true;
                self.plan_close();
                Ok(())
            }
            Step::Delivered(Err(Error::LimitExceeded { .. })) => Err(close::SLOW_READER.into()),
            Step::Delivered(Err(_)) => Err(close::HISTORY_UNAVAILABLE.into()),
            Step::Received(None) => Err(End::Left),
            Step::Received(Some(message)) => self.receive(message?).await,
            Step::Delivered(Ok(())) => {
                let deliveries = std::mem::take(&mut self.deliveries);
                let events = deliveries.iter().map(|delivery| delivery.event.event());
                let _pushing: Vec<_> = events.filter_map(span::push).collect();
                self.write(deliveries.iter().map(frame::push)).await
            }
            Step::Timer => self.tick().await,
        }
    }

    fn timer_at(&self) -> Instant {
        let others = [self.close_at, self.held_until].into_iter().flatten();
        others.fold(self.heartbeat_at, Instant::min)
    }

    /// Picks the moment to say goodbye, spread so that the clients do not all come back at
    /// once, over no more time than that takes and the drain window has. Until then the
    /// socket works as before.
    fn plan_close(&mut self) {
        let n_open = u32::try_from(self.shared.admission.n_open()).unwrap_or(u32::MAX);
        let config = &self.shared.config;
        let latest = config
            .drain_window
            .saturating_sub(CLOSE_TIMEOUT)
            .min(config.goodbye_spacing.saturating_mul(n_open.max(1)));
        self.close_at
            .get_or_insert_with(|| Instant::now() + latest.mul_f64(rand::random()));
    }

    /// The timer has come: time to close or to read on, a ping is due, or a pong is overdue.
    async fn tick(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.close_at.is_some_and(|at| at <= now) {
            return Err(restarting());
        }
        if self.held_until.take_if(|at| *at <= now).is_some() {
            return Ok(());
        }
        let config = &self.shared.config;
        let pong_at = now + config.pong_timeout;
        if !self.is_awaiting_pong {
            self.is_awaiting_pong = true;
            self.heartbeat_at = pong_at;
            return self.write([Message::Ping(bytes::Bytes::new())]).await;
        }
        if self.running.is_some() || self.held_until.is_some() {
            // The pong may wait behind other messages; nobody has looked.
            self.heartbeat_at = pong_at;
            return Ok(());
        }
        Err(close::PONG_TIMEOUT.into())
    }

    /// Takes a message. Whatever it is, it shows that the client is alive.
    async fn receive(&mut self, message: Message) -> Result<(), End> {
        self.shared.stats.received.inc();
        let now = Instant::now();
        if self.is_awaiting_pong {
            self.is_awaiting_pong = false;
            self.heartbeat_at = now + self.shared.config.ping_interval;
        }
        self.held_until = self.rate.count(1, now);
        match message {
            Message::Text(text) => self.obey(text.as_str()).await,
            Message::Binary(_) => Err(close::UNSUPPORTED_DATA.into()),
            Message::Close(_) => Err(End::Left),
            // Pings are answered by the protocol.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn obey(&mut self, text: &str) -> Result<(), End> {
        let command = match command::parse(text) {
            Ok(command) => command,
            Err(refusal) => {
                return self
                    .write([frame::error(refusal.id, None, &refusal.error)])
                    .await;
            }
        };
        let (id, action) = match command {
            Command::SubscribeBare(order_id) => {
                self.may_authenticate = false;
                self.start(Lookup::Bare(order_id));
                return Ok(());
            }
            Command::Numbered { id, action } => (id, action),
        };
        match action {
            Action::Subscribe { order_id, since } => {
                self.may_authenticate = false;
                let order = WatchOrder { order_id, since };
                self.start(Lookup::Order { id, order });
            }
            Action::SubscribeMany(orders) => {
                self.may_authenticate = false;
                // Read together they cost less than one by one, but not nothing.
                let n_messages =
                    u32::try_from(orders.len()).unwrap_or(u32::MAX) / ORDERS_PER_MESSAGE;
                self.held_until = self.rate.count(n_messages, Instant::now());
                self.start(Lookup::Orders { id, orders });
            }
            Action::SubscribeUser(user_id) => {
                self.may_authenticate = false;
                self.start(Lookup::User { id, user_id });
            }
            Action::Unsubscribe(subject) => {
                if let Some(session) = &mut self.session {
                    match &subject {
                        Subject::Order(order_id) => session.unsubscribe(*order_id),
                        Subject::User(user_id) => session.unsubscribe_user(user_id),
                    };
                }
                return self.write([frame::unsubscribed(id, &subject)]).await;
            }
            Action::Authenticate(ticket) if self.may_authenticate => {
                self.start(Lookup::Ticket { id, ticket });
            }
            Action::Authenticate(_) => {
                let what = "authenticating twice or after the first subscription".to_owned();
                let error = Error::PermissionDenied { what };
                return self.write([frame::error(id, None, &error)]).await;
            }
            Action::Ping => return self.write([frame::pong(id)]).await,
        }
        Ok(())
    }

    fn start(&mut self, lookup: Lookup) {
        // Messages are read only while the session is here.
        if let Some(session) = self.session.take() {
            let shared = Arc::clone(&self.shared);
            self.running = Some(Box::pin(lookup.run(
                shared,
                self.request_id.clone(),
                session,
            )));
        }
    }

    /// Restricts the socket to the user of the ticket, or refuses the ticket. When it is not
    /// known what has become of the ticket, the client may show it again.
    async fn authenticate(
        &mut self,
        id: Option<u64>,
        user_id: Result<UserId, Error>,
    ) -> Result<(), End> {
        let assigned = user_id.and_then(|user_id| {
            self.admitted.assign_to(&user_id)?;
            Ok(user_id)
        });
        match assigned {
            Ok(user_id) => {
                self.may_authenticate = false;
                let answer = frame::authenticated(id, &user_id);
                if let Some(session) = &mut self.session {
                    session.restrict_to(user_id);
                }
                self.write([answer]).await
            }
            Err(error) => {
                self.write([frame::error(id, None, &error)]).await?;
                match error {
                    Error::TicketInvalid => Err(close::TICKET_INVALID.into()),
                    Error::LimitExceeded { .. } => Err(close::TOO_MANY_CONNECTIONS.into()),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Writes messages in one go where they fit the buffer.
    async fn write(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), End> {
        let (socket, sent) = (&mut self.socket, &self.shared.stats.sent);
        let write = async {
            for message in messages {
                socket.feed(message).await?;
                sent.inc();
            }
            socket.flush().await
        };
        match timeout(self.shared.config.write_timeout, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(close::SLOW_READER.into()),
        }
    }

    /// Says goodbye as far as anybody listens.
    async fn finish(&mut self, end: End) {
        // The subscriptions end first: nothing more is delivered to a socket that closes.
        self.session = None;
        self.running = None;
        let labels = CloseLabels { code: end.code() };
        self.shared.stats.closed.get_or_create(&labels).inc();
        if let End::Close(frame) = &end {
            tracing::debug!(
                request.id = %self.request_id,
                close.code = u16::from(frame.code),
                "closing a socket"
            );
        }
        let goodbye = async {
            match end {
                End::Gone => return,
                End::Left => {}
                End::Close(frame) => {
                    if self.socket.close(Some(frame)).await.is_err() {
                        return;
                    }
                }
            }
            // Until the client's own close frame, or the end of what can be understood.
            while let Some(Ok(_)) = self.socket.next().await {}
            discard(self.socket.get_mut()).await;
        };
        // A client that does not answer has had its time.
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }
}

fn restarting() -> End {
    let retry_after_ms = rand::random_range(0..=RETRY_AFTER_MAX_MS);
    let Close { code, reason } = close::RESTARTING;
    End::Close(CloseFrame {
        code: code.into(),
        reason: format!("{reason}; retry_after_ms={retry_after_ms}").into(),
    })
}

/// Waits for the running command, for ever if there is none.
async fn running(command: &mut Option<Running>) -> (Session, Found) {
    match command {
        Some(command) => command.await,
        None => pending().await,
    }
}

/// Reads to the end and throws it away, so that the close frame is not lost in a reset.
async fn discard(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut scratch = [0; 1024];
    let mut n_read = 0;
    while n_read < DISCARD_LEN_MAX {
        match stream.read(&mut scratch).await {
            Ok(0) | Err(_) => return,
            Ok(n) => n_read += n,
        }
    }
}
