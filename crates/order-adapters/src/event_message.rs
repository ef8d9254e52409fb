//! Events as messages: between processes, and for systems outside.
//!
//! Between processes an event is a short JSON array, since every process decodes what any
//! of them commits. For systems outside it is a `CloudEvent` 1.0 in the JSON format.

use jiff::Timestamp;
use order_core::{Cause, OrderEvent, OrderId, OrderStatus, TraceParent, UserId, Version};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq as _};
use uuid::Uuid;

/// Order, user, version, code of the status, microseconds since 1970, code and message of
/// the cause, and the `traceparent` of a sampled trace.
#[derive(Deserialize)]
struct Compact(
    String,
    String,
    Version,
    u8,
    i64,
    #[serde(default)] Option<(String, String)>,
    #[serde(default)] Option<String>,
);

/// The same as `Compact`, without copies.
struct Borrowed<'a>(&'a OrderEvent);

impl Serialize for Borrowed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut buffer = Uuid::encode_buffer();
        let order_id = event.order_id.as_uuid().simple();
        let cause = event.cause.as_ref();
        let trace = event.trace_parent.as_ref();
        let trace = trace.filter(|trace| trace.is_sampled());
        let len = 6 + usize::from(trace.is_some());
        let mut compact = serializer.serialize_seq(Some(len))?;
        compact.serialize_element(&*order_id.encode_lower(&mut buffer))?;
        compact.serialize_element(event.user_id.as_str())?;
        compact.serialize_element(&event.version)?;
        compact.serialize_element(&event.status.code())?;
        compact.serialize_element(&event.at.as_microsecond())?;
        compact.serialize_element(&cause.map(|cause| (&cause.code, &cause.message)))?;
        // Older programs cannot read it, so it is left out where there is nothing to say.
        if let Some(trace) = trace {
            compact.serialize_element(trace.as_str())?;
        }
        compact.end()
    }
}

/// Writes an event for other processes of this system.
pub fn encode(event: &OrderEvent) -> String {
    // Text and numbers can always be written.
    serde_json::to_string(&Borrowed(event)).unwrap_or_default()
}

/// The same as [`encode`], at the end of `buffer`.
pub fn encode_into(buffer: &mut Vec<u8>, event: &OrderEvent) {
    // Nor does a buffer refuse anything.
    let _ = serde_json::to_writer(buffer, &Borrowed(event));
}

/// Reads what [`encode`] wrote; `None` if it is something else, which any program may have
/// put into the same broker.
pub fn decode(text: &str) -> Option<OrderEvent> {
    let Compact(order_id, user_id, version, status, micros, cause, trace) =
        serde_json::from_str(text).ok()?;
    Some(OrderEvent {
        order_id: OrderId::from_uuid(Uuid::try_parse(&order_id).ok()?),
        user_id: UserId::from_accepted(&user_id),
        version: (version > 0).then_some(version)?,
        status: OrderStatus::from_code(status.into())?,
        at: Timestamp::from_microsecond(micros).ok()?,
        cause: cause.map(|(code, message)| Cause::new(code, message)),
        trace_parent: trace.as_deref().and_then(TraceParent::parse),
    })
}

/// The media type of what [`cloud_event`] writes.
pub const CLOUD_EVENT_MEDIA_TYPE: &str = "application/cloudevents+json";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: String,
    #[serde(serialize_with = "as_micros")]
    time: Timestamp,
    datacontenttype: &'static str,
    /// The extension "Distributed Tracing" of `CloudEvents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    order_id: String,
    user_id: &'a str,
    status: &'static str,
    version: Version,
    #[serde(serialize_with = "as_micros")]
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<CauseData<'a>>,
}

#[derive(Serialize)]
struct CauseData<'a> {
    code: &'a str,
    message: &'a str,
}

