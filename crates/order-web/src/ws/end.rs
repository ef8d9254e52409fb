//! How a socket ends.

use tokio_tungstenite::tungstenite::{
    self, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::close::{self, Close};

/// Why the loop of a connection ended.
pub(super) enum End {
    /// Nobody is there any more.
    Gone,
    /// The client has said goodbye.
    Left,
    /// The server says goodbye.
    Close(CloseFrame),
}

impl End {
    /// The close code for metrics.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Gone => CloseCode::Abnormal.into(),
            Self::Left => CloseCode::Normal.into(),
            Self::Close(frame) => frame.code.into(),
        }
    }
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(CloseFrame {
            code: close.code.into(),
            reason: Utf8Bytes::from_static(close.reason),
        })
    }
}

impl From<tungstenite::Error> for End {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Capacity(_) => close::MESSAGE_TOO_BIG.into(),
            tungstenite::Error::Utf8(_) => close::INVALID_TEXT.into(),
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            tungstenite::Error::Protocol(_) => close::PROTOCOL_ERROR.into(),
            tungstenite::Error::WriteBufferFull(_) => close::SLOW_READER.into(),
            // The rest is about the transport, or cannot happen after the handshake.
            _ => Self::Gone,
        }
    }
}
