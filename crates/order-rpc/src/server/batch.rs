//! Many orders in one call, each answered for itself.

use order_core::{
    CallContext, CreateOrder, Error, OrderApi, Receipt, RequestId, TraceParent,
    span::{Span, SpanKind},
};
use order_edge::batch::log_failures;

use super::call::ACCESS_LOG;
use crate::{
    convert,
    proto::{
        self, batch_create_orders_response::Result as BatchResult,
        batch_create_orders_response::result::Result as BatchItem,
    },
    status::to_batch_status,
};

/// What the batch says about one of its orders, beside the order.
struct Part {
    /// The id of the request of the order, if it shares its call with others.
    request_id: Option<RequestId>,
    is_idempotent: bool,
    span: Span,
}

impl Part {
    fn of(ctx: &CallContext, request: &mut proto::CreateOrderRequest) -> Self {
        let is_idempotent = is_idempotent_create(request);
        let (request_id, trace) = match convert::take_origin(request) {
            Some((request_id, trace)) => (Some(request_id), trace),
            None => (None, None),
        };
        let call: Vec<_> = ctx.trace_parent.iter().collect();
        let name = "create order in shared call";
        let mut span = Span::begin_linked(trace.as_ref(), name, SpanKind::Server, &call);
        span.record(|span| {
            span.set_some("request.id", request_id.as_ref().map(ToString::to_string));
        });
        Self {
            request_id,
            is_idempotent,
            span,
        }
    }

    /// Ends the span of the order.
    fn end(&mut self, answer: &Result<Receipt, Error>) {
        std::mem::take(&mut self.span).record(|span| match answer {
            Ok(receipt) => span.set("order.id", receipt.order.id.to_string()),
            Err(error) if error.reason().is_fault() => {
                span.fail(error.reason().grpc_code().as_str());
            }
            Err(error) => span.set("error.type", error.reason().as_str()),
        });
    }

    /// Writes the line of a request that shares its call with others, as the access log does for a
    /// call.
    fn log(&self, answer: &Result<Receipt, Error>) {
        let error = answer.as_ref().err();
        let is_fault = error.is_some_and(|error| error.reason().is_fault());
        if !is_fault && !tracing::enabled!(target: ACCESS_LOG, tracing::Level::INFO) {
            return;
        }
        let Some(request_id) = &self.request_id else {
            return;
        };
        let trace = self.span.position();
        let code = error.map_or("OK", |error| error.reason().grpc_code().as_str());
        // The level has to be a constant of each call site.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: ACCESS_LOG,
                    $level,
                    rpc.response.status_code = code,
                    request.id = request_id.as_str(),
                    trace.id = trace.map(TraceParent::trace_id),
                    span.id = trace.map(TraceParent::span_id),
                    order.id = answer.as_ref().ok().map(|r| tracing::field::display(r.order.id)),
                    error = error.map(Error::chain),
                    "order of a shared call finished"
                )
            };
        }
        if is_fault {
            line!(tracing::Level::ERROR);
        } else {
            line!(tracing::Level::INFO);
        }
    }
}

/// Creates the orders of a batch that are valid.
pub(super) async fn create_batch(
    api: &dyn OrderApi,
    ctx: &CallContext,
    mut requests: Vec<proto::CreateOrderRequest>,
) -> Result<proto::BatchCreateOrdersResponse, Error> {
    let part = |request| Part::of(ctx, request);
    let mut parts: Vec<Part> = requests.iter_mut().map(part).collect();
    let mut requests = convert::creates_from_proto(requests)?;
    for (part, request) in parts.iter().zip(&mut requests) {
        if let Ok(request) = request {
            let shares_call = part.request_id.is_some();
            let call = ctx.trace_parent.as_ref().filter(|_| !shares_call);
            request.trace_parent = part.span.position().or(call).cloned();
            request.request_id.clone_from(&part.request_id);
        }
    }
    let (valid, refused) = split(requests);
    let created = api.create_orders(ctx, valid).await;
    let answers = merge(
        created.inspect_err(|error| {
            let failed = Err(error.without_source());
            for part in &parts {
                part.log(&failed);
            }
        })?,
        refused,
    );
    let unnamed = parts.iter().zip(&answers);
    let unnamed = unnamed.filter(|(part, answer)| answer.is_err() && part.request_id.is_none());
    log_failures(ctx, unnamed.map(|(_, answer)| answer));
    let n_parts = answers.len();
    let results = parts.iter_mut().zip(answers).map(|(part, answer)| {
        part.log(&answer);
        part.end(&answer);
        match answer {
            Ok(Receipt { order, is_replayed }) => BatchResult {
                result: Some(BatchItem::Order(convert::order_to_proto(order))),
                replayed: is_replayed,
            },
            Err(error) => {
                let request_id = part.request_id.as_ref().unwrap_or(&ctx.request_id);
                let status = to_batch_status(error, request_id, n_parts, part.is_idempotent);
                BatchResult {
                    result: Some(BatchItem::Error(status)),
                    replayed: false,
                }
            }
        }
    });
    Ok(proto::BatchCreateOrdersResponse {
        results: results.collect(),
    })
}

/// Whether the caller gave the order an id or a key, by which a repetition is recognised.
pub(super) fn is_idempotent_create(request: &proto::CreateOrderRequest) -> bool {
    !(request.order_id.is_empty() && request.idempotency_key.is_empty())
}

/// Takes the refused requests out, each with its position.
fn split(requests: Vec<Result<CreateOrder, Error>>) -> (Vec<CreateOrder>, Vec<(usize, Error)>) {
    let mut valid = Vec::with_capacity(requests.len());
    let mut refused = Vec::new();
    for (n, request) in requests.into_iter().enumerate() {
        match request {
            Ok(request) => valid.push(request),
            Err(error) => refused.push((n, error)),
        }
    }
    (valid, refused)
}

/// Puts what [`split`] took out back at its positions.
fn merge(
    mut answers: Vec<Result<Receipt, Error>>,
    refused: Vec<(usize, Error)>,
) -> Vec<Result<Receipt, Error>> {
    if refused.is_empty() {
        return answers;
    }
    let len = answers.len() + refused.len();
    let mut merged = Vec::with_capacity(len);
    let mut answers = answers.drain(..);
    for (n, error) in refused {
        let before = n.saturating_sub(merged.len());
        merged.extend(answers.by_ref().take(before));
        merged.push(Err(error));
    }
    merged.extend(answers);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(n: u64) -> Error {
        Error::LimitExceeded {
            what: "x".to_owned(),
            limit: n,
        }
    }

    #[test]
    fn refused_requests_come_back_at_their_positions() {
        for refused in [
            vec![],
            vec![0],
            vec![1, 2],
            vec![0, 3, 4],
            vec![0, 1, 2, 3, 4],
        ] {
            let answers = (0..5).filter(|n| !refused.contains(n));
            let answers = answers.map(|n| Err(error(n))).collect();
            let refused = refused
                .iter()
                .map(|n| (usize::try_from(*n).expect("small"), error(*n)))
                .collect();
            let limits: Vec<u64> = merge(answers, refused)
                .into_iter()
                .map(|answer| match answer {
                    Err(Error::LimitExceeded { limit, .. }) => limit,
                    other => panic!("unexpected {other:?}"),
                })
                .collect();
            assert_eq!(limits, [0, 1, 2, 3, 4]);
        }
    }
}
