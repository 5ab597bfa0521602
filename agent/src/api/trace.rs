//! What goes over a device's connection or a line, streamed as it comes.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use millrace_drivers::modbus::Ear;
use serde::Deserialize;

use super::peer::Peer;
use super::routes::{Door, Refusal, json_lines};
use crate::report::TraceLine;
use crate::trace::NoTrace;

/// Pieces that are sent in one go.
const PIECES_AT_ONCE: usize = 64;

/// A new configuration has taken the place of the old one by then.
const RELOAD_PAUSE: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
pub(super) struct TraceQuery {
    of: String,
}

/// `GET /v1/modbus/trace`: JSON lines until the caller goes, or the device does.
pub(super) async fn trace(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Query(query): Query<TraceQuery>,
) -> Result<Response, Refusal> {
    let first = listen(&door, &query.of)?;
    tracing::info!(target: "audit", uid = ?peer.uid, of = %query.of, "somebody listens in");
    let (head, ear) = first;
    let lines = stream::unfold(ear, move |mut ear| {
        let (door, of) = (door.clone(), query.of.clone());
        async move {
            let pieces = ear.hear(PIECES_AT_ONCE).await;
            if pieces.is_empty() {
                // The old configuration is gone, and its connections with it.
                tokio::time::sleep(RELOAD_PAUSE).await;
                let (head, ear) = listen(&door, &of).ok()?;
                return Some((json_lines(&[head]), ear));
            }
            let pieces = pieces.into_iter();
            let lines = pieces.map(|piece| TraceLine::Piece(piece.into()));
            Some((json_lines(&lines.collect::<Vec<_>>()), ear))
        }
    });
    let lines = stream::once(async move { json_lines(&[head]) }).chain(lines);
    let lines = lines.map(Ok::<_, Infallible>);
    Ok(Body::from_stream(lines).into_response())
}

fn listen(door: &Door, of: &str) -> Result<(TraceLine, Ear), Refusal> {
    let (tap, point) = door.get().trace_point(of).map_err(|error| {
        let status = match &error {
            NoTrace::NotFound(_) => StatusCode::NOT_FOUND,
            NoTrace::OpcUa(_) => StatusCode::BAD_REQUEST,
        };
        Refusal(status, error.to_string())
    })?;
    let Some(ear) = tap.listen() else {
        let error = format!("too many listen to {of} already; end one of them");
        return Err(Refusal(StatusCode::CONFLICT, error));
    };
    Ok((TraceLine::Of(point), ear))
}
