//! The values in the documents, held against those of the code.

use std::collections::BTreeMap;

use order_core::{
    Cause, ExternalId, IdempotencyKey, Metadata, Money, OrderStatus, PageSize, Reason, RequestId,
    TICKET_LIFETIME, UserId, Version,
};
use order_web::{
    http::HttpConfig,
    ws::{
        WsConfig,
        close::{self, Close},
    },
};
use serde_json::{Value, json};

use crate::{
    schema::{check, follow},
    support::get_json,
};

fn text(part: &Value) -> &str {
    part.as_str().expect("text")
}

/// The OpenAPI document has the values of the code at these places.
#[tokio::test]
async fn limits_of_the_api_are_those_of_the_code() {
    let document = get_json("/openapi.json").await;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let schema = |name: &str| follow(&document, &document["components"]["schemas"][name]);
    let metadata = schema("Metadata");
    for (place, value, expected) in [
        ("user", &schema("UserId")["maxLength"], UserId::CHARS_MAX),
        (
            "external id",
            &schema("ExternalId")["maxLength"],
            ExternalId::CHARS_MAX,
        ),
        (
            "reason",
            &schema("CancelOrderRequest")["properties"]["reason"]["maxLength"],
            Cause::MESSAGE_CHARS_MAX,
        ),
        ("metadata", &metadata["maxProperties"], Metadata::LEN_MAX),
        (
            "names",
            &metadata["propertyNames"]["maxLength"],
            Metadata::NAME_CHARS_MAX,
        ),
        (
            "values",
            &metadata["additionalProperties"]["maxLength"],
            Metadata::VALUE_CHARS_MAX,
        ),
        (
            "version",
            &schema("VersionSeen")["maximum"],
            usize::try_from(Version::MAX).expect("a number"),
        ),
    ] {
        assert_eq!(value, expected, "{place}");
    }
    assert_eq!(
        schema("Status")["enum"],
        json!(OrderStatus::ALL.map(OrderStatus::as_str))
    );

    let parameter = |name: &str| &document["components"]["parameters"][name];
    let key = |len| {
        check(
            &document,
            &parameter("IdempotencyKey")["schema"],
            &json!("k".repeat(len)),
        )
    };
    assert_eq!(key(IdempotencyKey::CHARS_MAX), Ok(()));
    assert!(key(0).is_err() && key(IdempotencyKey::CHARS_MAX + 1).is_err());
}

/// So do the words of its descriptions.
#[tokio::test]
async fn words_of_the_api_name_the_limits_of_the_code() {
    let document = get_json("/openapi.json").await;
    let parameter = |name: &str| text(&document["components"]["parameters"][name]["description"]);
    let tickets = text(&document["paths"]["/stream-tickets"]["post"]["summary"]);
    let (size, largest) = (PageSize::DEFAULT.get(), PageSize::MAX.get());
    for (words, expected) in [
        (
            parameter("PageSize"),
            format!("{size} if absent or 0; more than {largest} means {largest}."),
        ),
        (
            parameter("Prefer"),
            format!("at most {},", HttpConfig::default().wait_max.as_secs()),
        ),
        (
            parameter("RequestId"),
            format!("1 to {} characters", RequestId::CHARS_MAX),
        ),
        (
            tickets,
            format!("within {} seconds", TICKET_LIFETIME.as_secs()),
        ),
    ] {
        assert!(words.contains(&expected), "{expected:?} in {words:?}");
    }
}

/// The patterns of names and texts allow the characters that the code allows, wherever they
/// stand.
#[tokio::test]
async fn characters_of_names_and_texts_are_those_of_the_code() {
    let document = get_json("/openapi.json").await;
    let schemas = &document["components"]["schemas"];
    let is_valid = |name: &str, text: &str| {
        let value = if name == "Metadata" {
            json!({ "name": text })
        } else {
            json!(text)
        };
        check(&document, &schemas[name], &value).is_ok()
    };
    let chars = ('\0'..'\u{3100}').chain('\u{fe00}'..='\u{ffff}');
    for c in chars.chain(['\u{1f600}', '\u{e0001}']) {
        let texts = [
            format!("{c}"),
            format!("a{c}"),
            format!("{c}a"),
            format!("a{c}b"),
        ];
        for text in texts {
            let is_user = UserId::parse(&text).is_ok();
            assert_eq!(is_valid("UserId", &text), is_user, "{text:?}");
            let is_value = Metadata::new([("name".to_owned(), text.clone())]).is_ok();
            assert_eq!(is_valid("Metadata", &text), is_value, "{text:?}");
        }
    }
    assert_eq!(schemas["ExternalId"]["$ref"], "#/components/schemas/UserId");
}

/// Every currency that an amount may have, by its number of decimal places. The code knows,
/// and is asked about each code there could be.
fn currencies_by_decimal_places() -> BTreeMap<u8, Vec<String>> {
    let letters = || 'A'..='Z';
    let codes = letters().flat_map(|a| {
        letters().flat_map(move |b| letters().map(move |c| String::from_iter([a, b, c])))
    });
    let mut by_places = BTreeMap::<_, Vec<_>>::new();
    for code in codes {
        if let Ok(money) = Money::from_minor_units(1, &code) {
            by_places
                .entry(money.minor_digits())
                .or_default()
                .push(code);
        }
    }
    by_places
}

