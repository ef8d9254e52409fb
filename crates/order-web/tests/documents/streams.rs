//! The AsyncAPI document and real frames and events: those that the tests of the socket and
//! of the stream write down as they came, with `> ` before what a client sent and `< `
//! before the answer.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{schema::check, support::get_json};

const TRANSCRIPT: &str = include_str!(
    "../../src/ws/tests/snapshots/order_web__ws__tests__protocol__every_frame_has_its_shape.snap"
);

/// The test of the event stream, with a whole stream as it came.
const STREAM: &str = include_str!("../http/events.rs");

/// The messages of a channel by name, each with its schema.
fn messages<'a>(document: &'a Value, channel: &str) -> Vec<(&'a str, &'a Value)> {
    let messages = &document["channels"][channel]["messages"];
    let messages = messages.as_object().expect("messages");
    let resolve = |name: &'a String| {
        let message = &document["components"]["messages"][name];
        assert!(message.is_object(), "{name} is not among the components");
        (name.as_str(), message)
    };
    messages.keys().map(resolve).collect()
}

/// The messages of operations of the socket with this action, answers included.
fn named_by<'a>(document: &'a Value, action: &str) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for operation in document["operations"]
        .as_object()
        .expect("operations")
        .values()
    {
        let list = match (action, operation["action"].as_str()) {
            ("receive", Some("receive")) | ("send", Some("send")) => &operation["messages"],
            ("send", Some("receive")) => &operation["reply"]["messages"],
            _ => continue,
        };
        for reference in list.as_array().expect("a list") {
            let pointer = reference["$ref"].as_str().expect("a reference");
            let target = document
                .pointer(&pointer[1..])
                .expect("a message of a channel");
            let (_, name) = target["$ref"]
                .as_str()
                .and_then(|target| target.rsplit_once('/'))
                .expect("a reference");
            names.insert(name);
        }
    }
    names
}

/// The messages, of those named, whose schema `frame` meets.
fn matching<'a>(document: &'a Value, names: &BTreeSet<&'a str>, frame: &Value) -> Vec<&'a str> {
    messages(document, "socket")
        .into_iter()
        .filter(|(name, _)| names.contains(name))
        .filter(|(_, message)| check(document, &message["payload"], frame).is_ok())
        .map(|(name, _)| name)
        .collect()
}

/// A command as JSON; the bare form is a string.
fn command(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

#[tokio::test]
async fn every_real_frame_is_one_of_the_documented_messages() {
    let document = get_json("/asyncapi.json").await;
    let answers = named_by(&document, "send");
    let mut seen = BTreeSet::new();
    for frame in TRANSCRIPT
        .lines()
        .filter_map(|line| line.strip_prefix("< "))
    {
        let Ok(frame) = serde_json::from_str::<Value>(frame) else {
            continue;
        };
        let found = matching(&document, &answers, &frame);
        assert_eq!(found.len(), 1, "{frame} is {found:?}");
        seen.extend(found);
    }
    let on_socket: BTreeSet<&str> = messages(&document, "socket")
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| answers.contains(name))
        .collect();
    assert_eq!(
        seen, on_socket,
        "the transcript has not all of the messages"
    );
}

#[tokio::test]
async fn commands_that_are_obeyed_are_those_that_are_documented() {
    let document = get_json("/asyncapi.json").await;
    let commands = named_by(&document, "receive");
    let mut seen = BTreeSet::new();
    let lines: Vec<&str> = TRANSCRIPT.lines().collect();
    for pair in lines.windows(2) {
        let (Some(sent), Some(answer)) = (pair[0].strip_prefix("> "), pair[1].strip_prefix("< "))
        else {
            continue;
        };
        let found = matching(&document, &commands, &command(sent));
        let is_refused = answer.contains("\"INVALID_ARGUMENT\"");
        assert_eq!(found.len(), usize::from(!is_refused), "{sent} is {found:?}");
        seen.extend(found);
    }
    assert_eq!(seen, commands, "the transcript has not all of the commands");
}

#[tokio::test]
async fn every_real_event_is_one_of_the_documented_messages() {
    let document = get_json("/asyncapi.json").await;
    let mut seen = BTreeSet::new();
    let lines: Vec<&str> = STREAM.lines().map(str::trim_start).collect();
    for pair in lines.windows(2) {
        let (Some(event), Some(data)) = (
            pair[0].strip_prefix("event: "),
            pair[1].strip_prefix("data: "),
        ) else {
            continue;
        };
        let data: Value = serde_json::from_str(data).expect("JSON");
        let (_, message) = messages(&document, "orderEvents")
            .into_iter()
            .find(|(_, message)| message["name"] == event)
            .expect(event);
        check(&document, &message["payload"], &data).expect(event);
        seen.insert(event);
    }
    assert_eq!(seen, BTreeSet::from(["end", "order.status"]));
}

#[tokio::test]
async fn every_example_is_an_example_of_its_message() {
    let document = get_json("/asyncapi.json").await;
    for channel in ["socket", "orderEvents"] {
        for (name, message) in messages(&document, channel) {
            let examples = message["examples"].as_array().expect(name);
            assert!(!examples.is_empty(), "{name}");
            for example in examples {
                check(&document, &message["payload"], &example["payload"]).expect(name);
            }
        }
    }
}
