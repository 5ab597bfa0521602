//! The configuration over the local API: what would change, and changing it as a transaction.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::peer::Peer;
use super::routes::{Door, Refusal};
use crate::apply::{ApplyRequest, Wanted, Wish, watch_time};
use crate::config::written::{Difference, differences};

fn refuse(error: String) -> Refusal {
    Refusal(StatusCode::CONFLICT, error)
}

/// `POST /v1/config/apply`: answers when the configuration is kept, or taken back.
pub(super) async fn apply(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<ApplyRequest>,
) -> Result<Json<Value>, Refusal> {
    let changes = door.get().changes.clone();
    let watch = watch_time(request.watch.as_deref()).map_err(refuse)?;
    let what = match request.toml {
        None => Wanted::Files,
        Some(text) => {
            let check = changes.clone();
            let checked = tokio::task::spawn_blocking(move || check.check(&text)).await;
            let checked = checked.map_err(|error| refuse(error.to_string()))?;
            Wanted::Layer(Some(checked.map_err(refuse)?.layer))
        }
    };
    let who = peer.named();
    let outcome = changes.ask_and_wait(Wish::Try { what, watch }, &who).await;
    Ok(Json(outcome.map_err(refuse)?))
}

/// `POST /v1/config/rollback`.
pub(super) async fn rollback(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<ApplyRequest>,
) -> Result<Json<Value>, Refusal> {
    let gateway = door.get();
    let watch = watch_time(request.watch.as_deref()).map_err(refuse)?;
    let what = Wanted::Layer(gateway.previous_layer().map_err(refuse)?);
    let who = peer.named();
    let changes = &gateway.changes;
    let outcome = changes.ask_and_wait(Wish::Try { what, watch }, &who).await;
    Ok(Json(outcome.map_err(refuse)?))
}

/// `POST /v1/config/diff`: what the text as cloud layer, or the files on disk, would change.
pub(super) async fn diff(
    State(door): State<Door>,
    Json(request): Json<ApplyRequest>,
) -> Result<Json<Vec<Difference>>, Refusal> {
    let gateway = door.get();
    let changes = gateway.changes.clone();
    let read = move || match request.toml {
        Some(text) => changes.check(&text).map(|checked| checked.loaded),
        None => changes.load().map_err(|problems| problems.to_string()),
    };
    let loaded = tokio::task::spawn_blocking(read).await;
    let loaded = loaded.map_err(|error| refuse(error.to_string()))?;
    let loaded = loaded.map_err(refuse)?;
    Ok(Json(differences(
        &gateway.config.written,
        &loaded.config.written,
    )))
}

/// `GET /v1/audit`: the newest lines.
pub(super) async fn audit(State(door): State<Door>) -> Json<Vec<Value>> {
    let data_dir = door.get().config.gateway.data_dir.clone();
    let lines = tokio::task::spawn_blocking(move || crate::audit::lines(&data_dir)).await;
    Json(lines.unwrap_or_default())
}
