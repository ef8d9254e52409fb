//! Many orders in one call, each answered for itself.

use order_core::{CallContext, CreateOrder, Error, OrderApi, Receipt};

use super::call::log_failures;
use crate::{
    convert,
    proto::{
        self, batch_create_orders_response::Result as BatchResult,
        batch_create_orders_response::result::Result as BatchItem,
    },
    status::to_batch_status,
};

/// Creates the orders of a batch that are valid.
pub(super) async fn create_batch(
    api: &dyn OrderApi,
    ctx: &CallContext,
    requests: Vec<proto::CreateOrderRequest>,
) -> Result<proto::BatchCreateOrdersResponse, Error> {
    let are_idempotent: Vec<bool> = requests.iter().map(is_idempotent_create).collect();
    let requests = convert::creates_from_proto(requests)?;
    let (valid, refused) = split(requests);
    let answers = api.create_orders(ctx, valid).await?;
    log_failures(ctx, &answers);
    let answers = merge(answers, refused);
    let n_parts = answers.len();
    let result = |(answer, is_idempotent)| match answer {
        Ok(Receipt { order, is_replayed }) => BatchResult {
            result: Some(BatchItem::Order(convert::order_to_proto(order))),
            replayed: is_replayed,
        },
        Err(error) => BatchResult {
            result: Some(BatchItem::Error(to_batch_status(
                error,
                &ctx.request_id,
                n_parts,
                is_idempotent,
            ))),
            replayed: false,
        },
    };
    let answers = answers.into_iter().zip(are_idempotent);
    let results = answers.map(result).collect();
    Ok(proto::BatchCreateOrdersResponse { results })
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
