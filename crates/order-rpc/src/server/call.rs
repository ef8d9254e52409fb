//! What all handlers do around their work.

use std::{future::Future, sync::Arc};

use order_core::{CallContext, Deadline, Error, RequestId};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};

use crate::{
    GATEWAY_HEADER, convert,
    status::{to_status_of, unknown_request_id},
};

/// The target of the access log, as the filters of operators name it.
pub(super) const ACCESS_LOG: &str = "order_rpc::interceptor::access_log";

/// The longest name of a gateway, in bytes.
const GATEWAY_LEN_MAX: usize = 128;

/// What the pipeline found out about the call.
pub(super) fn context<T>(request: &Request<T>) -> CallContext {
    let extensions = request.extensions();
    CallContext {
        request_id: extensions
            .get::<RequestId>()
            .cloned()
            .unwrap_or_else(unknown_request_id),
        deadline: extensions.get().copied().unwrap_or(Deadline::NONE),
        trace_parent: extensions.get().cloned(),
        change_id: None,
        gateway: request.metadata().get(GATEWAY_HEADER).and_then(gateway),
    }
}

/// The name of the process that took the request from a client; any other value is ignored.
fn gateway(value: &MetadataValue<Ascii>) -> Option<Arc<str>> {
    let is_name = (1..=GATEWAY_LEN_MAX).contains(&value.as_bytes().len());
    let is_printable = value
        .as_bytes()
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~'));
    let name = value.to_str().ok().filter(|_| is_name && is_printable)?;
    Some(name.into())
}

/// The context of a change that the caller may repeat under `change_id`.
pub(super) fn with_change_id(ctx: &CallContext, change_id: &str) -> Result<CallContext, Error> {
    Ok(CallContext {
        change_id: convert::change_id_from_proto(change_id)?,
        ..ctx.clone()
    })
}

/// Answers a call that has no effect the second time with a message.
pub(super) async fn answer<T>(
    ctx: &CallContext,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Response<T>, Status> {
    answer_if(true, ctx, work).await
}

/// Answers a call with a message; `is_idempotent` says whether it has no effect the second time.
pub(super) async fn answer_if<T>(
    is_idempotent: bool,
    ctx: &CallContext,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Response<T>, Status> {
    let answer = work.await.map(Response::new);
    answer.map_err(|error| to_status_of(error, &ctx.request_id, is_idempotent))
}
