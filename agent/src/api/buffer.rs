//! Changes to the store: what is sent again, what is thrown away.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use millrace_buffer::{Purge, Purged, Replayed};
use millrace_tags::Timestamp;

use super::peer::{Peer, Role};
use super::routes::{Door, Refusal};
use crate::device::chain;
use crate::replay::ReplayRequest;
use crate::report::PurgeRequest;

/// `POST /v1/buffer/replay`.
pub(super) async fn replay(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<ReplayRequest>,
) -> Result<Json<Replayed>, Refusal> {
    tracing::info!(target: "audit", uid = ?peer.uid, request = ?request, "buffer replay");
    let replay = request
        .replay()
        .map_err(|error| Refusal(StatusCode::UNPROCESSABLE_ENTITY, error))?;
    let buffer = door.get().buffer.clone();
    let work = move || buffer.replay(request.uplink.as_deref(), replay);
    on_disk(work).await
}

/// `POST /v1/buffer/purge`: for admins only.
pub(super) async fn purge(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<PurgeRequest>,
) -> Result<Json<Purged>, Refusal> {
    let granted = peer.role >= Role::Admin;
    tracing::info!(target: "audit", uid = ?peer.uid, request = ?request, granted, "buffer purge");
    if !granted {
        let error = "only root and the service user may throw stored data away";
        return Err(Refusal(StatusCode::FORBIDDEN, error.to_owned()));
    }
    let buffer = door.get().buffer.clone();
    let purge = Purge {
        before: request.before_ms.map(Timestamp::from_unix_ms),
        log: request.log,
    };
    on_disk(move || buffer.purge(purge)).await
}

/// Runs what waits for the disk.
async fn on_disk<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<Json<T>, Refusal> {
    let failed = |error: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error);
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| failed(error.to_string()))?;
    done.map(Json).map_err(|error| failed(chain(&error)))
}
