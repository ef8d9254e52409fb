//! Reading orders page by page (AIP-158).

use std::time::Duration;

use jiff::Timestamp;

use crate::{Error, ExternalId, Order, OrderId, OrderStatus, PageTokenKey, Room, UserId};

/// How many orders a page holds at most: 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u16);

impl PageSize {
    /// The size of a page when the request names none.
    pub const DEFAULT: Self = Self(50);
    /// The largest page.
    pub const MAX: Self = Self(1000);

    /// Takes the wanted size: 0 is the default, and more than the maximum is the maximum
    /// (AIP-158). A negative size is an error that names the field `page_size`.
    pub fn new(wanted: i64) -> Result<Self, Error> {
        match wanted {
            ..0 => Err(Error::invalid("page_size", "must not be negative")),
            0 => Ok(Self::DEFAULT),
            _ => Ok(u16::try_from(wanted).map_or(Self::MAX, |size| Self(size.min(Self::MAX.0)))),
        }
    }

    /// The size as a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A wanted page, as a client asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOrders {
    /// Only orders of this user.
    pub user_id: Option<UserId>,
    /// Only orders with one of these statuses; empty means any.
    pub statuses: Vec<OrderStatus>,
    /// Only the order with this name in the client's own system; one for each user.
    pub external_id: Option<ExternalId>,
    /// Only orders created after this time.
    pub created_after: Option<Timestamp>,
    /// Only orders created before this time.
    pub created_before: Option<Timestamp>,
    /// How many at most.
    pub page_size: PageSize,
    /// Where to go on, as given by the page before.
    pub page_token: Option<String>,
}

/// One page of orders, newest id first. It ends before it would be longer than
/// [`RESPONSE_BYTES_MAX`](crate::RESPONSE_BYTES_MAX) on any transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderPage {
    /// The orders.
    pub orders: Vec<Order>,
    /// Where the next page begins; absent on the last page, and only there.
    pub next_page_token: Option<String>,
}

/// A wanted page, as a store reads it, by id descending: one range of one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderQuery {
    /// Only orders of this user.
    pub user_id: Option<UserId>,
    /// Only orders with one of these statuses; empty means any.
    pub statuses: Vec<OrderStatus>,
    /// Only orders with this external id.
    pub external_id: Option<ExternalId>,
    /// Only orders whose `created_at` is later.
    pub created_after: Option<Timestamp>,
    /// Only orders whose `created_at` is earlier.
    pub created_before: Option<Timestamp>,
    /// Only orders with a larger id.
    pub after: Option<OrderId>,
    /// Only orders with a smaller id.
    pub before: Option<OrderId>,
    /// How many at most.
    pub limit: usize,
}

/// The orders that a store has read for an [`OrderQuery`] so far. A store that stops as soon as none
/// is missing never holds much more than fits into an answer.
#[derive(Debug)]
pub struct Listing {
    orders: Vec<Order>,
    n_missing: usize,
    room: Room,
}

impl Listing {
    /// An empty listing.
    pub const fn new(query: &OrderQuery) -> Self {
        Self {
            orders: Vec::new(),
            n_missing: query.limit,
            room: Room::beside(0),
        }
    }

    /// How many more orders may be read: none once the limit is reached, or one order more than fits
    /// into an answer has been read.
    pub const fn n_missing(&self) -> usize {
        self.n_missing
    }

    /// Adds the next order.
    pub fn push(&mut self, order: Order) {
        self.n_missing = if self.room.take(order.encoded_len_max()) {
            self.n_missing.saturating_sub(1)
        } else {
            0
        };
        self.orders.push(order);
    }

    /// The orders.
    pub fn into_orders(self) -> Vec<Order> {
        self.orders
    }
}

/// How long before it was stored an order may have got its id, and how far the clock of
/// the process that made the id may be behind the database's.
const ID_BEHIND_MAX: Duration = Duration::from_mins(1);

/// How far the clock of the process that made an id may be ahead of the database's.
const ID_AHEAD_MAX: Duration = Duration::from_secs(5);

impl ListOrders {
    /// The query for this page. It reads one order more than the page holds, which tells
    /// whether another page follows without counting.
    ///
    /// Times are turned into ids, which hold the time at which they were made, so that the
    /// page is one range of an index; the exact times are compared besides.
    pub(crate) fn to_query(&self, key: &PageTokenKey) -> Result<OrderQuery, Error> {
        let page_start = self
            .page_token
            .as_deref()
            .map(|token| key.open(token, self))
            .transpose()?;
        // An external id leads to its orders by itself.
        let by_time = |time: Option<Timestamp>| time.filter(|_| self.external_id.is_none());
        let earliest = by_time(self.created_after).map(|time| {
            let time = time.checked_sub(ID_BEHIND_MAX).unwrap_or(Timestamp::MIN);
            OrderId::floor_at(time)
        });
        let latest = by_time(self.created_before).map(|time| {
            let time = time.checked_add(ID_AHEAD_MAX).unwrap_or(Timestamp::MAX);
            OrderId::floor_at(time)
        });
        Ok(OrderQuery {
            user_id: self.user_id.clone(),
            statuses: self.statuses.clone(),
            external_id: self.external_id.clone(),
            created_after: self.created_after,
            created_before: self.created_before,
            after: earliest,
            before: match (page_start, latest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            limit: usize::from(self.page_size.get()) + 1,
        })
    }

    /// Makes a page of what the query of [`ListOrders::to_query`] returned.
    pub(crate) fn to_page(&self, mut orders: Vec<Order>, key: &PageTokenKey) -> OrderPage {
        let page_size = usize::from(self.page_size.get());
        let len = Room::beside(0)
            .n_fitting(orders.iter().map(Order::encoded_len_max))
            .min(page_size);
        let has_more = orders.len() > len;
        orders.truncate(len);
        let next_page_token = orders
            .last()
            .filter(|_| has_more)
            .map(|last| key.seal(last.id, self));
        OrderPage {
            orders,
            next_page_token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_follows_aip_158() {
        let size = |wanted| PageSize::new(wanted).map(PageSize::get).ok();
        assert_eq!(
            [
                size(-1),
                size(0),
                size(1),
                size(1000),
                size(1001),
                size(i64::MAX)
            ],
            [None, Some(50), Some(1), Some(1000), Some(1000), Some(1000)]
        );
    }

    #[test]
    fn times_become_a_range_of_ids() {
        let time = |text: &str| -> Option<Timestamp> { text.parse().ok() };
        let list = ListOrders {
            created_after: time("2026-01-01T00:00:00Z"),
            created_before: time("2026-01-02T00:00:00Z"),
            ..ListOrders::default()
        };
        let query = list
            .to_query(&PageTokenKey::from_bytes([1; 32]))
            .expect("no token");
        let at = |text| time(text).map(OrderId::floor_at);
        assert_eq!(query.after, at("2025-12-31T23:59:00Z"));
        assert_eq!(query.before, at("2026-01-02T00:00:05Z"));
        let list = ListOrders {
            created_after: Some(Timestamp::MIN),
            created_before: Some(Timestamp::MAX),
            ..ListOrders::default()
        };
        let query = list
            .to_query(&PageTokenKey::from_bytes([1; 32]))
            .expect("no token");
        assert!(query.after < query.before);
    }
}
