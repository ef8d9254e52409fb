//! What clients send: text in, one command or one refusal out. Nothing is guessed; what is
//! not understood is refused with the field and its rule.

use std::fmt;

use order_core::{Error, OrderId, UserId, Version, Violation, WatchOrder};
use serde_json::{Map, Value};

/// The largest `id` of a command: the largest integer that every JSON reader keeps exact
/// (RFC 8259 §6).
const ID_MAX: u64 = (1 << 53) - 1;

/// The longest name of an unknown field that is repeated to the client, in characters.
const NAME_CHARS_MAX: usize = 64;

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// An order id and nothing else.
    SubscribeBare(OrderId),
    /// A JSON object.
    Numbered { id: Option<u64>, action: Action },
}

/// What a JSON object asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Subscribe {
        order_id: OrderId,
        since: Option<Version>,
    },
    SubscribeMany(Vec<WatchOrder>),
    SubscribeUser(UserId),
    Unsubscribe(Subject),
    Authenticate(Ticket),
    Ping,
}

/// What can be subscribed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Order(OrderId),
    User(UserId),
}

/// A ticket as it came. Never shown, so that it cannot end up in a log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ticket(String);

impl Ticket {
    pub(super) const fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
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
    let known = ["id", "subscribe", "unsubscribe", "authenticate", "ping"];
    refuse_unknown("", fields, &known)?;
    let one_of = "must have exactly one of subscribe, unsubscribe, authenticate and ping";
    let mut actions = fields.iter().filter(|(name, _)| *name != "id");
    let (Some((name, value)), None) = (actions.next(), actions.next()) else {
        return Err(Error::invalid("", one_of));
    };
    match name.as_str() {
        "subscribe" => parse_subscribe(value),
        "unsubscribe" => {
            let fields = object("unsubscribe", value)?;
            refuse_unknown("unsubscribe", fields, &["order", "user"])?;
            parse_subject("unsubscribe", fields).map(Action::Unsubscribe)
        }
        "authenticate" => {
            let fields = object("authenticate", value)?;
            refuse_unknown("authenticate", fields, &["ticket"])?;
            let ticket = text("authenticate/ticket", fields.get("ticket"))?;
            Ok(Action::Authenticate(Ticket::new(ticket.to_owned())))
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
    refuse_unknown("subscribe", fields, &["order", "orders", "user", "since"])?;
    if let (Some(orders), 1) = (fields.get("orders"), fields.len()) {
        return parse_orders(orders).map(Action::SubscribeMany);
    }
    if fields.contains_key("orders") {
        return Err(Error::invalid("subscribe/orders", "goes with nothing else"));
    }
    let since = parse_since("subscribe", fields)?;
    match parse_subject("subscribe", fields)? {
        Subject::Order(order_id) => Ok(Action::Subscribe { order_id, since }),
        Subject::User(_) if since.is_some() => {
            Err(Error::invalid("subscribe/since", "goes with order only"))
        }
        Subject::User(user_id) => Ok(Action::SubscribeUser(user_id)),
    }
}

/// The length of the list is limited by that of a message; what is too much for the connection is
/// refused order by order.
fn parse_orders(value: &Value) -> Result<Vec<WatchOrder>, Error> {
    let parse_order = |(n, value)| {
        let parent = format!("subscribe/orders/{n}");
        let fields = object(&parent, value)?;
        refuse_unknown(&parent, fields, &["order", "since"])?;
        let field = format!("{parent}/order");
        Ok(WatchOrder {
            order_id: OrderId::parse_field(&field, text(&field, fields.get("order"))?)?,
            since: parse_since(&parent, fields)?,
        })
    };
    match value.as_array() {
        Some(orders) if !orders.is_empty() => orders.iter().enumerate().map(parse_order).collect(),
        _ => Err(Error::invalid(
            "subscribe/orders",
            "must be a list that is not empty",
        )),
    }
}

fn parse_since(parent: &str, fields: &Map<String, Value>) -> Result<Option<Version>, Error> {
    let Some(value) = fields.get("since") else {
        return Ok(None);
    };
    let since = value.as_u64().and_then(|since| since.try_into().ok());
    since.map(Some).ok_or_else(|| {
        Error::invalid(
            format!("{parent}/since"),
            format!("must be an integer from 0 to {}", Version::MAX),
        )
    })
}

fn parse_subject(action: &str, fields: &Map<String, Value>) -> Result<Subject, Error> {
    match (fields.get("order"), fields.get("user")) {
        (order @ Some(_), None) => {
            let field = format!("{action}/order");
            OrderId::parse_field(&field, text(&field, order)?).map(Subject::Order)
        }
        (None, user @ Some(_)) => {
            let field = format!("{action}/user");
            parse_user(&field, text(&field, user)?).map(Subject::User)
        }
        _ => Err(Error::invalid(
            action,
            "must have exactly one of order and user",
        )),
    }
}

fn parse_user(field: &str, text: &str) -> Result<UserId, Error> {
    UserId::parse(text).map_err(|error| match error {
        Error::InvalidArgument { violations } => Error::InvalidArgument {
            violations: violations
                .into_iter()
                .map(|violation| Violation::new(field, violation.rule))
                .collect(),
        },
        other => other,
    })
}

fn text<'a>(field: &str, value: Option<&'a Value>) -> Result<&'a str, Error> {
    match value {
        Some(Value::String(text)) => Ok(text),
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

    fn user_id() -> UserId {
        UserId::parse("user-1").expect("a user id")
    }

    #[test]
    fn ticket_is_never_shown() {
        let command = parse(r#"{"authenticate":{"ticket":"secret"}}"#);
        let shown = format!("{command:?}");
        assert!(
            shown.contains("Ticket") && !shown.contains("secret"),
            "{shown}"
        );
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
        let watch = |since| WatchOrder {
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
                r#"{"subscribe":{"orders":[{"order":"ID","since":3},{"order":"ID"}]}}"#,
                None,
                Action::SubscribeMany(vec![watch(Some(3)), watch(None)]),
            ),
            (
                r#"{"id":2,"unsubscribe":{"order":"ID"}}"#,
                Some(2),
                Action::Unsubscribe(Subject::Order(order_id())),
            ),
            (
                r#"{"id":3,"subscribe":{"user":"user-1"}}"#,
                Some(3),
                Action::SubscribeUser(user_id()),
            ),
            (
                r#"{"unsubscribe":{"user":"user-1"}}"#,
                None,
                Action::Unsubscribe(Subject::User(user_id())),
            ),
            (
                r#"{"id":4,"authenticate":{"ticket":"secret"}}"#,
                Some(4),
                Action::Authenticate(Ticket::new("secret".to_owned())),
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
            r#"{"id":1,"subscribe":{"user":"user-1","order":"ID"}}"#,
            r#"{"id":1,"subscribe":{"user":"user-1","since":1}}"#,
            r#"{"id":1,"subscribe":{"orders":[]}}"#,
            r#"{"id":1,"subscribe":{"orders":"ID"}}"#,
            r#"{"id":1,"subscribe":{"orders":["ID"]}}"#,
            r#"{"id":1,"subscribe":{"orders":[{"order":"ID"},{"since":1}]}}"#,
            r#"{"id":1,"subscribe":{"orders":[{"order":"ID","since":-1}]}}"#,
            r#"{"id":1,"subscribe":{"orders":[{"order":"ID"}],"since":1}}"#,
            r#"{"id":1,"subscribe":{"user":7}}"#,
            r#"{"id":1,"subscribe":{"user":""}}"#,
            r#"{"id":1,"unsubscribe":{}}"#,
            r#"{"id":1,"unsubscribe":{"user":"a\u0007"}}"#,
            r#"{"id":1,"authenticate":"secret"}"#,
            r#"{"id":1,"authenticate":{}}"#,
            r#"{"id":1,"authenticate":{"ticket":1}}"#,
            r#"{"id":1,"authenticate":{"token":"secret"}}"#,
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
