//! Tickets with which a browser opens a stream: it cannot send credentials with a
//! WebSocket, and a token in a URL would end up in logs.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{CallContext, Error, UserId};

/// How long a ticket may be redeemed.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);

/// The secret of a ticket. Shown once to the client; the store knows its digest only.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret([u8; 32]);

impl TicketSecret {
    /// A ticket from bytes nobody can guess.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads what [`TicketSecret::to_text`] wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// The ticket as a client carries it: 43 URL-safe characters.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What the store keeps: SHA-256. The secret has 256 random bits, so nothing is gained
    /// from a slow hash.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

/// What a ticket allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketGrant {
    /// Watching this user and the orders of this user, and nothing else.
    pub user_id: UserId,
}

/// A ticket to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTicket {
    /// [`TicketSecret::digest`].
    pub digest: [u8; 32],
    /// What it allows.
    pub grant: TicketGrant,
    /// How long it may be redeemed, by the database's clock.
    pub lifetime: Duration,
}

/// A ticket for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTicket {
    /// The ticket itself.
    pub secret: TicketSecret,
    /// What it allows.
    pub grant: TicketGrant,
    /// When it is worth nothing any more.
    pub expires_at: Timestamp,
}

/// Takes tickets at the entrance of a stream.
#[async_trait]
pub trait TicketOffice: Send + Sync + 'static {
    /// Takes a ticket: from now on it is worth nothing.
    ///
    /// # Errors
    /// [`Error::TicketInvalid`] for one that was never issued, has been redeemed or is too
    /// old; which of these is not told.
    async fn redeem_ticket(&self, ctx: &CallContext, text: &str) -> Result<TicketGrant, Error>;
}
