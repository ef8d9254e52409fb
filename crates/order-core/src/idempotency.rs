//! Keys by which a client repeats a request safely
//! (draft-ietf-httpapi-idempotency-key-header-07).
//!
//! A key commits in the transaction of the request it belongs to, so it exists exactly if
//! the request took effect, and a request that failed really runs again. Nothing of the
//! answer is stored: what a create answered is in the row of the order, and a cancelled
//! order does not move any more.

use std::{fmt, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::{CancelOrder, CreateOrder, Error, ExternalId, OrderId, UserId};

/// A key chosen by a client: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The longest key, in characters.
    pub const CHARS_MAX: usize = 255;

    /// Takes `text` as a key, without any quoting; the error names the field
    /// `idempotency_key`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let is_valid = (1..=Self::CHARS_MAX).contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_graphic());
        if !is_valid {
            return Err(Self::invalid());
        }
        Ok(Self(text.into()))
    }

    /// Takes the value of a header or of gRPC metadata: the string of a Structured Field
    /// (RFC 9651 §3.3.3) or the bare key. Both forms of one key are equal.
    pub fn from_header(value: &str) -> Result<Self, Error> {
        let Some(quoted) = value.strip_prefix('"') else {
            return Self::parse(value);
        };
        let mut key = String::with_capacity(quoted.len());
        let mut chars = quoted.chars();
        loop {
            match chars.next() {
                Some('"') if chars.as_str().is_empty() => return Self::parse(&key),
                Some('\\') => match chars.next() {
                    Some(c @ ('"' | '\\')) => key.push(c),
                    _ => return Err(Self::invalid()),
                },
                Some('"') | None => return Err(Self::invalid()),
                Some(c) => key.push(c),
            }
        }
    }

    /// The key as text, unquoted.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn invalid() -> Error {
        let chars_max = Self::CHARS_MAX;
        Error::invalid(
            "idempotency_key",
            format!("must have 1 to {chars_max} visible ASCII characters"),
        )
    }
}

/// What a key was used for: the same key may be used once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyOperation {
    /// Creating an order.
    CreateOrder = 1,
    /// Cancelling an order.
    CancelOrder = 2,
}

impl KeyOperation {
    /// The code in databases.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// SHA-256 over the meaning of a request: equal for requests that ask for the same,
/// however they are spelled and whichever transport they came by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint as it was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of a wanted order. The id is left out: the first process that sees a request makes
    /// one, another for every repetition.
    pub fn of_create(request: &CreateOrder) -> Self {
        let mut parts = Parts::new(KeyOperation::CreateOrder);
        parts.push(request.user_id.as_str().as_bytes());
        parts.push(request.money.currency().as_bytes());
        parts.push(&request.money.minor_units().to_be_bytes());
        parts.push_optional(request.external_id.as_ref().map(ExternalId::as_str));
        for (name, value) in request.metadata.iter() {
            parts.push(name.as_bytes());
            parts.push(value.as_bytes());
        }
        parts.finish()
    }

    /// Of a wish to cancel. The precondition is left out: it is about the moment of the
    /// first request, not about what is asked for.
    pub fn of_cancel(request: &CancelOrder) -> Self {
        let mut parts = Parts::new(KeyOperation::CancelOrder);
        parts.push(request.order_id.as_uuid().as_bytes());
        parts.push_optional(request.reason.as_deref());
        parts.finish()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…)")
    }
}

/// Hashes parts so that no two lists of parts run together: each is preceded by its length.
struct Parts(Sha256);

impl Parts {
    fn new(operation: KeyOperation) -> Self {
        Self(Sha256::new_with_prefix([operation.code()]))
    }

    fn push(&mut self, part: &[u8]) {
        // No part comes near 2^64 bytes.
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// An absent part differs from an empty one.
    fn push_optional(&mut self, part: Option<&str>) {
        self.0.update([u8::from(part.is_some())]);
        self.push(part.unwrap_or_default().as_bytes());
    }

    fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

/// A key to be stored together with what the request changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClaim {
    /// Whose key it is: two owners may choose the same one.
    pub owner: UserId,
    /// What it is used for.
    pub operation: KeyOperation,
    /// The key.
    pub key: IdempotencyKey,
    /// What the request asks for.
    pub fingerprint: Fingerprint,
    /// How long the key is kept at least, counted by the database's clock.
    pub retention: Duration,
}

/// A key that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// What the request asked for that stored it.
    pub fingerprint: Fingerprint,
    /// The order that request was about.
    pub order_id: OrderId,
}

impl StoredKey {
    /// Whether a request with this fingerprint is a repetition of the one that stored the
    /// key.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`] if it asks for something else.
    pub fn check(&self, fingerprint: Fingerprint) -> Result<(), Error> {
        if self.fingerprint == fingerprint {
            Ok(())
        } else {
            Err(Error::IdempotencyKeyReused)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Metadata, Money};

    #[test]
    fn quoted_and_bare_form_are_one_key() {
        let key =
            |value: &str| IdempotencyKey::from_header(value).map(|key| key.as_str().to_owned());
        assert_eq!(key("8e03978e").ok().as_deref(), Some("8e03978e"));
        assert_eq!(key("\"8e03978e\"").ok().as_deref(), Some("8e03978e"));
        assert_eq!(key(r#""a\"\\b""#).ok().as_deref(), Some(r#"a"\b"#));
        for bad in [
            "", "\"\"", "\"", "\"a", "\"a\"b", "a b", "ä", r#""\a""#, "a\n",
        ] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        assert!(key(&"x".repeat(255)).is_ok());
        assert!(key(&"x".repeat(256)).is_err());
    }

    fn create(user: &str, minor: i64, metadata: &[(String, String)]) -> CreateOrder {
        CreateOrder {
            metadata: Metadata::new(metadata.iter().cloned()).expect("valid"),
            ..CreateOrder::new(
                UserId::parse(user).expect("valid"),
                Money::from_minor_units(minor, "USD").expect("valid"),
            )
        }
    }

    proptest! {
        #[test]
        fn fingerprints_are_equal_exactly_if_requests_are(
            a in ("[ab]{1,2}", 1_i64..3, prop::collection::vec(("[ab]{1,2}", "[ab]{0,2}"), 0..2)),
            b in ("[ab]{1,2}", 1_i64..3, prop::collection::vec(("[ab]{1,2}", "[ab]{0,2}"), 0..2)),
        ) {
            let (a, b) = (create(&a.0, a.1, &a.2), create(&b.0, b.1, &b.2));
            prop_assert_eq!(Fingerprint::of_create(&a) == Fingerprint::of_create(&b), a == b);
        }
    }
}
