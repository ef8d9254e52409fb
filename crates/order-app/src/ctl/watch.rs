//! Following orders, over breaks of the connection and restarts of the service.

use std::{io, time::Duration};

use clap::Args;
use futures_util::StreamExt as _;
use order_core::{Error, OrderEvent, OrderId, Version, WatchOrder};

use super::{
    client::{Backoff, Client, is_transient},
    failure::{Failure, describe},
    output::Output,
};

/// Arguments of `watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// The ids of the orders, at most 100.
    #[arg(required = true, num_args = 1..=100)]
    pub order_ids: Vec<OrderId>,
    /// The last version seen: prints what came after it instead of where the orders stand.
    #[arg(long, value_name = "VERSION")]
    pub since: Option<Version>,
    /// End when every order is PROCESSED, FAILED or CANCELLED.
    #[arg(long)]
    pub until_final: bool,
}

/// When to stop following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// When the program is told to stop.
    Stopped,
    /// When no automatic move leads on from where the orders stand.
    Settled,
}

/// How often in a row the service may be lost before following ends: about five minutes.
const LOSSES_MAX: u32 = 120;

/// A stream that lived this long was a success.
const SUCCESS_AFTER: Duration = Duration::from_secs(10);

pub(super) async fn watch(
    client: &Client,
    args: WatchArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut watches = Vec::with_capacity(args.order_ids.len());
    for order_id in args.order_ids {
        // An order that is named twice is followed once.
        if !watches
            .iter()
            .any(|watch: &WatchOrder| watch.order_id == order_id)
        {
            let since = args.since;
            watches.push(WatchOrder { order_id, since });
        }
    }
    let until = if args.until_final {
        Until::Settled
    } else {
        Until::Stopped
    };
    follow(client, watches, until, output, |output, event| {
        output.event(event)?;
        output.flush()
    })
    .await
}

/// Follows orders and hands over each event once, in the order of its versions.
///
/// A stream that breaks is opened again from the last versions seen, however often it
/// breaks; only the first one must open at once.
///
/// # Errors
/// [`Failure::Service`] for what does not pass by waiting.
pub(super) async fn follow(
    client: &Client,
    watches: Vec<WatchOrder>,
    until: Until,
    output: &mut Output,
    mut on_event: impl FnMut(&mut Output, &OrderEvent) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut followed = Followed::begin(client, watches, until).await?;
    let mut backoff = Backoff::default();
    let mut has_opened = false;
    while !followed.is_done(until) {
        let begin = client.clock.instant();
        let watches = followed.watches();
        let lost = match client.api.watch_orders(&client.context(), watches).await {
            Ok(mut stream) => {
                has_opened = true;
                loop {
                    match stream.next().await {
                        Some(Ok(event)) => {
                            followed.advance(&event);
                            on_event(output, &event)?;
                            if followed.is_done(until) {
                                return Ok(());
                            }
                        }
                        Some(Err(error)) => break error,
                        None => break Error::service_unavailable("the stream has ended"),
                    }
                }
            }
            Err(error) => error,
        };
        if client.clock.instant().duration_since(begin) >= SUCCESS_AFTER {
            backoff.reset();
        }
        if !has_opened || !is_transient(&lost) || backoff.n_failures() >= LOSSES_MAX {
            return Err(lost.into());
        }
        let (message, _) = describe(&lost);
        output.note(format_args!("{message}; watching again"))?;
        client.pause(&mut backoff, &lost).await;
    }
    Ok(())
}

/// How far each order has been followed.
struct Followed(Vec<Position>);

struct Position {
    watch: WatchOrder,
    is_settled: bool,
}

impl Followed {
    async fn begin(
        client: &Client,
        watches: Vec<WatchOrder>,
        until: Until,
    ) -> Result<Self, Failure> {
        let mut positions = Vec::with_capacity(watches.len());
        for watch in watches {
            let mut is_settled = false;
            // An order that was settled at the version last seen has nothing more to tell,
            // and a stream would stay silent for ever.
            if let (Some(since), Until::Settled) = (watch.since, until) {
                let order = client
                    .api
                    .get_order(&client.context(), watch.order_id)
                    .await?;
                is_settled = order.status.is_settled() && order.version <= since;
            }
            positions.push(Position { watch, is_settled });
        }
        Ok(Self(positions))
    }

    /// Where to go on.
    fn watches(&self) -> Vec<WatchOrder> {
        self.0.iter().map(|position| position.watch).collect()
    }

    /// Takes note of an event.
    fn advance(&mut self, event: &OrderEvent) {
        let mut positions = self.0.iter_mut();
        if let Some(position) = positions.find(|p| p.watch.order_id == event.order_id) {
            position.watch.since = Some(event.version);
            position.is_settled = event.status.is_settled();
        }
    }

    fn is_done(&self, until: Until) -> bool {
        until == Until::Settled && self.0.iter().all(|position| position.is_settled)
    }
}
