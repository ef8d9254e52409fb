//! Reading orders page by page (AIP-158).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use crate::{Error, Order, OrderId, OrderStatus, UserId};

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

/// A wanted page, as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOrders {
    /// Only orders of this user.
    pub user_id: Option<UserId>,
    /// Only orders with one of these statuses; empty means any.
    pub statuses: Vec<OrderStatus>,
    /// How many at most.
    pub page_size: PageSize,
    /// Where to go on, as given by the page before.
    pub page_token: Option<String>,
}

/// One page of orders, newest id first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderPage {
    /// The orders.
    pub orders: Vec<Order>,
    /// Where the next page begins; absent on the last page, and only there.
    pub next_page_token: Option<String>,
}

/// A wanted page, as a store reads it: orders with an id below `before`, by id descending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderQuery {
    /// Only orders of this user.
    pub user_id: Option<UserId>,
    /// Only orders with one of these statuses; empty means any.
    pub statuses: Vec<OrderStatus>,
    /// Only orders with a smaller id.
    pub before: Option<OrderId>,
    /// How many at most.
    pub limit: usize,
}

/// Layout of a page token: this byte, the last id of the page, the fingerprint of the filter.
const TOKEN_VERSION: u8 = 1;
const TOKEN_LEN: usize = 1 + 16 + 8;

impl ListOrders {
    /// The query for this page. It reads one row more than the page holds, which tells
    /// whether another page follows without counting.
    pub(crate) fn to_query(&self) -> Result<OrderQuery, Error> {
        let before = self
            .page_token
            .as_deref()
            .map(|token| self.read_token(token))
            .transpose()?;
        Ok(OrderQuery {
            user_id: self.user_id.clone(),
            statuses: self.statuses.clone(),
            before,
            limit: usize::from(self.page_size.get()) + 1,
        })
    }

    /// Makes a page of what the query of [`ListOrders::to_query`] returned.
    pub(crate) fn to_page(&self, mut orders: Vec<Order>) -> OrderPage {
        let page_size = usize::from(self.page_size.get());
        let has_more = orders.len() > page_size;
        orders.truncate(page_size);
        let next_page_token = orders
            .last()
            .filter(|_| has_more)
            .map(|last| self.write_token(last.id));
        OrderPage {
            orders,
            next_page_token,
        }
    }

    fn write_token(&self, last: OrderId) -> String {
        let mut token = Vec::with_capacity(TOKEN_LEN);
        token.push(TOKEN_VERSION);
        token.extend_from_slice(last.as_uuid().as_bytes());
        token.extend_from_slice(&self.filter_fingerprint().to_be_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    fn read_token(&self, token: &str) -> Result<OrderId, Error> {
        let unreadable = || Error::invalid("page_token", "is not a token of this service");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| unreadable())?;
        let bytes: [u8; TOKEN_LEN] = bytes.try_into().map_err(|_| unreadable())?;
        let [version, rest @ ..] = bytes;
        let (id, fingerprint) = rest.split_at(16);
        if version != TOKEN_VERSION {
            return Err(unreadable());
        }
        if fingerprint != self.filter_fingerprint().to_be_bytes() {
            return Err(Error::invalid(
                "page_token",
                "belongs to a list with other filters",
            ));
        }
        Ok(OrderId::from_uuid(
            Uuid::from_slice(id).map_err(|_| unreadable())?,
        ))
    }

    /// FNV-1a of the filter: a token must not go on under another filter. It guards
    /// against mistakes, not against forgery; a forged token only moves the start of the page.
    fn filter_fingerprint(&self) -> u64 {
        let user = self.user_id.iter().flat_map(|user| user.as_str().bytes());
        let mut codes: Vec<u8> = self.statuses.iter().map(|status| status.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        // No UTF-8 text holds the byte 0xff, so it separates the parts.
        user.chain([0xff])
            .chain(codes)
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(user: Option<&str>) -> ListOrders {
        ListOrders {
            user_id: user.map(|user| UserId::parse(user).expect("valid")),
            statuses: vec![OrderStatus::Pending],
            page_size: PageSize::DEFAULT,
            page_token: None,
        }
    }

    #[test]
    fn token_leads_on_under_the_same_filter_only() {
        let id = OrderId::from_uuid(Uuid::from_u128(7));
        let token = list(Some("a")).write_token(id);
        assert_eq!(list(Some("a")).read_token(&token).ok(), Some(id));
        for other in [
            list(Some("b")),
            list(None),
            ListOrders {
                statuses: vec![],
                ..list(Some("a"))
            },
        ] {
            assert!(other.read_token(&token).is_err());
        }
        for bad in ["", "x", "AAAA", "ÿ"] {
            assert!(list(None).read_token(bad).is_err(), "{bad}");
        }
    }

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
}
