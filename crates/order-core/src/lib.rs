//! The domain of the order system: what an order is, how it moves, and what the
//! outside must provide.
//!
//! Nothing here knows HTTP, gRPC, SQL or a clock. Decisions are pure functions
//! ([`decide`]), effects go through the traits in [`port`], and every transport
//! speaks to one trait, [`OrderApi`]. The `sync` part of tokio is used for queues
//! between tasks; this crate spawns nothing and does no I/O.

pub mod admin;
pub mod api;
mod backlog;
pub mod broker;
mod cluster;
pub mod contention;
mod currency;
mod error;
pub mod event;
pub mod group_commit;
mod id;
mod idempotency;
mod in_progress;
pub mod intake;
pub mod job;
pub mod list;
mod metadata;
pub mod metrics;
mod money;
mod network;
mod order;
pub mod outbox;
pub mod overview;
mod page_token;
pub mod port;
pub mod processor;
mod reason;
mod record;
mod response;
mod service;
pub mod span;
mod status;
pub mod supervisor;
mod ticket;
mod trace;
pub mod violations;
pub mod visible;
pub mod worker_api;

pub use admin::{
    AdminApi, AdminStore, DeadLetterFilter, DeadLetterGroup, Redrive, RedriveEnd, RedriveProgress,
    RedriveStream,
};
pub use api::{
    CallContext, CancelOrder, CreateOrder, Deadline, IfMatch, OrderApi, Receipt, RetryOrder,
    UpdateStatus, WatchOrder,
};
pub use backlog::Backlog;
pub use broker::{
    BrokerError, EventReceiver, EventTransport, HintCapabilities, HintConsumer, HintQueue, Topic,
    TopicChange,
};
pub use cluster::{
    ClusterState, Directive, Figures, Identity, ProcessId, ProcessReport, ProcessState,
};
pub use error::{BoxError, Error, SharedError, Violation, error_chain};
pub use event::{EventPage, ListEvents, OrderEvent, OrderEventStream, OrderState};
pub use id::{ExternalId, OrderId, RequestId, UserId};
pub use idempotency::{Fingerprint, IdempotencyKey, KeyClaim, KeyOperation, StoredKey};
pub use in_progress::wait_while_in_progress;
pub use intake::CreateFields;
pub use job::{
    Completed, Completion, Extended, Job, JobToken, RetryPolicy, Start, Started, Verdict,
};
pub use list::{ListOrders, Listing, OrderPage, OrderQuery, PageSize};
pub use metadata::Metadata;
pub use money::Money;
pub use network::{IpNetwork, NetworkError};
pub use order::{Cause, Committed, Created, Insertion, NewOrder, Order, Version};
pub use outbox::{EventOutbox, EventSink, OutboxEntry};
pub use page_token::PageTokenKey;
pub use port::{
    Clock, EventBus, Follower, IdGen, JobDispatch, JobQueue, OrderFollow, OrderReads, OrderStore,
    OrderWatch, Reservation,
};
pub use processor::{Attempt, Effects, Outcome, Processor};
pub use reason::{GrpcCode, Reason, Repeat};
pub use record::{
    AttemptOutcome, AttemptRecord, JobRecord, JobState, OrderRecord, Origin, Push, PushRecord,
};
pub use response::{RESPONSE_BYTES_MAX, Room};
pub use service::{Admin, OrderService, OrderServiceConfig, OrderServiceDeps};
pub use status::{Change, Command, JobEffect, OrderStatus, TRANSITIONS, Transition, decide};
pub use ticket::{
    NewTicket, StreamTicket, TICKET_LIFETIME, TicketGrant, TicketOffice, TicketSecret,
};
pub use trace::TraceParent;
pub use violations::Violations;
pub use worker_api::{JobReport, LeaseJobs, LeasedJob, WorkerApi};
