//! Domain types to messages and back.
//!
//! Messages of requests come from anybody: every rule they break is reported with the path
//! of its field in the message. Messages of answers come from the service: one that breaks
//! a rule is a defect, so the error says only that. Total in the other direction.

mod admin;
mod check;
mod cluster;
mod create;
mod etag;
mod order;
mod record;
mod request;
mod worker;

pub(crate) use admin::{
    dead_letters_from_proto, dead_letters_to_proto, progress_from_proto, progress_to_proto,
    redrive_from_proto, redrive_to_proto,
};
pub(crate) use cluster::{
    cluster_from_proto, cluster_to_proto, process_id_from_proto, process_id_to_proto,
    report_from_proto, report_to_proto,
};
pub(crate) use create::{
    CREATES_MAX, bytes_max, create_from_proto, create_to_proto, creates_from_proto, take_origin,
    with_origin,
};
pub(crate) use order::{
    event_from_proto, event_to_proto, order_from_proto, order_to_proto, page_from_proto,
    ticket_from_proto, ticket_to_proto,
};
pub(crate) use record::{pushes_from_proto, pushes_to_proto, record_from_proto, record_to_proto};
pub(crate) use request::{
    cancel_from_proto, cancel_to_proto, change_id_from_proto, events_from_proto, events_to_proto,
    follow_from_proto, follow_to_proto, list_from_proto, list_to_proto, order_id_from_proto,
    retry_from_proto, retry_to_proto, update_from_proto, update_to_proto, watches_from_proto,
    watches_to_proto,
};
pub(crate) use worker::{
    failures_from_proto, heartbeat_from_proto, job_to_proto, lease_from_proto, token_to_proto,
    tokens_from_proto,
};

#[cfg(test)]
mod tests;
