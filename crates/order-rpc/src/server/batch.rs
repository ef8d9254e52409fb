//! Many orders in one call, each answered for itself.

use order_core::{CallContext, CreateOrder, Error, OrderApi, Receipt, TraceParent};
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
    origin: convert::Origin,
    is_idempotent: bool,
}

impl Part {
    fn of(request: &mut proto::CreateOrderRequest) -> Self {
        Self {
            is_idempotent: is_idempotent_create(request),
            origin: convert::take_origin(request),
        }
    }

    /// Writes the line of a request that shares its call with others, as the access log does for a
    /// call.
    fn log(&self, answer: &Result<Receipt, Error>) {
        let error = answer.as_ref().err();
        let is_fault = error.is_some_and(|error| error.reason().is_fault());
        if !is_fault && !tracing::enabled!(target: ACCESS_LOG, tracing::Level::INFO) {
            return;
        }
        let Some((request_id, trace)) = self.origin.parse() else {
            return;
        };
        let code = error.map_or("OK", |error| error.reason().grpc_code().as_str());
        // The level has to be a constant of each call site.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: ACCESS_LOG,
                    $level,
                    rpc.response.status_code = code,
                    request.id = request_id.as_str(),
                    trace.id = trace.as_ref().map(TraceParent::trace_id),
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
    let parts: Vec<Part> = requests.iter_mut().map(Part::of).collect();
    let requests = convert::creates_from_proto(requests)?;
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
    let unnamed = unnamed.filter(|(part, answer)| answer.is_err() && part.origin.parse().is_none());
    log_failures(ctx, unnamed.map(|(_, answer)| answer));
    let n_parts = answers.len();
    let results = parts.iter().zip(answers).map(|(part, answer)| {
        part.log(&answer);
        match answer {
            Ok(Receipt { order, is_replayed }) => BatchResult {
                result: Some(BatchItem::Order(convert::order_to_proto(order))),
                replayed: is_replayed,
            },
            Err(error) => {
                let origin = part.origin.parse();
                let request_id =
                    origin.map_or(ctx.request_id.clone(), |(request_id, _)| request_id);
                let status = to_batch_status(error, &request_id, n_parts, part.is_idempotent);
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