/// The alternatives of an order to create are the currencies of the code, each with all
/// amounts that it may have and no others.
#[tokio::test]
async fn currencies_and_amounts_are_those_of_the_code() {
    let document = get_json("/openapi.json").await;
    let alternatives = &document["components"]["schemas"]["CreateOrderRequest"]["anyOf"];
    let mut described = BTreeMap::new();
    for alternative in alternatives.as_array().expect("alternatives") {
        let part = |name: &str| follow(&document, &alternative["properties"][name]);
        let codes: Vec<String> =
            serde_json::from_value(part("currency")["enum"].clone()).expect("codes");
        let is_default = codes.iter().any(|code| code == Money::CURRENCY_DEFAULT);
        let default = if is_default {
            Money::CURRENCY_DEFAULT.into()
        } else {
            Value::Null
        };
        assert_eq!(part("currency")["default"], default);
        let required = alternative["required"].as_array().expect("names");
        assert_ne!(required.contains(&json!("currency")), is_default);

        let any = &codes[0];
        let is_amount = |value: &Value| check(&document, part("amount"), value).is_ok();
        let number = |text: &str| serde_json::from_str::<Value>(text).expect("a number");
        for minor_units in
            (1..=10_000).chain(Money::MINOR_UNITS_MAX - 1_000..=Money::MINOR_UNITS_MAX)
        {
            let amount = Money::from_minor_units(minor_units, any).expect("an amount");
            let amount = amount.to_string();
            assert!(is_amount(&number(&amount)), "the number {amount} {any}");
            assert!(is_amount(&json!(amount)), "the text {amount} {any}");
        }
        let digits = Money::from_minor_units(1, any)
            .expect("an amount")
            .minor_digits();
        let too_large = format!("1{}", "0".repeat(15 - usize::from(digits)));
        let too_exact = format!("1.{:0>width$}", 1, width = usize::from(digits) + 1);
        for wrong in [
            "0", "-1", "1e2", "01", "1.", ".5", "", &too_large, &too_exact,
        ] {
            assert!(!is_amount(&json!(wrong)), "the text {wrong} {any}");
        }
        for wrong in ["0", "-1", &too_large] {
            assert!(!is_amount(&number(wrong)), "the number {wrong} {any}");
        }
        described.insert(digits, codes);
    }
    assert_eq!(described, currencies_by_decimal_places());
}

/// Every code with which the server closes a socket.
const CLOSE_CODES: [Close; 10] = [
    close::PROTOCOL_ERROR,
    close::UNSUPPORTED_DATA,
    close::INVALID_TEXT,
    close::MESSAGE_TOO_BIG,
    close::RESTARTING,
    close::SLOW_READER,
    close::PONG_TIMEOUT,
    close::HISTORY_UNAVAILABLE,
    close::TOO_MANY_CONNECTIONS,
    close::TICKET_INVALID,
];

/// The AsyncAPI document has the values of the code.
#[tokio::test]
async fn limits_of_the_streams_are_those_of_the_code() {
    let document = get_json("/asyncapi.json").await;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let schema = |name: &str| &document["components"]["schemas"][name];
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(schema("Reason")["enum"], json!(reasons));
    assert_eq!(
        schema("Status")["enum"],
        json!(OrderStatus::ALL.map(OrderStatus::as_str))
    );
    assert_eq!(schema("Version")["maximum"], Version::MAX);
    assert_eq!(schema("UserId")["maxLength"], UserId::CHARS_MAX);

    let limits = WsConfig::default();
    let words = text(&document["channels"]["socket"]["description"]).replace('\n', " ");
    for expected in [
        format!("at most {} bytes each", limits.message_len_max),
        format!("and {} per second", limits.messages_per_second_max),
        format!("pings every {} s", limits.ping_interval.as_secs()),
        format!("answers nothing for {} s", limits.pong_timeout.as_secs()),
    ] {
        assert!(words.contains(&expected), "{expected:?} in {words:?}");
    }
}

#[tokio::test]
async fn every_close_code_is_described() {
    let source = include_str!("../../src/ws/close.rs");
    assert_eq!(CLOSE_CODES.len(), source.matches("\npub const ").count());
    let document = get_json("/asyncapi.json").await;
    let words = text(&document["channels"]["socket"]["description"]);
    let rows = words
        .lines()
        .filter(|line| line.starts_with("| ") && !line.contains("close code"));
    assert_eq!(rows.count(), CLOSE_CODES.len());
    for Close { code, reason } in CLOSE_CODES {
        let row = format!("| {code} | {reason} | ");
        assert!(words.contains(&row), "{row}");
    }
}

/// A stream ends when nothing can follow, and not while an order may still be retried.
#[tokio::test]
async fn stream_ends_with_the_statuses_that_are_final() {
    let document = get_json("/asyncapi.json").await;
    let end = &document["components"]["messages"]["end"]["payload"];
    for status in OrderStatus::ALL {
        let event = json!({
            "order_id": "01980d0e-6c3c-7f3e-9a43-6c1f0a52a0d4",
            "status": status.as_str(),
            "version": 3,
            "at": "2026-11-23T09:30:00Z",
        });
        let is_end = check(&document, end, &event).is_ok();
        assert_eq!(is_end, status.is_final(), "{status}");
    }
    let finals = OrderStatus::ALL
        .into_iter()
        .filter(|status| status.is_final());
    let finals: Vec<&str> = finals.map(OrderStatus::as_str).collect();
    let words = text(&document["channels"]["orderEvents"]["description"]);
    let expected = format!("is final ({})", finals.join(" or "));
    assert!(words.contains(&expected), "{expected:?} in {words:?}");
}
