use std::fmt::Write as _;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const PROXY: &str = "10.0.0.1";

/// The client of a request with these header lines, where 10.0.0.0/8 and `fd00::/8` are trusted.
fn client(peer: &str, lines: &[(&'static str, &str)]) -> String {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(*name, value);
    }
    find(peer, &headers).to_string()
}

fn find(peer: &str, headers: &HeaderMap) -> IpAddr {
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
    TrustedProxies::new(networks.into()).client(peer.parse().unwrap(), headers)
}

fn by_x_forwarded_for(list: &str) -> String {
    client(PROXY, &[("x-forwarded-for", list)])
}

fn by_forwarded(list: &str) -> String {
    client(PROXY, &[("forwarded", list)])
}

#[test]
fn peer_that_is_not_trusted_names_nobody() {
    for peer in ["192.0.2.1", "11.0.0.1", "fe80::1", "::ffff:192.0.2.1"] {
        for name in ["forwarded", "x-forwarded-for"] {
            let lines = [(name, "for=198.51.100.1"), (name, "198.51.100.1")];
            assert_eq!(client(peer, &lines), peer);
        }
    }
    let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.1"))]);
    let peer = PROXY.parse().unwrap();
    assert_eq!(TrustedProxies::default().client(peer, &headers), peer);
}

#[test]
fn rightmost_address_that_is_no_proxy_is_the_client() {
    for (list, expected) in [
        ("192.0.2.1", "192.0.2.1"),
        // The first was sent by the client.
        ("198.51.100.9, 192.0.2.1", "192.0.2.1"),
        ("198.51.100.9, 192.0.2.1, 10.9.9.9,fd00::1", "192.0.2.1"),
        // All are trusted: the first of them sent the request.
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, ::ffff:10.0.0.2", "192.0.2.1"),
        (" ,, 192.0.2.1\t , ,", "192.0.2.1"),
        ("", PROXY),
        (" , ,", PROXY),
    ] {
        assert_eq!(by_x_forwarded_for(list), expected, "{list}");
    }
    assert_eq!(client(PROXY, &[]), PROXY);
    let mapped = client("::ffff:10.0.0.1", &[("x-forwarded-for", "192.0.2.1")]);
    assert_eq!(mapped, "192.0.2.1");
}

#[test]
fn lines_are_one_list() {
    let lines = |name| {
        [
            (name, "for=198.51.100.9"),
            (name, "for=192.0.2.1, for=10.0.0.3"),
            (name, "for=10.0.0.2"),
        ]
    };
    assert_eq!(client(PROXY, &lines("forwarded")), "192.0.2.1");
    let lines = lines("x-forwarded-for").map(|(name, list)| (name, list.replace("for=", "")));
    let lines = lines.each_ref().map(|(name, list)| (*name, list.as_str()));
    assert_eq!(client(PROXY, &lines), "192.0.2.1");
}

#[test]
fn headers_that_disagree_are_not_believed() {
    let by = |x_forwarded_for| {
        let lines = [
            ("x-forwarded-for", x_forwarded_for),
            ("forwarded", "for=198.51.100.9, for=192.0.2.1"),
        ];
        client(PROXY, &lines)
    };
    assert_eq!(by("203.0.113.7, 192.0.2.1"), "192.0.2.1");
    // One of them was made up by the client.
    assert_eq!(by("203.0.113.7"), PROXY);
    assert_eq!(by("unknown"), PROXY);
}

#[test]
fn elements_of_forwarded_are_read_as_rfc_7239_writes_them() {
    for (list, expected) in [
        ("for=192.0.2.1;proto=http;by=203.0.113.43", "192.0.2.1"),
        ("by=203.0.113.43 ; FOR=192.0.2.1", "192.0.2.1"),
        (r#"For="[2001:db8:cafe::17]:4711""#, "2001:db8:cafe::17"),
        (r#"for="[2001:db8:cafe::17]""#, "2001:db8:cafe::17"),
        (r#"for="192.0.2.1:47011""#, "192.0.2.1"),
        (r#"for=192.0.2.1, for="[fd00::1]:_hidden""#, PROXY),
        (r#"for=192.0.2.1, for="[fd00::1]:80""#, "192.0.2.1"),
        // Separators in a quoted string are none.
        (r#"for=192.0.2.1;host="a, for=198.51.100.9;""#, "192.0.2.1"),
        (
            r#"host="a\", for=198.51.100.9, \"";for=192.0.2.1"#,
            "192.0.2.1",
        ),
        (r#"host="\\";for=192.0.2.1"#, "192.0.2.1"),
        // A quote that the client has opened does not swallow its address.
        (r#"for="198.51.100.9, for=192.0.2.1"#, "192.0.2.1"),
        (r#"for="\, for=192.0.2.1"#, "192.0.2.1"),
    ] {
        assert_eq!(by_forwarded(list), expected, "{list}");
    }
}

#[test]
fn entry_without_an_address_ends_the_chain() {
    for entry in [
        "unknown",
        "_hidden",
        "_SEVKISEK:80",
        "192.0.2.256",
        "192.0.2.1.",
        "192.0.2.1:port",
        "[2001:db8::1",
        "2001:db8::1]",
        "192.0.2.1 198.51.100.1",
        "\u{e4}",
    ] {
        let list = format!("192.0.2.1, {entry}, 10.0.0.2");
        assert_eq!(by_x_forwarded_for(&list), "10.0.0.2", "{list}");
        let list = format!("for=192.0.2.1, for=\"{entry}\", for=10.0.0.2");
        assert_eq!(by_forwarded(&list), "10.0.0.2", "{list}");
    }
    for element in [
        "proto=http",
        "for",
        "for=",
        "for=\"",
        "for=\"\"",
        "for=192.0.2.1;for=192.0.2.1",
        "for=\"192.0.2.1",
        "x-for=192.0.2.1",
    ] {
        let list = format!("{element}, for=10.0.0.2");
        assert_eq!(by_forwarded(&list), "10.0.0.2", "{list}");
    }
}

#[test]
fn only_the_end_of_a_long_chain_is_read() {
    let chain = |n: usize| {
        let mut list = "192.0.2.1".to_owned();
        for _ in 0..n {
            write!(list, ", 10.0.0.2").unwrap();
        }
        by_x_forwarded_for(&list)
    };
    assert_eq!(chain(CHAIN_LEN_MAX - 1), "192.0.2.1");
    assert_eq!(chain(CHAIN_LEN_MAX), "10.0.0.2");
    assert_eq!(chain(10_000), "10.0.0.2");
    assert_eq!(by_x_forwarded_for(&",".repeat(10_000)), PROXY);
}

proptest! {
    /// Whatever a client sends, in either header, a proxy adds its address after that.
    #[test]
    fn client_changes_nothing_about_its_address(
        sent in "[ -~]{0,40}|[0-9a-f:.,\"\\\\=;for \\[\\]]{0,40}",
        address: [u8; 4],
        is_own_line: bool,
    ) {
        let address = IpAddr::from(address);
        prop_assume!(!address.to_string().starts_with("10."));
        for (name, added) in [
            ("x-forwarded-for", format!("{address}, 10.0.0.2")),
            ("forwarded", format!("for={address};host=\"a,b\", for=10.0.0.2")),
        ] {
            let joined = format!("{sent}, {added}");
            let lines = if is_own_line { vec![sent.as_str(), &added] } else { vec![joined.as_str()] };
            let lines: Vec<_> = lines.into_iter().map(|line| (name, line)).collect();
            prop_assert_eq!(client(PROXY, &lines), address.to_string());
        }
    }

    /// Nothing that a proxy passes on breaks the reader.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(32_u8.., 0..200), is_forwarded: bool) {
        let name = if is_forwarded { FORWARDED } else { X_FORWARDED_FOR };
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            find(PROXY, &HeaderMap::from_iter([(name, value)]));
        }
    }
}
