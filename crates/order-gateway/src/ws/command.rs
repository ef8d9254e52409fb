//! What clients send: text in, one command or one refusal out. Nothing is guessed; what is
//! not understood is refused with the field and its rule.

use order_core::{Error, OrderId, Version, Violation};
use serde_json::{Map, Value};

/// The largest `id` of a command: the largest integer that every JSON reader keeps exact
/// (RFC 8259 §6).
const ID_MAX: u64 = (1 << 53) - 1;

/// The longest name of an unknown field that is repeated to the client, in characters.
const NAME_CHARS_MAX: usize = 64;

/// One message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// An order id and nothing else.
    SubscribeBare(OrderId),
    /// A JSON object.
    Numbered { id: Option<u64>, action: Action },
}

/// What a JSON object asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Subscribe {
        order_id: OrderId,
        since: Option<Version>,
    },
    Unsubscribe(OrderId),
    Ping,
}

/// A message that cannot be obeyed, with the `id` it came with, if that could be read.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) id: Option<u64>,
    pub(super) error: Error,
}

/// Reads one message.
pub(super) fn parse(text: &str) -> Result<Command, Refusal> {
    let text = text.trim_ascii();
    let refuse = |error| Refusal { id: None, error };
    match text.as_bytes().first() {
        Some(b'{') => {
            let fields = serde_json::from_str::<Map<String, Value>>(text)
                .map_err(|error| refuse(Error::invalid("", format!("is not JSON: {error}"))))?;
            parse_object(&fields)
        }
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(order_id) => parse_bare(&order_id).map_err(refuse),
            Err(error) => Err(refuse(Error::invalid("", format!("is not JSON: {error}")))),
        },
        _ => parse_bare(text).map_err(refuse),
    }
}

fn parse_bare(text: &str) -> Result<Command, Error> {
    OrderId::parse_field("order_id", text).map(Command::SubscribeBare)
}

fn parse_object(fields: &Map<String, Value>) -> Result<Command, Refusal> {
    let id = match fields.get("id") {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(id) if id <= ID_MAX => Ok(Some(id)),
            _ => Err(Error::invalid(
                "id",
                format!("must be an integer from 0 to {ID_MAX}"),
            )),
        },
    };
    match id {
        Ok(id) => parse_action(fields)
            .map(|action| Command::Numbered { id, action })
            .map_err(|error| Refusal { id, error }),
        Err(error) => Err(Refusal { id: None, error }),
    }
}

fn parse_action(fields: &Map<String, Value>) -> Result<Action, Error> {
    refuse_unknown("", fields, &["id", "subscribe", "unsubscribe", "ping"])?;
    let one_of = "must have exactly one of subscribe, unsubscribe and ping";
    let mut actions = fields.iter().filter(|(name, _)| *name != "id");
    let (Some((name, value)), None) = (actions.next(), actions.next()) else {
        return Err(Error::invalid("", one_of));
    };
    match name.as_str() {
        "subscribe" => parse_subscribe(value),
        "unsubscribe" => {
            let fields = object("unsubscribe", value)?;
            refuse_unknown("unsubscribe", fields, &["order"])?;
            parse_order("unsubscribe/order", fields).map(Action::Unsubscribe)
        }
        _ => match value {
            Value::Bool(true) => Ok(Action::Ping),
            Value::Object(fields) if fields.is_empty() => Ok(Action::Ping),
            _ => Err(Error::invalid("ping", "must be true or {}")),
        },
    }
}

fn parse_subscribe(value: &Value) -> Result<Action, Error> {
    let fields = object("subscribe", value)?;
    if fields.contains_key("user") {
        return Err(Error::invalid(
            "subscribe/user",
            "is not supported; subscribe to one order with subscribe/order",
        ));
    }
    refuse_unknown("subscribe", fields, &["order", "since"])?;
    let since = match fields.get("since") {
        None => None,
        Some(value) => {
            let since = value.as_u64().and_then(|since| since.try_into().ok());
            Some(since.ok_or_else(|| {
                Error::invalid(
                    "subscribe/since",
                    format!("must be an integer from 0 to {}", Version::MAX),
                )
            })?)
        }
    };
    Ok(Action::Subscribe {
        order_id: parse_order("subscribe/order", fields)?,
        since,
    })
}

fn parse_order(field: &str, fields: &Map<String, Value>) -> Result<OrderId, Error> {
    match fields.get("order") {
        Some(Value::String(text)) => OrderId::parse_field(field, text),
        Some(_) => Err(Error::invalid(field, "must be a string")),
        None => Err(Error::invalid(field, "is required")),
    }
}

fn object<'a>(field: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Error> {
    value
        .as_object()
        .ok_or_else(|| Error::invalid(field, "must be an object"))
}

