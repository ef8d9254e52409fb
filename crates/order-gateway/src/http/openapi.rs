//! The OpenAPI 3.1 document, put together from what stands beside each handler.
//!
//! Adds what no single handler knows: the answers that all share, because they come from
//! around the handlers, and the links from one operation to the next.

use serde_json::json;
use utoipa::{
    OpenApi as _,
    openapi::{
        ContentBuilder, HttpMethod, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
        Schema, Type,
        link::Link,
        path::{Operation, OperationBuilder},
        schema::SchemaType,
    },
};

use super::{pages, problem, routes};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Order system",
        description = "Takes orders, processes them, and tells whoever watches.\n\n\
            Every answer that is not a success is a problem document (RFC 9457) whose `type` \
            is a page of this server. Orders can also be followed over a WebSocket; \
            `/asyncapi.json` describes it.",
        license(name = "MIT", identifier = "MIT"),
    ),
    servers((url = "/")),
    tags(
        (name = "orders", description = "Placing, reading and changing orders"),
        (name = "streams", description = "Following orders as they change"),
        (name = "problems", description = "What each `type` of a problem document means"),
        (name = "documents", description = "Machine-readable descriptions of this server"),
        (name = "health", description = "For whoever starts, stops and balances processes"),
    ),
    paths(
        routes::create_order::create_order,
        routes::list_orders::list_orders,
        routes::get_order::get_order,
        routes::cancel_order::cancel_order,
        routes::retry_order::retry_order,
        routes::list_events::list_events,
        routes::create_stream_ticket::create_stream_ticket,
        pages::problems::list_problems,
        pages::problems::get_problem,
        pages::get_openapi,
        pages::get_asyncapi,
    ),
    components(schemas(problem::Document)),
)]
struct Api;

/// Makes the document.
pub(super) fn document() -> OpenApi {
    let mut document = Api::openapi();
    for (path, operation) in [("/livez", livez()), ("/readyz", readyz())] {
        document
            .paths
            .add_path_operation(path, vec![HttpMethod::Get], operation);
    }
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            add_shared_answers(operation);
            forbid_null_body(operation);
        }
    }
    link_operations(&mut document);
    document
}

fn livez() -> Operation {
    probe(
        "livez",
        "Says that the process runs; touches nothing else.",
        "alive",
    )
    .build()
}

fn readyz() -> Operation {
    let not_ready = "The system behind cannot answer, or the process is stopping.";
    probe("readyz", "Says whether requests should come here.", "ready")
        .response("503", problem_response(not_ready))
        .build()
}

/// Probes are shared with the listener for operators, which has no document.
fn probe(id: &str, summary: &str, answer: &str) -> OperationBuilder {
    let text = ContentBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .example(Some(json!(format!("{answer}\n"))));
    let ok = ResponseBuilder::new()
        .description("Yes.")
        .content("text/plain", text.build());
    OperationBuilder::new()
        .tag("health")
        .operation_id(Some(id))
        .summary(Some(summary))
        .response("200", ok)
}

/// Announces the answers that come from around every handler, where the handler does not
/// say more about them.
fn add_shared_answers(operation: &mut Operation) {
    let mut shared = vec![("500", "`INTERNAL`: An internal error occurred.")];
    // Probes are answered under any load and whatever the client reads.
    if operation.tags.as_deref() != Some(&["health".to_owned()]) {
        shared.extend([
            (
                "406",
                "`NOT_ACCEPTABLE`: No acceptable representation exists.",
            ),
            ("503", "`OVERLOADED`: The service is overloaded."),
        ]);
    }
    for (status, description) in shared {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| problem_response(description).into());
    }
}

fn problem_response(description: &str) -> Response {
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", problem.build())
        .build()
}

/// A body that may be left out may not be `null` instead, which is what an `Option` means to
/// the macro that reads the handlers.
fn forbid_null_body(operation: &mut Operation) {
    let Some(RefOr::T(body)) = &mut operation.request_body else {
        return;
    };
    for content in body.content.values_mut() {
        if let RefOr::T(content) = content
            && let Some(RefOr::T(Schema::OneOf(one_of))) = &content.schema
            && let Some(schema) = one_of.items.iter().find(|schema| !is_null(schema))
        {
            content.schema = Some(schema.clone());
        }
    }
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object))
        if object.schema_type == SchemaType::Type(Type::Null))
}

/// Says which operations take the id that an answer holds. Clients find their way by it, and
/// testers make sequences of requests from it.
fn link_operations(document: &mut OpenApi) {
    let paths = &mut document.paths.paths;
    let created = paths
        .get_mut("/orders")
        .and_then(|item| item.post.as_mut()?.responses.responses.get_mut("201"));
    if let Some(RefOr::T(created)) = created {
        link_order(created);
    }
    let read = paths
        .get_mut("/orders/{order_id}")
        .and_then(|item| item.get.as_mut()?.responses.responses.get_mut("200"));
    if let Some(RefOr::T(read)) = read {
        link_order(read);
    }
}

fn link_order(response: &mut Response) {
    for operation in ["get_order", "cancel_order", "retry_order", "list_events"] {
        let link = Link::builder()
            .operation_id(operation)
            .parameter("order_id", "$response.body#/order_id")
            .build();
        response.links.insert(operation.to_owned(), link.into());
    }
}
