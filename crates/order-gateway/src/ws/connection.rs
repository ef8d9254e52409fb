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
use order_core::{
    CallContext, Deadline, Error, ErrorKind, OrderId, OrderStatus, RequestId, WatchOrder,
};
use order_hub::{CatchUp, Delivery, Form, Inbox, Session, Subscribed};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::{
    Shared,
    close::{self, Close},
    command::{self, Action, Command},
    frame,
    rate::RateLimit,
};

/// How long a subscription may read the store.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Holds the largest answer, a full replay of about 42 KiB, above what is gathered.
const WRITE_BUFFER_LEN_MAX: usize = 64 * 1024;

/// Why the loop of a connection ended.
enum End {
    /// Nobody is there any more.
    Gone,
    /// The client has said goodbye.
    Left,
    /// The server says goodbye.
    Close(CloseFrame),
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(CloseFrame {
            code: close.code.into(),
            reason: Utf8Bytes::from_static(close.reason),
        })
    }
}

impl From<tungstenite::Error> for End {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Capacity(_) => close::MESSAGE_TOO_BIG.into(),
            tungstenite::Error::Utf8(_) => close::INVALID_TEXT.into(),
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            tungstenite::Error::Protocol(_) => close::PROTOCOL_ERROR.into(),
            tungstenite::Error::WriteBufferFull(_) => close::SLOW_READER.into(),
            // The rest is about the transport, or cannot happen after the handshake.
            _ => Self::Gone,
        }
    }
}

/// A command that reads the store: gives the session back, with the answer if it has one.
type Running = BoxFuture<'static, (Session, Option<Message>)>;

/// What the loop waited for.
enum Step {
    Answered(Session, Option<Message>),
    Stopping,
    Received(Option<Result<Message, tungstenite::Error>>),
    Delivered(Result<(), Error>),
    Timer,
}