/// Refuses fields other than `known`, naming the first few.
fn refuse_unknown(parent: &str, fields: &Map<String, Value>, known: &[&str]) -> Result<(), Error> {
    let unknown = fields.keys().filter(|name| !known.contains(&name.as_str()));
    let violations: Vec<_> = unknown
        .take(8)
        .map(|name| {
            let name: String = name.chars().take(NAME_CHARS_MAX).collect();
            // A JSON Pointer escapes these two (RFC 6901 §3).
            let name = name.replace('~', "~0").replace('/', "~1");
            let separator = if parent.is_empty() { "" } else { "/" };
            Violation::new(format!("{parent}{separator}{name}"), "unknown field")
        })
        .collect();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Error::InvalidArgument { violations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198c5a0-5d5c-7abc-8def-0123456789ab";

    fn order_id() -> OrderId {
        ID.parse().expect("an order id")
    }

    #[test]
    fn order_id_alone_subscribes() {
        for text in [ID.to_owned(), format!("\"{ID}\""), format!(" {ID}\n")] {
            let command = parse(&text).expect("a command");
            assert_eq!(command, Command::SubscribeBare(order_id()), "{text}");
        }
    }

    #[test]
    fn object_is_read_exactly() {
        let subscribe = |since| Action::Subscribe {
            order_id: order_id(),
            since,
        };
        for (text, id, action) in [
            (
                r#"{"id":1,"subscribe":{"order":"ID","since":3}}"#,
                Some(1),
                subscribe(Some(3)),
            ),
            (r#"{"subscribe":{"order":"ID"}}"#, None, subscribe(None)),
            (
                r#"{"subscribe":{"since":0,"order":"ID"},"id":0}"#,
                Some(0),
                subscribe(Some(0)),
            ),
            (
                r#"{"id":2,"unsubscribe":{"order":"ID"}}"#,
                Some(2),
                Action::Unsubscribe(order_id()),
            ),
            (
                r#"{"id":9007199254740991,"ping":true}"#,
                Some(ID_MAX),
                Action::Ping,
            ),
            (r#"{"ping":{}}"#, None, Action::Ping),
        ] {
            let command = parse(&text.replace("ID", ID)).expect(text);
            assert_eq!(command, Command::Numbered { id, action }, "{text}");
        }
    }

    #[test]
    fn refusal_names_the_field_and_its_rule() {
        let refusals: Vec<_> = [
            "",
            "hello",
            "0198c5a05d5c7abc8def0123456789ab",
            "[]",
            "null",
            r#""not an id""#,
            r#""unfinished"#,
            "{",
            r#"{"id":1}"#,
            "{}",
            r#"{"id":1,"subscribe":{"order":"ID"},"ping":true}"#,
            r#"{"id":1,"jump":true,"a/b":1}"#,
            r#"{"id":-1,"ping":true}"#,
            r#"{"id":"one","ping":true}"#,
            r#"{"id":9007199254740992,"ping":true}"#,
            r#"{"id":1,"ping":false}"#,
            r#"{"id":1,"subscribe":"ID"}"#,
            r#"{"id":1,"subscribe":{}}"#,
            r#"{"id":1,"subscribe":{"order":7}}"#,
            r#"{"id":1,"subscribe":{"order":"seven"}}"#,
            r#"{"id":1,"subscribe":{"order":"ID","since":-1}}"#,
            r#"{"id":1,"subscribe":{"order":"ID","since":"3"}}"#,
            r#"{"id":1,"subscribe":{"order":"ID","since":1.5}}"#,
            r#"{"id":1,"subscribe":{"order":"ID","since":4294967296}}"#,
            r#"{"id":1,"subscribe":{"order":"ID","until":3}}"#,
            r#"{"id":1,"subscribe":{"user":"user-1"}}"#,
            r#"{"id":1,"unsubscribe":{"order":"ID","since":3}}"#,
            r#"{"id":1,"unsubscribe":["ID"]}"#,
        ]
        .into_iter()
        .map(|text| {
            let refusal = parse(&text.replace("ID", ID)).expect_err(text);
            let id = refusal.id.map_or("-".to_owned(), |id| id.to_string());
            format!("{text} => {id} {}", refusal.error)
        })
        .collect();
        insta::assert_snapshot!(refusals.join("\n"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("{{\"subscribe\":{}", "[".repeat(10_000));
        assert!(parse(&text).is_err());
    }

    #[test]
    fn long_name_is_cut() {
        let text = format!(r#"{{"{}":1}}"#, "ß".repeat(4_000));
        let error = parse(&text).expect_err("unknown").error;
        assert!(error.to_string().len() < 300);
    }
}