/// Writes an event as a `CloudEvent` 1.0 in structured JSON. Its `id` is the order and the
/// version, so whoever gets it twice knows.
pub fn cloud_event(event: &OrderEvent) -> String {
    let order_id = event.order_id.to_string();
    let cloud_event = CloudEvent {
        specversion: "1.0",
        id: format!("{order_id}/{}", event.version),
        source: "/orders",
        kind: "order.v1.status_changed",
        subject: order_id.clone(),
        time: event.at,
        datacontenttype: "application/json",
        traceparent: event.trace_parent.as_ref().map(TraceParent::as_str),
        tracestate: event.trace_parent.as_ref().and_then(TraceParent::state),
        data: Data {
            order_id,
            user_id: event.user_id.as_str(),
            status: event.status.as_str(),
            version: event.version,
            at: event.at,
            cause: event.cause.as_ref().map(|cause| CauseData {
                code: &cause.code,
                message: &cause.message,
            }),
        },
    };
    // Text and numbers can always be written.
    serde_json::to_string(&cloud_event).unwrap_or_default()
}

/// Writes RFC 3339 in UTC with microseconds, the resolution of the database.
pub(crate) fn as_micros<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.6}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn event(version: Version, status: OrderStatus, cause: Option<Cause>) -> OrderEvent {
        OrderEvent {
            order_id: "0198c5a0-5d5c-7abc-8def-0123456789ab"
                .parse()
                .expect("an id"),
            user_id: UserId::parse("user \"1\" é").expect("a user"),
            version,
            status,
            at: Timestamp::from_microsecond(1_795_000_000_123_456).expect("a time"),
            cause,
            trace_parent: None,
        }
    }

    proptest! {
        #[test]
        fn event_survives_the_wire(version in 1_u32.., status in 1_i64..=5, message in ".{0,40}") {
            let status = OrderStatus::from_code(status).expect("a status");
            for (cause, trace_parent) in [
                (None, None),
                (Some(Cause::new("SOME_CODE", message.clone())), None),
                (None, TraceParent::parse(SAMPLED)),
            ] {
                let event = OrderEvent {
                    trace_parent,
                    ..event(version, status, cause)
                };
                prop_assert_eq!(decode(&encode(&event)), Some(event));
            }
        }

        #[test]
        fn foreign_messages_are_no_events(text in ".{0,80}") {
            prop_assert_eq!(decode(&text), None);
        }
    }

    #[test]
    fn compact_form_is_a_contract_between_versions() {
        let cause = Cause::new("REFUSED", "no stock");
        assert_eq!(
            encode(&event(3, OrderStatus::Failed, Some(cause))),
            r#"["0198c5a05d5c7abc8def0123456789ab","user \"1\" é",3,4,1795000000123456,["REFUSED","no stock"]]"#
        );
    }

    #[test]
    fn only_sampled_traces_are_passed_on() {
        let traced = |text: &str| {
            let trace = TraceParent::parse(text).expect("valid");
            OrderEvent {
                trace_parent: Some(trace.with_state(["vendor=1"])),
                ..event(1, OrderStatus::Pending, None)
            }
        };
        let (sampled, plain) = (traced(SAMPLED), event(1, OrderStatus::Pending, None));
        assert!(encode(&sampled).ends_with(&format!(r#",null,"{SAMPLED}"]"#)));
        let text = cloud_event(&sampled);
        let extension = format!(r#""traceparent":"{SAMPLED}","tracestate":"vendor=1","#);
        assert!(text.contains(&extension), "{text}");
        // A program that knows no traces reads the others.
        assert_eq!(
            encode(&traced(&SAMPLED.replace("-01", "-00"))),
            encode(&plain)
        );
    }

    #[test]
    fn cloud_event_is_a_contract_with_others() {
        let cause = Cause::new("REFUSED", "no stock");
        let text = cloud_event(&event(3, OrderStatus::Failed, Some(cause)));
        assert_eq!(
            text,
            concat!(
                r#"{"specversion":"1.0","id":"0198c5a0-5d5c-7abc-8def-0123456789ab/3","#,
                r#""source":"/orders","type":"order.v1.status_changed","#,
                r#""subject":"0198c5a0-5d5c-7abc-8def-0123456789ab","#,
                r#""time":"2026-11-18T11:06:40.123456Z","datacontenttype":"application/json","#,
                r#""data":{"order_id":"0198c5a0-5d5c-7abc-8def-0123456789ab","#,
                r#""user_id":"user \"1\" é","status":"FAILED","version":3,"#,
                r#""at":"2026-11-18T11:06:40.123456Z","#,
                r#""cause":{"code":"REFUSED","message":"no stock"}}}"#
            )
        );
    }
}
