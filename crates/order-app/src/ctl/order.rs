//! Commands about one order: create, cancel and retry.

use std::time::Duration;

use clap::Args;
use order_core::{
    CancelOrder, CreateFields, CreateOrder, Error, IdempotencyKey, IfMatch, Money, Order, OrderId,
    RetryOrder, Version, WatchOrder,
};

use super::{
    client::Client,
    failure::Failure,
    output::Output,
    watch::{Until, follow},
};

/// Arguments of `create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// Who places the order.
    #[arg(long)]
    pub user: String,
    /// What it is worth, as a decimal number like 100 or 99.95.
    #[arg(long, allow_hyphen_values = true)]
    pub amount: String,
    /// The ISO 4217 code of the currency.
    #[arg(long, default_value = Money::CURRENCY_DEFAULT)]
    pub currency: String,
    /// Something to attach to the order; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_entry)]
    pub metadata: Vec<(String, String)>,
    /// The name of the order in your own system, unique among the orders of the user.
    #[arg(long)]
    pub external_id: Option<String>,
    /// Makes repeating the command safe: the same key and content give the same order.
    #[arg(long)]
    pub idempotency_key: Option<String>,
    /// Wait until the order is processed, failed or cancelled, for this many seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "30",
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub wait: Option<u32>,
}

/// Arguments of `cancel`.
#[derive(Clone, Debug, Args)]
pub struct CancelArgs {
    /// The id of the order.
    pub order_id: OrderId,
    /// Why, in your words.
    #[arg(long)]
    pub reason: Option<String>,
    /// Only if the order is at this version.
    #[arg(long, value_name = "VERSION")]
    pub if_match: Option<Version>,
    /// Makes repeating the command safe: the same key and content give the same answer.
    #[arg(long)]
    pub idempotency_key: Option<String>,
}

/// Arguments of `retry`.
#[derive(Clone, Copy, Debug, Args)]
pub struct RetryArgs {
    /// The id of the order.
    pub order_id: OrderId,
    /// Only if the order is at this version.
    #[arg(long, value_name = "VERSION")]
    pub if_match: Option<Version>,
}

pub(super) async fn create(
    client: &Client,
    args: CreateArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let wait = args.wait.map(|seconds| Duration::from_secs(seconds.into()));
    let mut request = to_request(args).map_err(Failure::Usage)?;
    // With an id of its own the call can be repeated when the connection breaks.
    request.order_id = Some(client.ids.order_id());
    let receipt = client.api.create_order(&client.context(), request).await?;
    if receipt.is_replayed {
        output.note(format_args!("replayed: the key has made this order before"))?;
    }
    let Some(wait) = wait else {
        return Ok(output.order(&receipt.order)?);
    };
    wait_until_settled(client, receipt.order, wait, output).await
}

pub(super) async fn cancel(
    client: &Client,
    args: CancelArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let key = args.idempotency_key.as_deref().map(IdempotencyKey::parse);
    let request = CancelOrder {
        order_id: args.order_id,
        reason: args.reason,
        if_match: to_if_match(args.if_match),
        idempotency_key: key.transpose().map_err(Failure::Usage)?,
    };
    let receipt = client.api.cancel_order(&client.context(), request).await?;
    if receipt.is_replayed {
        output.note(format_args!(
            "replayed: the key has cancelled this order before"
        ))?;
    }
    Ok(output.order(&receipt.order)?)
}

pub(super) async fn retry(
    client: &Client,
    args: RetryArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let request = RetryOrder {
        order_id: args.order_id,
        if_match: to_if_match(args.if_match),
    };
    let order = client.api.retry_order(&client.context(), request).await?;
    Ok(output.order(&order)?)
}

/// Follows the order to where no automatic move leads on, and prints it. If that takes too
/// long the order is printed as it stands.
async fn wait_until_settled(
    client: &Client,
    order: Order,
    wait: Duration,
    output: &mut Output,
) -> Result<(), Failure> {
    let watch = WatchOrder {
        order_id: order.id,
        since: Some(order.version),
    };
    let in_time = tokio::select! {
        followed = follow(client, vec![watch], Until::Settled, output, |_, _| Ok(())) => {
            followed?;
            true
        }
        () = client.clock.sleep(wait) => false,
    };
    let order = client.api.get_order(&client.context(), order.id).await?;
    output.order(&order)?;
    if in_time || order.status.is_settled() {
        return Ok(());
    }
    Err(Error::DeadlineExceeded.into())
}

fn to_request(args: CreateArgs) -> Result<CreateOrder, Error> {
    let mut fields = CreateFields::new(args.metadata);
    for (name, text) in [
        ("user_id", Some(args.user)),
        ("amount", Some(args.amount)),
        ("currency", Some(args.currency)),
        ("external_id", args.external_id),
        ("idempotency_key", args.idempotency_key),
    ] {
        fields.set(name, text.map(Into::into));
    }
    fields.finish()
}

fn to_if_match(version: Option<Version>) -> Option<IfMatch> {
    version.map(|version| IfMatch::Versions(vec![version]))
}

fn parse_entry(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "must be NAME=VALUE".to_owned())
}
