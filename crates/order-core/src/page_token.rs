//! Page tokens: opaque to clients, sealed, and bound to the filters of their list.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{Error, ListOrders, OrderId};

/// The secret that seals page tokens (HMAC-SHA256, RFC 2104). All processes on one database
/// share it, so any of them can go on with a list.
#[derive(Clone, PartialEq, Eq)]
pub struct PageTokenKey([u8; 32]);

/// Layout of a token: this byte, the last id of the page, the fingerprint of the filters,
/// the seal over all that.
const TOKEN_VERSION: u8 = 2;
const FILTER_LEN: usize = 8;
const SEAL_LEN: usize = 16;
const CONTENT_LEN: usize = 1 + 16 + FILTER_LEN;

impl PageTokenKey {
    /// A key from 32 random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The token of the page that follows the order `after` in `list`.
    pub(crate) fn seal(&self, after: OrderId, list: &ListOrders) -> String {
        let mut token = Vec::with_capacity(CONTENT_LEN + SEAL_LEN);
        token.push(TOKEN_VERSION);
        token.extend_from_slice(after.as_uuid().as_bytes());
        token.extend_from_slice(&filter_fingerprint(list));
        let seal = self.mac(&token).finalize().into_bytes();
        token.extend(seal.into_iter().take(SEAL_LEN));
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The order after which the page of `token` begins.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a token that was not sealed here or that belongs to a
    /// list with other filters.
    pub(crate) fn open(&self, token: &str, list: &ListOrders) -> Result<OrderId, Error> {
        let foreign = || Error::invalid("page_token", "is not a token of this service");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| foreign())?;
        let (content, seal) = bytes.split_at_checked(CONTENT_LEN).ok_or_else(foreign)?;
        if seal.len() != SEAL_LEN {
            return Err(foreign());
        }
        // Compares in constant time.
        self.mac(content)
            .verify_truncated_left(seal)
            .map_err(|_| foreign())?;
        let (version, rest) = content.split_first().ok_or_else(foreign)?;
        let (id, filter) = rest.split_at_checked(16).ok_or_else(foreign)?;
        if *version != TOKEN_VERSION {
            return Err(foreign());
        }
        if filter != filter_fingerprint(list) {
            return Err(Error::invalid(
                "page_token",
                "belongs to a list with other filters",
            ));
        }
        let id = Uuid::from_slice(id).map_err(|_| foreign())?;
        Ok(OrderId::from_uuid(id))
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    fn mac(&self, content: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.0).expect("any length is a key");
        mac.update(content);
        mac
    }
}

impl fmt::Debug for PageTokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageTokenKey(…)")
    }
}

/// What a list is filtered by, hashed. The seal keeps a token from being made; this keeps a
/// true one from going on under other filters.
fn filter_fingerprint(list: &ListOrders) -> [u8; FILTER_LEN] {
    let mut hash = Sha256::new();
    let mut push = |part: Option<&[u8]>| {
        hash.update([u8::from(part.is_some())]);
        let part = part.unwrap_or_default();
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    let mut statuses: Vec<u8> = list.statuses.iter().map(|status| status.code()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let micros = |time: jiff::Timestamp| time.as_microsecond().to_be_bytes();
    push(list.user_id.as_ref().map(|id| id.as_str().as_bytes()));
    push(Some(&statuses));
    push(list.external_id.as_ref().map(|id| id.as_str().as_bytes()));
    push(list.created_after.map(micros).as_ref().map(|t| &t[..]));
    push(list.created_before.map(micros).as_ref().map(|t| &t[..]));
    let mut fingerprint = [0; FILTER_LEN];
    for (to, from) in fingerprint.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExternalId, OrderStatus, UserId};

    fn list(user: Option<&str>) -> ListOrders {
        ListOrders {
            user_id: user.map(|user| UserId::parse(user).expect("valid")),
            statuses: vec![OrderStatus::Pending],
            ..ListOrders::default()
        }
    }

    #[test]
    fn token_leads_on_under_the_same_filters_only() {
        let key = PageTokenKey::from_bytes([7; 32]);
        let id = OrderId::from_uuid(Uuid::from_u128(7));
        let token = key.seal(id, &list(Some("a")));
        assert_eq!(key.open(&token, &list(Some("a"))).ok(), Some(id));
        let others = [
            list(Some("b")),
            list(None),
            ListOrders {
                statuses: vec![],
                ..list(Some("a"))
            },
            ListOrders {
                created_after: Some(jiff::Timestamp::UNIX_EPOCH),
                ..list(Some("a"))
            },
            ListOrders {
                external_id: ExternalId::parse("x").ok(),
                ..list(Some("a"))
            },
        ];
        for other in others {
            assert!(key.open(&token, &other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn token_of_another_hand_is_refused() {
        let key = PageTokenKey::from_bytes([7; 32]);
        let id = OrderId::from_uuid(Uuid::from_u128(7));
        let token = key.seal(id, &list(None));
        let other = PageTokenKey::from_bytes([8; 32]);
        assert!(other.open(&token, &list(None)).is_err());
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("ours");
        for (n, _) in bytes.iter().enumerate() {
            let mut tampered = bytes.clone();
            tampered[n] ^= 1;
            let tampered = URL_SAFE_NO_PAD.encode(tampered);
            assert!(key.open(&tampered, &list(None)).is_err(), "byte {n}");
        }
        for bad in ["", "x", "AAAA", "ÿ", &token[1..]] {
            assert!(key.open(bad, &list(None)).is_err(), "{bad}");
        }
    }
}
