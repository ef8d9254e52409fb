//! Networks of IP addresses, as operators name them in settings.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network in CIDR notation: `10.1.0.0/16`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork {
    address: IpAddr,
    prefix_len: u8,
}

impl IpNetwork {
    /// An IPv4 network; the bits after the prefix must not be set.
    pub const fn v4(octets: [u8; 4], prefix_len: u8) -> Self {
        let [a, b, c, d] = octets;
        Self {
            address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            prefix_len,
        }
    }

    /// An IPv6 network, by the first 48 bits of its address; the bits after the prefix must not be set.
    pub const fn v6(head: [u16; 3], prefix_len: u8) -> Self {
        let [a, b, c] = head;
        Self {
            address: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)),
            prefix_len,
        }
    }

    /// Whether `address` is in the network. An IPv4 address is in no IPv6 network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u32::from(network) ^ u32::from(address);
                differing.leading_zeros() >= u32::from(self.prefix_len)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                differing.leading_zeros() >= u32::from(self.prefix_len)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for IpNetwork {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || NetworkError("must be networks like 10.1.0.0/16 or fd00::/8");
        let (address, prefix_len) = match text.trim().split_once('/') {
            Some((address, prefix_len)) => (address, Some(prefix_len)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let (bits, n_trailing_zeros) = match address {
            IpAddr::V4(v4) => (32, v4.to_bits().trailing_zeros()),
            IpAddr::V6(v6) => (128, v6.to_bits().trailing_zeros()),
        };
        let prefix_len = match prefix_len {
            Some(digits) => digits.parse().map_err(|_| form())?,
            None => bits,
        };
        if prefix_len > bits {
            return Err(NetworkError(
                "must have prefixes of at most 32 bits, or 128 in IPv6",
            ));
        }
        if u32::from(bits - prefix_len) > n_trailing_zeros {
            return Err(NetworkError("must have no bits set after the prefix"));
        }
        Ok(Self {
            address,
            prefix_len,
        })
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// The text is no network; the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(&'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_is_read_strictly() {
        for (text, rule) in [
            ("", "like 10.1.0.0/16"),
            ("10.1.0.0/", "like 10.1.0.0/16"),
            ("10.1/16", "like 10.1.0.0/16"),
            ("10.1.0.0/16/8", "like 10.1.0.0/16"),
            ("10.0.0.0/33", "at most 32 bits"),
            ("fd00::/129", "at most 32 bits"),
            ("10.1.0.1/16", "no bits set"),
        ] {
            let error = text.parse::<IpNetwork>().unwrap_err().to_string();
            assert!(error.starts_with("must "), "{error}");
            assert!(error.contains(rule), "{text}: {error}");
        }
        let networks = ["10.1.0.0/16", "fd00::/8", "0.0.0.0/0"];
        for text in networks {
            assert_eq!(text.parse::<IpNetwork>().unwrap().to_string(), text);
        }
    }
}
