//! The domain of the order system: what an order is, how it moves, and what the
//! outside must provide.
//!
//! Nothing here knows HTTP, gRPC, SQL or a clock. Decisions are pure functions
//! ([`decide`]), effects go through the traits in [`port`], and every transport
//! speaks to one trait, [`OrderApi`]. The `sync` part of tokio is used for queues
//! between tasks; this crate spawns nothing and does no I/O.

pub mod api;
mod error;
pub mod event;
pub mod group_commit;
mod id;
pub mod job;
pub mod list;
mod money;
mod order;
pub mod port;
pub mod processor;
mod service;
mod status;

pub use api::{
    CallContext, CancelOrder, CreateOrder, Deadline, OrderApi, UpdateStatus, WatchOrder,
};
pub use error::{BoxError, Error, ErrorKind, Reason, Retry, Violation};
pub use event::{OrderEvent, OrderEventStream, OrderState};
pub use id::{OrderId, RequestId, UserId};
pub use job::{Completed, Completion, Job, JobToken, RetryPolicy, Started, Verdict};
pub use list::{ListOrders, OrderPage, OrderQuery, PageSize};
pub use money::Money;
pub use order::{Cause, Committed, Created, NewOrder, Order, Version};
pub use port::{
    Clock, EventBus, IdGen, JobDispatch, JobQueue, OrderStore, OrderWatch, Reservation,
};
pub use processor::{Attempt, Effects, Outcome, Processor};
pub use service::{OrderService, OrderServiceConfig, OrderServiceDeps};
pub use status::{Change, Command, JobEffect, OrderStatus, TRANSITIONS, Transition, decide};
