//! The addresses of clients behind proxies.

use std::{net::IpAddr, sync::Arc};

use http::{
    HeaderMap, HeaderName,
    header::{AsHeaderName, FORWARDED},
};
use order_core::IpNetwork;

/// The most entries of a header that are read, from its end.
const CHAIN_LEN_MAX: usize = 32;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are trusted to name the addresses of their clients. By default there are none.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<[IpNetwork]>);

impl TrustedProxies {
    /// Trusts the proxies in `networks`.
    pub fn new(networks: Vec<IpNetwork>) -> Self {
        Self(networks.into())
    }

    /// Whether there is a trusted proxy at `address`. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// The address of the client whose request arrives from `peer`: the right-most one of
    /// `Forwarded` or `X-Forwarded-For` that is not a trusted proxy.
    ///
    /// Each proxy adds its peer at the right, so an entry is believed only if all proxies to its
    /// right are trusted. An entry without an address ends the chain. So does the 32nd. Most proxies
    /// write one of the headers and pass on the other, which the client may have made up: if they
    /// disagree, neither is believed.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.contains(peer) {
            return peer;
        }
        let forwarded = headers
            .contains_key(FORWARDED)
            .then(|| self.last_untrusted(peer, entries(headers, FORWARDED), forwarded_for));
        let x_forwarded_for = headers
            .contains_key(X_FORWARDED_FOR)
            .then(|| self.last_untrusted(peer, entries(headers, X_FORWARDED_FOR), address_of));
        match (forwarded, x_forwarded_for) {
            (Some(one), Some(other)) if one != other => peer,
            (one, other) => one.or(other).unwrap_or(peer),
        }
    }

    fn last_untrusted<'a>(
        &self,
        peer: IpAddr,
        entries: impl Iterator<Item = &'a [u8]>,
        address: fn(&[u8]) -> Option<IpAddr>,
    ) -> IpAddr {
        let mut client = peer;
        for entry in entries.take(CHAIN_LEN_MAX) {
            // A list may have empty elements (RFC 9110 §5.6.1).
            if entry.is_empty() {
                continue;
            }
            let Some(address) = address(entry) else {
                break;
            };
            client = address.to_canonical();
            if !self.contains(client) {
                break;
            }
        }
        client
    }
}

/// The entries of a list from its end; several lines are one list (RFC 9110 §5.3).
fn entries(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| split_from_end(line.as_bytes(), b','))
}

/// The `for` of an element of `Forwarded` (RFC 7239 §4), if it is there once and an address.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut nodes = split_from_end(element, b';').filter_map(|pair| {
        let (name, value) = pair.split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    });
    let (node, None) = (nodes.next()?, nodes.next()) else {
        return None;
    };
    let unquoted = node
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    address_of(unquoted.unwrap_or(node))
}

/// An address with or without a port and, if it is IPv6, with or without brackets.
fn address_of(node: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(node).ok()?;
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = inner.unwrap_or(text).parse().ok();
    address.or_else(|| {
        text.parse()
            .ok()
            .map(|node: std::net::SocketAddr| node.ip())
    })
}

/// Splits at each `separator` outside of a quoted string, and trims the parts. From the end,
/// because only that is from a trusted proxy: a quote that a client has opened on the left must
/// not swallow it.
fn split_from_end(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(text);
    std::iter::from_fn(move || {
        let text = left?;
        let (rest, last) = match last_separator(text, separator) {
            Some(at) => (text.get(..at), text.get(at + 1..)?),
            None => (None, text),
        };
        left = rest;
        Some(last.trim_ascii())
    })
}

fn last_separator(text: &[u8], separator: u8) -> Option<usize> {
    let mut is_quoted = false;
    text.iter().enumerate().rposition(|(at, byte)| {
        if *byte == b'"' {
            let before = text.iter().take(at).rev();
            let n_escapes = before.take_while(|byte| **byte == b'\\').count();
            is_quoted ^= n_escapes % 2 == 0;
        }
        *byte == separator && !is_quoted
    })
}

#[cfg(test)]
mod tests;
