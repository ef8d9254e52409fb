//! Which addresses may be connected to.
//!
//! A name can be made to point anywhere, also into the network of the operator. So what a
//! name resolves to is checked, and the connection goes to the checked addresses and to no
//! others (OWASP, "Server-Side Request Forgery Prevention").

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use order_core::IpNetwork;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The IPv4 networks without public endpoints (IANA special-purpose registry, RFC 6890),
/// and one that a cloud answers for itself.
const NOT_PUBLIC_V4: &[IpNetwork] = &[
    IpNetwork::v4([0, 0, 0, 0], 8),
    IpNetwork::v4([10, 0, 0, 0], 8),
    // Shared by carriers (RFC 6598); some clouds have their metadata here.
    IpNetwork::v4([100, 64, 0, 0], 10),
    IpNetwork::v4([127, 0, 0, 0], 8),
    // Link-local, with the metadata of most clouds at 169.254.169.254.
    IpNetwork::v4([169, 254, 0, 0], 16),
    IpNetwork::v4([172, 16, 0, 0], 12),
    IpNetwork::v4([192, 0, 0, 0], 24),
    IpNetwork::v4([192, 0, 2, 0], 24),
    IpNetwork::v4([192, 88, 99, 0], 24),
    IpNetwork::v4([192, 168, 0, 0], 16),
    IpNetwork::v4([198, 18, 0, 0], 15),
    IpNetwork::v4([198, 51, 100, 0], 24),
    IpNetwork::v4([203, 0, 113, 0], 24),
    // Multicast, reserved, broadcast.
    IpNetwork::v4([224, 0, 0, 0], 3),
    // A public address at which Azure answers its own machines.
    IpNetwork::v4([168, 63, 129, 16], 32),
];

/// Where public IPv6 addresses are. Loopback, unique-local (with the metadata of AWS at
/// `fd00:ec2::254`), link-local and multicast addresses are outside.
const PUBLIC_V6: IpNetwork = IpNetwork::v6([0x2000, 0, 0], 3);

/// Parts of [`PUBLIC_V6`] without public endpoints, or with IPv4 addresses inside.
const NOT_PUBLIC_V6: &[IpNetwork] = &[
    // Protocol assignments, among them the tunnels of Teredo.
    IpNetwork::v6([0x2001, 0, 0], 23),
    IpNetwork::v6([0x2001, 0xdb8, 0], 32),
    IpNetwork::v6([0x2002, 0, 0], 16),
    IpNetwork::v6([0x3fff, 0, 0], 20),
];

/// Translates to IPv4 (RFC 6052): the address inside decides.
const NAT64: IpNetwork = IpNetwork::v6([0x64, 0xff9b, 0], 96);

/// Public addresses, and those the operator allows.
#[derive(Clone, Debug)]
pub(super) struct AddressPolicy(Arc<[IpNetwork]>);

impl AddressPolicy {
    pub(super) fn new(allowed: Vec<IpNetwork>) -> Self {
        Self(allowed.into())
    }

    /// Refuses an address that is neither public nor allowed.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), AddressRefused> {
        let meant = unwrap_v4(address);
        let is_allowed = |network: &IpNetwork| network.contains(address) || network.contains(meant);
        if is_public(meant) || self.0.iter().any(is_allowed) {
            Ok(())
        } else {
            Err(AddressRefused(address))
        }
    }
}

/// The address is in a network that is not public and that nobody allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {0} is not public; FULFILMENT_ALLOWED_NETWORKS can allow it")]
pub(super) struct AddressRefused(IpAddr);

fn is_public(address: IpAddr) -> bool {
    let is_in = |networks: &[IpNetwork]| networks.iter().any(|net| net.contains(address));
    match address {
        IpAddr::V4(_) => !is_in(NOT_PUBLIC_V4),
        IpAddr::V6(_) => PUBLIC_V6.contains(address) && !is_in(NOT_PUBLIC_V6),
    }
}

/// The IPv4 address that an IPv6 address stands for, where it does.
fn unwrap_v4(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if NAT64.contains(address) => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        canonical => canonical,
    }
}

/// Looks names up as the system does, and keeps the addresses that may be connected to.
pub(super) struct CheckedResolver(pub(super) AddressPolicy);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            // The port is put in by the connector.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(keep_allowed(&policy, found)?)
        })
    }
}

fn keep_allowed(
    policy: &AddressPolicy,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Addrs, AddressRefused> {
    let mut refused = None;
    let allowed: Vec<_> = found
        .filter(|address| match policy.check(address.ip()) {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        })
        .collect();
    match refused {
        Some(error) if allowed.is_empty() => Err(error),
        _ => Ok(Box::new(allowed.into_iter())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str]) -> AddressPolicy {
        AddressPolicy::new(allowed.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn is_allowed(policy: &AddressPolicy, address: &str) -> bool {
        policy.check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn only_public_addresses_pass() {
        let policy = policy(&[]);
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001::200e",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(is_allowed(&policy, public), "{public}");
        }
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_allowed(&policy, refused), "{refused}");
        }
    }

    #[test]
    fn operator_allows_what_is_not_public() {
        let policy = policy(&["10.1.0.0/16", "127.0.0.1", "fd00:1::/32"]);
        for allowed in ["10.1.255.255", "127.0.0.1", "::ffff:10.1.0.1", "fd00:1::7"] {
            assert!(is_allowed(&policy, allowed), "{allowed}");
        }
        for refused in ["10.2.0.0", "127.0.0.2", "::1", "fd00:2::7"] {
            assert!(!is_allowed(&policy, refused), "{refused}");
        }
        assert!(is_allowed(
            &AddressPolicy::new(vec!["::/0".parse().unwrap()]),
            "::1"
        ));
        assert!(is_allowed(
            &AddressPolicy::new(vec!["0.0.0.0/0".parse().unwrap()]),
            "127.0.0.1"
        ));
    }

    #[test]
    fn name_with_a_public_and_a_private_address_is_pinned_to_the_public_one() {
        let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        let found = [address("10.0.0.1"), address("1.1.1.1")];
        let kept = keep_allowed(&policy(&[]), found.into_iter()).unwrap();
        assert_eq!(kept.collect::<Vec<_>>(), [address("1.1.1.1")]);

        let Err(error) = keep_allowed(&policy(&[]), [address("10.0.0.1")].into_iter()) else {
            panic!("was allowed");
        };
        assert!(
            error
                .to_string()
                .starts_with("address 10.0.0.1 is not public")
        );
    }
}
