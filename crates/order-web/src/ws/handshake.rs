//! From a request to a socket: who may have one, and the handshake of RFC 6455 §4.2.
//!
//! The upgrade is done here and not by axum's extractor because the task of a socket must
//! run on the tracker that shutdown waits for, and because the socket itself is needed to
//! tell errors apart and to close without a reset.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderValue, Request,
    header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use order_core::Error;
use order_edge::client_address;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::{
    Shared,
    command::Ticket,
    connection::{Connection, Guest},
};
use crate::{
    http::{
        operation::Call,
        problem::{Problem, ProtocolError},
        query,
    },
    origin,
};

/// The subprotocol a client may name; one that names none speaks the same.
const SUBPROTOCOL: &str = "orders.v1";

/// Answers `/ws`: with a socket if everything is right.
pub(super) async fn upgrade(shared: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let request_id = &call.request_id;
    let mut request = Request::from_parts(call.parts, ());
    if shared.stop.is_cancelled() {
        return Err(Error::shutting_down().into());
    }
    if !origin::may_upgrade(request.headers(), &shared.config.allowed_origins) {
        return Err(ProtocolError::OriginNotAllowed.into());
    }
    let ticket = parse_ticket(request.uri().query())?;
    join_connection_lines(request.headers_mut());
    let mut response = create_response_with_body(&request, Body::empty)
        .map_err(|_| ProtocolError::UpgradeRequired)?;
    let on_upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or(ProtocolError::UpgradeRequired)?;
    let client = client_address(request.extensions());
    let mut admitted = shared.admission.admit(client)?;
    let (mut session, inbox) = shared.hub.session()?;
    let may_authenticate = ticket.is_none();
    // Last of all: a request that is refused for another reason leaves the ticket as it is.
    if let Some(ticket) = ticket {
        let ctx = shared.context(request_id);
        let user_id = shared.redeem(&ctx, &ticket).await?;
        admitted.assign_to(&user_id)?;
        session.restrict_to(user_id);
    }
    if names_subprotocol(request.headers()) {
        response.headers_mut().insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
    }
    let task_shared = Arc::clone(&shared);
    let guest = Guest {
        request_id: request_id.clone(),
        admitted,
        session,
        inbox,
        may_authenticate,
    };
    shared.tracker.spawn(async move {
        // An error means that the client left before it read the answer.
        if let Ok(upgraded) = on_upgrade.await {
            let stream = TokioIo::new(upgraded);
            let connection = Connection::new(task_shared, stream, guest).await;
            connection.run().await;
        }
    });
    Ok(response)
}

/// Reads the query: nothing, or one ticket. The error repeats nothing of it, because it may
/// hold a ticket all the same.
fn parse_ticket(query: Option<&str>) -> Result<Option<Ticket>, Error> {
    let mut ticket = None;
    for (name, value) in query::pairs(query) {
        let (Some("ticket"), Some(value), None) = (name.as_deref(), value, &ticket) else {
            return Err(Error::invalid(
                "ticket",
                "must be the only query parameter, and be given once",
            ));
        };
        ticket = Some(Ticket::new(value));
    }
    Ok(ticket)
}

/// Makes one line of several that say the same (RFC 9110 §5.3): what checks the handshake reads
/// the first one only.
fn join_connection_lines(headers: &mut HeaderMap) {
    let lines = headers.get_all(CONNECTION).iter();
    let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
    if let Ok(line) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
        headers.insert(CONNECTION, line);
    }
}

fn names_subprotocol(headers: &HeaderMap) -> bool {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == SUBPROTOCOL)
}
