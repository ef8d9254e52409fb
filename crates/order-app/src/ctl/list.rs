//! Reading orders page by page.

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use jiff::Timestamp;
use order_core::{Error, ExternalId, ListOrders, OrderStatus, PageSize, UserId};

use super::{client::Client, failure::Failure, output::Output};

/// Which orders.
#[derive(Clone, Debug, Default, Args)]
pub struct Filters {
    /// Only orders of this user.
    #[arg(long)]
    pub user: Option<String>,
    /// Only orders with this status; may be repeated.
    #[arg(long, ignore_case = true, value_parser = status_parser())]
    pub status: Vec<OrderStatus>,
    /// Only orders created after this time, like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub created_after: Option<Timestamp>,
    /// Only orders created before this time.
    #[arg(long, value_name = "TIME")]
    pub created_before: Option<Timestamp>,
    /// Only orders with this name in your own system.
    #[arg(long)]
    pub external_id: Option<String>,
}

/// Arguments of `list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Which orders.
    #[command(flatten)]
    pub filters: Filters,
    /// How many orders at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

pub(super) async fn list(
    client: &Client,
    args: ListArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let limit = if args.all { u64::MAX } else { args.limit };
    let mut pages = Pages::new(args.filters, limit)?;
    while let Some(orders) = pages.next(client).await? {
        for order in &orders {
            output.order_row(order)?;
        }
        output.flush()?;
    }
    Ok(())
}

/// A list of orders, read page by page.
pub(super) struct Pages {
    /// The next page; `None` after the last.
    next: Option<ListOrders>,
    /// How many orders are still wanted.
    wanted: u64,
}

impl Pages {
    /// The first `limit` of the orders that `filters` let through, newest first.
    ///
    /// # Errors
    /// [`Failure::Usage`] if a filter breaks a rule.
    pub(super) fn new(filters: Filters, limit: u64) -> Result<Self, Failure> {
        Ok(Self {
            next: Some(filters.into_list().map_err(Failure::Usage)?),
            wanted: limit,
        })
    }

    /// The next page; `None` after the last.
    pub(super) async fn next(
        &mut self,
        client: &Client,
    ) -> Result<Option<Vec<order_core::Order>>, Failure> {
        let Some(mut list) = self.next.take().filter(|_| self.wanted > 0) else {
            return Ok(None);
        };
        let wanted = i64::try_from(self.wanted).unwrap_or(i64::MAX);
        list.page_size = PageSize::new(wanted)?;
        let page = client
            .api
            .list_orders(&client.context(), list.clone())
            .await?;
        let n_orders = u64::try_from(page.orders.len()).unwrap_or(u64::MAX);
        self.wanted = self.wanted.saturating_sub(n_orders);
        self.next = page.next_page_token.map(|token| ListOrders {
            page_token: Some(token),
            ..list
        });
        Ok(Some(page.orders))
    }
}

impl Filters {
    fn into_list(self) -> Result<ListOrders, Error> {
        let user_id = self.user.as_deref().map(UserId::parse);
        let external_id = self.external_id.as_deref().map(ExternalId::parse);
        Ok(ListOrders {
            user_id: user_id.transpose()?,
            statuses: self.status,
            external_id: external_id.transpose()?,
            created_after: self.created_after,
            created_before: self.created_before,
            ..ListOrders::default()
        })
    }
}

fn status_parser() -> impl clap::builder::TypedValueParser<Value = OrderStatus> {
    PossibleValuesParser::new(OrderStatus::ALL.map(OrderStatus::as_str)).try_map(|name| {
        OrderStatus::parse(&name.to_ascii_uppercase()).ok_or("must be the name of a status")
    })
}
