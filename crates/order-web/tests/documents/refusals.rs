//! The refusals of each operation, held against the tables of errors in the code, which
//! `/problems` lists.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{schema::follow, support::get_json};

/// From around every handler.
const AROUND: &[&str] = &["NOT_ACCEPTABLE", "OVERLOADED", "INTERNAL"];

/// From the system behind.
const BEHIND: &[&str] = &[
    "STORE_UNAVAILABLE",
    "SERVICE_UNAVAILABLE",
    "SHUTTING_DOWN",
    "DEADLINE_EXCEEDED",
];

/// From reading a body.
const BODY: &[&str] = &[
    "INVALID_JSON",
    "REQUEST_TIMEOUT",
    "BODY_TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
];

/// What each operation can be refused with.
const REFUSALS: &[(&str, &[&[&str]])] = &[
    (
        "create_order",
        &[
            AROUND,
            BEHIND,
            BODY,
            &[
                "INVALID_ARGUMENT",
                "ORDER_ALREADY_EXISTS",
                "EXTERNAL_ID_TAKEN",
                "REQUEST_IN_PROGRESS",
                "IDEMPOTENCY_KEY_REUSED",
            ],
        ],
    ),
    // Errors of the service behind are in the results.
    ("create_orders", &[AROUND, BODY, &["INVALID_ARGUMENT"]]),
    ("list_orders", &[AROUND, BEHIND, &["INVALID_ARGUMENT"]]),
    (
        "get_order",
        &[
            AROUND,
            BEHIND,
            &["INVALID_ARGUMENT", "ORDER_NOT_FOUND", "ETAG_MISMATCH"],
        ],
    ),
    (
        "cancel_order",
        &[
            AROUND,
            BEHIND,
            BODY,
            &[
                "INVALID_ARGUMENT",
                "ORDER_NOT_FOUND",
                "REQUEST_IN_PROGRESS",
                "ORDER_NOT_CANCELLABLE",
                "VERSION_CONFLICT",
                "ETAG_MISMATCH",
                "IDEMPOTENCY_KEY_REUSED",
            ],
        ],
    ),
    (
        "retry_order",
        &[
            AROUND,
            BEHIND,
            BODY,
            &[
                "INVALID_ARGUMENT",
                "ORDER_NOT_FOUND",
                "REQUEST_IN_PROGRESS",
                "ORDER_NOT_RETRYABLE",
                "VERSION_CONFLICT",
                "ETAG_MISMATCH",
            ],
        ],
    ),
    (
        "list_events",
        &[AROUND, BEHIND, &["INVALID_ARGUMENT", "ORDER_NOT_FOUND"]],
    ),
    (
        "create_stream_ticket",
        &[AROUND, BEHIND, BODY, &["INVALID_ARGUMENT"]],
    ),
    ("list_problems", &[AROUND]),
    ("get_problem", &[AROUND, &["ROUTE_NOT_FOUND"]]),
    ("get_openapi", &[AROUND]),
    ("get_asyncapi", &[AROUND]),
    // Probes are answered under any load and whatever the client reads.
    ("livez", &[&["INTERNAL"]]),
    (
        "readyz",
        &[&[
            "INTERNAL",
            "OVERLOADED",
            "STORE_UNAVAILABLE",
            "SERVICE_UNAVAILABLE",
            "SHUTTING_DOWN",
        ]],
    ),
];

/// Answers to a method that no operation has, over the WebSocket, and over gRPC.
const ELSEWHERE: &[&str] = &[
    "METHOD_NOT_ALLOWED",
    "HOST_NOT_ALLOWED",
    "ORIGIN_NOT_ALLOWED",
    "UPGRADE_REQUIRED",
    "LIMIT_EXCEEDED",
    "PERMISSION_DENIED",
    "TICKET_INVALID",
    "TRANSITION_REFUSED",
];

/// Each code with its status and the sentence that describes it.
async fn kinds() -> BTreeMap<String, (String, String)> {
    let kinds = get_json("/problems").await;
    let kinds = kinds["problems"].as_array().expect("problems").iter();
    let kinds = kinds.map(|kind| {
        let text = |name: &str| kind[name].as_str().expect("text");
        let sentence = format!("`{}`: {}.", text("code"), text("title"));
        (
            text("code").to_owned(),
            (kind["status"].to_string(), sentence),
        )
    });
    kinds.collect()
}

#[tokio::test]
async fn refusals_name_every_error_of_their_operation_with_its_title_and_status() {
    let document = get_json("/openapi.json").await;
    let kinds = kinds().await;
    let items = document["paths"].as_object().expect("paths").values();
    let operations = items.flat_map(|item| item.as_object().expect("operations").values());
    let mut names = BTreeSet::new();
    for operation in operations {
        let name = operation["operationId"].as_str().expect("a name");
        let entry = REFUSALS.iter().find(|(known, _)| *known == name);
        let (_, codes) = entry.unwrap_or_else(|| panic!("{name} is not in the table"));
        let mut expected = BTreeMap::<&str, BTreeSet<&str>>::new();
        for code in codes.iter().copied().flatten() {
            let (status, sentence) = &kinds[*code];
            expected.entry(status).or_default().insert(sentence);
        }
        let mut described = BTreeMap::new();
        for (status, response) in operation["responses"].as_object().expect("responses") {
            if !status.starts_with(['4', '5']) {
                continue;
            }
            let response = follow(&document, response);
            let schema = &response["content"]["application/problem+json"]["schema"];
            assert_eq!(
                schema["$ref"], "#/components/schemas/Problem",
                "{name} {status}"
            );
            described.insert(status.as_str(), sentences(response));
        }
        assert_eq!(described, expected, "{name}");
        names.insert(name);
    }
    assert_eq!(names, REFUSALS.iter().map(|(name, _)| *name).collect());
}

/// The sentences of a description, each from its code to its full stop.
fn sentences(response: &Value) -> BTreeSet<&str> {
    let text = response["description"].as_str().expect("text");
    let starts = text.match_indices(" `").map(|(at, _)| at + 1);
    let starts: Vec<usize> = std::iter::once(0).chain(starts).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len() + 1]);
    let ranges = starts.iter().copied().zip(ends);
    ranges.map(|(start, end)| &text[start..end - 1]).collect()
}

#[tokio::test]
async fn every_error_of_the_code_is_in_the_table_or_belongs_elsewhere() {
    let kinds = kinds().await;
    let known: BTreeSet<&str> = kinds.keys().map(String::as_str).collect();
    let here = REFUSALS.iter().flat_map(|(_, codes)| codes.iter());
    let here: BTreeSet<&str> = here.copied().flatten().copied().collect();
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().copied().collect();
    assert_eq!(&here | &elsewhere, known);
    assert_eq!(here.intersection(&elsewhere).next(), None);
}
