//! The history of an order.

use clap::Args;
use order_core::{ListEvents, OrderId, PageSize, Version};

use super::{client::Client, failure::Failure, output::Output};

/// Arguments of `events`.
#[derive(Clone, Copy, Debug, Args)]
pub struct EventsArgs {
    /// The id of the order.
    pub order_id: OrderId,
    /// Only what came after this version.
    #[arg(long, value_name = "VERSION", default_value_t = 0)]
    pub after: Version,
}

pub(super) async fn events(
    client: &Client,
    args: EventsArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut request = ListEvents {
        order_id: args.order_id,
        after: args.after,
        page_size: PageSize::MAX,
    };
    loop {
        let page = client.api.list_events(&client.context(), request).await?;
        for event in &page.events {
            output.event(event)?;
        }
        output.flush()?;
        match page.events.last() {
            Some(last) if page.has_more => request.after = last.version,
            _ => return Ok(()),
        }
    }
}
