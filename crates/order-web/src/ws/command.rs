//! What clients send: text in, one command or one refusal out. Nothing is guessed; what is
//! not understood is refused with the field and its rule.

use std::{borrow::Cow, fmt, mem};

use order_core::{Error, OrderId, UserId, Version, WatchOrder};

use crate::json::Fields;

/// The largest `id` of a command: the largest integer that every JSON reader keeps exact
/// (RFC 8259 §6).
const ID_MAX: u64 = (1 << 53) - 1;

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
        Some(b'{') => parse_object(fields_of("", text, ACTIONS).map_err(refuse)?),
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(order_id) => parse_bare(&order_id).map_err(refuse),
            Err(error) => Err(refuse(not_json("", &error))),
        },
        _ => parse_bare(text).map_err(refuse),
    }
}

fn parse_bare(text: &str) -> Result<Command, Error> {
    OrderId::parse_field("order_id", text).map(Command::SubscribeBare)
}

fn parse_object(fields: Fields<'_>) -> Result<Command, Refusal> {
    let id = fields.raw("id");
    let number = id.and_then(|raw| raw.parse().ok());
    let number = number.filter(|id| *id <= ID_MAX);
    if id.is_some() && number.is_none() {
        let error = Error::invalid("id", format!("must be an integer from 0 to {ID_MAX}"));
        return Err(Refusal { id: None, error });
    }
    parse_action(fields)
        .map(|action| Command::Numbered { id: number, action })
        .map_err(|error| Refusal { id: number, error })
}

/// The fields of a message.
const ACTIONS: &[&str] = &["id", "subscribe", "unsubscribe", "authenticate", "ping"];

fn parse_action(fields: Fields<'_>) -> Result<Action, Error> {
    let fields = checked("", fields)?;
    let mut actions = fields.names().filter(|name| *name != "id");
    let (Some(name), None) = (actions.next(), actions.next()) else {
        let one_of = "must have exactly one of subscribe, unsubscribe, authenticate and ping";
        return Err(Error::invalid("", one_of));
    };
    let raw = fields.raw(name).unwrap_or_default();
    let object = |known| checked(name, fields_of(name, raw, known)?);
    match name {
        "subscribe" => parse_subscribe(object(&["order", "orders", "user", "since"])?),
        "unsubscribe" => parse_subject(name, object(&["order", "user"])?).map(Action::Unsubscribe),
        "authenticate" => {
            let ticket = text(name, object(&["ticket"])?, "ticket")?;
            Ok(Action::Authenticate(Ticket::new(ticket.into_owned())))
        }
        _ if raw == "true" || object(&[]).is_ok() => Ok(Action::Ping),
        _ => Err(Error::invalid("ping", "must be true or {}")),
    }
}

fn parse_subscribe(mut fields: Fields<'_>) -> Result<Action, Error> {
    if fields.raw("orders").is_some() {
        if fields.names().count() > 1 {
            return Err(Error::invalid("subscribe/orders", "goes with nothing else"));
        }
        return parse_orders(fields.elements("orders")).map(Action::SubscribeMany);
    }
    let since = parse_since("subscribe", &fields)?;
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
fn parse_orders(orders: Option<Vec<&str>>) -> Result<Vec<WatchOrder>, Error> {
    let parse_order = |(n, raw)| {
        let parent = format!("subscribe/orders/{n}");
        let fields = checked(&parent, fields_of(&parent, raw, &["order", "since"])?)?;
        let since = parse_since(&parent, &fields)?;
        let order_id = text(&parent, fields, "order")?;
        let order_id = OrderId::parse_field(&format!("{parent}/order"), &order_id)?;
        Ok(WatchOrder { order_id, since })
    };
    match orders {
        Some(orders) if !orders.is_empty() => {
            orders.into_iter().enumerate().map(parse_order).collect()
        }
        _ => Err(Error::invalid(
            "subscribe/orders",
            "must be a list that is not empty",
        )),
    }
}

fn parse_since(parent: &str, fields: &Fields<'_>) -> Result<Option<Version>, Error> {
    let since = fields.raw("since").map(str::parse).transpose();
    since.map_err(|_| {
        Error::invalid(
            format!("{parent}/since"),
            format!("must be an integer from 0 to {}", Version::MAX),
        )
    })
}

fn parse_subject(action: &str, fields: Fields<'_>) -> Result<Subject, Error> {
    match (fields.raw("order"), fields.raw("user")) {
        (Some(_), None) => {
            let order_id = text(action, fields, "order")?;
            OrderId::parse_field(&format!("{action}/order"), &order_id).map(Subject::Order)
        }
        (None, Some(_)) => UserId::parse(&text(action, fields, "user")?)
            .map(Subject::User)
            .map_err(|error| error.with_fields(|_| format!("{action}/user"))),
        _ => Err(Error::invalid(
            action,
            "must have exactly one of order and user",
        )),
    }
}

/// A string that must be there.
fn text<'a>(
    parent: &str,
    mut fields: Fields<'a>,
    name: &'static str,
) -> Result<Cow<'a, str>, Error> {
    fields.require(&[name]);
    let text = fields.text(name);
    checked(parent, fields)?;
    text.ok_or_else(|| Error::invalid(format!("{parent}/{name}"), "must be a string"))
}

/// The fields of the object at `parent`.
fn fields_of<'a>(
    parent: &str,
    raw: &'a str,
    known: &'static [&'static str],
) -> Result<Fields<'a>, Error> {
    Fields::parse(raw, known).map_err(|error| {
        if error.is_data() {
            Error::invalid(parent, "must be an object")
        } else {
            not_json(parent, &error)
        }
    })
}

fn not_json(parent: &str, error: &serde_json::Error) -> Error {
    Error::invalid(parent, format!("is not JSON: {error}"))
}

/// The fields of the object at `parent`, if nothing is wrong with them so far.
fn checked<'a>(parent: &str, mut fields: Fields<'a>) -> Result<Fields<'a>, Error> {
    let checked = mem::take(&mut fields.violations).finish(Some(fields));
    checked.map_err(|error| match parent {
        "" => error,
        _ => error.with_fields(|field| format!("{parent}/{field}")),
    })
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
            r#"{"id":1,"ping":true,"ping":true}"#,
            r#"{"id":1,"subscribe":{"order":"ID","order":"ID"}}"#,
            r#"{"id":1,"subscribe":{"orders":[{"order":"ID","since":1,"since":2}]}}"#,
            r#"{"id":1,"authenticate":{"ticket":"\ud800"}}"#,
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