/// One socket and what it follows.
pub(super) struct Connection<S> {
    shared: Arc<Shared>,
    request_id: RequestId,
    socket: WebSocketStream<S>,
    /// `None` while `running` has it.
    session: Option<Session>,
    running: Option<Running>,
    inbox: Inbox,
    deliveries: Vec<Delivery>,
    rate: RateLimit,
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
    pub(super) async fn new(
        shared: Arc<Shared>,
        request_id: RequestId,
        stream: S,
        (session, inbox): (Session, Inbox),
    ) -> Self {
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
            heartbeat_at: now + first_ping,
            socket: WebSocketStream::from_raw_socket(stream, Role::Server, Some(socket_config))
                .await,
            shared,
            request_id,
            session: Some(session),
            running: None,
            inbox,
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
                (session, answer) = running(&mut self.running) => Step::Answered(session, answer),
                () = self.shared.stop.cancelled(), if self.close_at.is_none() => Step::Stopping,
                message = self.socket.next(), if self.running.is_none() => Step::Received(message),
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
            Step::Answered(session, answer) => {
                self.running = None;
                self.session = Some(session);
                self.write(answer).await
            }
            Step::Stopping => {
                self.plan_close();
                Ok(())
            }
            // The hub has nothing to say any more; the socket ends as on a stop.
            Step::Delivered(Err(_)) => {
                self.is_hub_closed = true;
                self.plan_close();
                Ok(())
            }
            Step::Received(None) => Err(End::Left),
            Step::Received(Some(message)) => self.receive(message?).await,
            Step::Delivered(Ok(())) => {
                let deliveries = std::mem::take(&mut self.deliveries);
                self.write(deliveries.iter().map(frame::push)).await
            }
            Step::Timer => self.tick().await,
        }
    }

    fn timer_at(&self) -> Instant {
        self.close_at
            .map_or(self.heartbeat_at, |at| at.min(self.heartbeat_at))
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

    /// The timer has come: time to close, a ping is due, or a pong is overdue.
    async fn tick(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.close_at.is_some_and(|at| at <= now) {
            return Err(restarting());
        }
        let config = &self.shared.config;
        let pong_at = now + config.pong_timeout;
        if !self.is_awaiting_pong {
            self.is_awaiting_pong = true;
            self.heartbeat_at = pong_at;
            return self.write([Message::Ping(bytes::Bytes::new())]).await;
        }
        if self.running.is_some() {
            // The pong may wait behind the command; nobody has looked.
            self.heartbeat_at = pong_at;
            return Ok(());
        }
        Err(close::PONG_TIMEOUT.into())
    }

    /// Takes a message. Whatever it is, it shows that the client is alive.
    async fn receive(&mut self, message: Message) -> Result<(), End> {
        let now = Instant::now();
        if self.is_awaiting_pong {
            self.is_awaiting_pong = false;
            self.heartbeat_at = now + self.shared.config.ping_interval;
        }
        if !self.rate.admit(now) {
            return Err(close::FLOODING.into());
        }
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
        match command {
            Command::SubscribeBare(order_id) => {
                let order = WatchOrder {
                    order_id,
                    since: None,
                };
                self.start_subscribe(order, Answer::Bare);
            }
            Command::Numbered { id, action } => match action {
                Action::Subscribe { order_id, since } => {
                    self.start_subscribe(WatchOrder { order_id, since }, Answer::Full { id });
                }
                Action::Unsubscribe(order_id) => {
                    if let Some(session) = &mut self.session {
                        session.unsubscribe(order_id);
                    }
                    return self.write([frame::unsubscribed(id, order_id)]).await;
                }
                Action::Ping => return self.write([frame::pong(id)]).await,
            },
        }
        Ok(())
    }

    fn start_subscribe(&mut self, order: WatchOrder, answer: Answer) {
        // Messages are read only while the session is here.
        let Some(session) = self.session.take() else {
            return;
        };
        let ctx = CallContext {
            request_id: self.request_id.clone(),
            deadline: Deadline::at(self.shared.clock.instant() + READ_TIMEOUT),
        };
        self.running = Some(Box::pin(subscribe(session, ctx, order, answer)));
    }

    /// Writes messages in one go where they fit the buffer.
    async fn write(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), End> {
        let socket = &mut self.socket;
        let write = async {
            for message in messages {
                socket.feed(message).await?;
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

/// How a subscription is answered.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// By the status, and only if there is something to tell.
    Bare,
    /// By everything, under the number of the question.
    Full { id: Option<u64> },
}

async fn subscribe(
    mut session: Session,
    ctx: CallContext,
    order: WatchOrder,
    answer: Answer,
) -> (Session, Option<Message>) {
    let (form, id) = match answer {
        Answer::Bare => (Form::Bare, None),
        Answer::Full { id } => (Form::Full, id),
    };
    let result = timeout(READ_TIMEOUT, session.subscribe(&ctx, order, form))
        .await
        .unwrap_or(Err(Error::DeadlineExceeded));
    let message = match (result, answer) {
        (Ok(subscribed), Answer::Full { id }) => Some(frame::subscribed(id, &subscribed)),
        (Ok(subscribed), Answer::Bare) => first_frame(&subscribed),
        (Err(error), _) => {
            log(&ctx, order.order_id, &error);
            Some(frame::error(id, Some(order.order_id), &error))
        }
    };
    (session, message)
}

/// The first frame of a bare subscription: none while the order is PENDING, because that
/// is what the client expects of a new order anyway.
fn first_frame(subscribed: &Subscribed) -> Option<Message> {
    match &subscribed.catch_up {
        CatchUp::Snapshot(event) if event.status != OrderStatus::Pending => {
            Some(frame::bare(event))
        }
        CatchUp::Snapshot(_) | CatchUp::Replay(_) => None,
    }
}

fn log(ctx: &CallContext, order_id: OrderId, error: &Error) {
    let is_ours = matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Internal
    );
    if is_ours {
        tracing::warn!(
            request.id = %ctx.request_id,
            order.id = %order_id,
            error.chain = error.chain(),
            "subscription failed"
        );
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
async fn running(command: &mut Option<Running>) -> (Session, Option<Message>) {
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
