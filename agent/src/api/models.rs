//! Versions of models over the local API.

use std::io::Write;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use futures_util::StreamExt;
use millrace_inference::FILE_BYTES_MAX;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::peer::Peer;
use super::routes::{Door, Refusal};
use crate::apply::Wish;
use crate::shelf::{
    InstallQuery, Installed, ModelAction, ModelRequest, ShelfError, Step, VersionRow, versions,
};

fn refuse(error: impl ToString) -> Refusal {
    Refusal(StatusCode::CONFLICT, error.to_string())
}

/// `GET /v1/models`.
pub(super) async fn list(State(door): State<Door>) -> Result<Json<Vec<VersionRow>>, Refusal> {
    let gateway = door.get();
    let asked = gateway.clone();
    let rows = tokio::task::spawn_blocking(move || versions(&asked.config)).await;
    let mut rows = rows.map_err(refuse)?.map_err(refuse)?;
    for row in rows.iter_mut().filter(|row| row.state == "shadow") {
        let model = gateway.model(&row.model).ok();
        row.comparison = model.and_then(|(_, model)| model.report().shadow);
    }
    Ok(Json(rows))
}

/// `POST /v1/models/install`: the body is a tar of the bundle.
pub(super) async fn install(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Query(query): Query<InstallQuery>,
    body: Body,
) -> Result<Json<Installed>, Refusal> {
    let gateway = door.get();
    let model = gateway.configured_model(query.model.as_deref())?;
    let arrival = gateway.shelf(&model).arriving().map_err(refuse)?;
    let arrival = receive(body, arrival).await?;
    // Whoever may use the socket may bring what nobody signed: the list says so.
    let terms = gateway.terms(false, query.allow_downgrade, peer.named());
    let name = model.name.as_str();
    let admitted = gateway.admit(&model, arrival, terms).await;
    match &admitted {
        Ok(installed) => {
            let version = &installed.version;
            tracing::info!(target: "audit", uid = ?peer.uid, model = name, version = version.version, digest = version.digest, signature = version.signature, "model installed");
        }
        Err(error) => {
            tracing::warn!(target: "audit", uid = ?peer.uid, model = name, %error, "model not installed");
        }
    }
    let mut installed = admitted.map_err(|error| match &error {
        ShelfError::Refused(_) => refuse(format!("not admitted: {error}")),
        ShelfError::Disk(_) => refuse(error),
    })?;
    if query.promote {
        let step = Step::To {
            version: installed.version.digest.clone(),
            older: query.allow_downgrade,
        };
        let wish = Wish::Promote {
            model: model.name,
            step,
        };
        let promoted = gateway.changes.ask_and_wait(wish, &peer.named()).await;
        promoted.map_err(|error| refuse(format!("installed, and not promoted: {error}")))?;
        installed.promoted = true;
    }
    Ok(Json(installed))
}

/// Writes a body into a file, within the limit.
async fn receive(body: Body, mut file: NamedTempFile) -> Result<NamedTempFile, Refusal> {
    let mut pieces = body.into_data_stream();
    let mut received = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(refuse)?;
        received += piece.len() as u64;
        if received > FILE_BYTES_MAX {
            let error = format!("a bundle has at most {} MiB", FILE_BYTES_MAX >> 20);
            return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        file = tokio::task::spawn_blocking(move || file.write_all(&piece).map(|()| file))
            .await
            .map_err(refuse)?
            .map_err(refuse)?;
    }
    Ok(file)
}

/// `POST /v1/models`: answers when the version runs, or why it does not.
pub(super) async fn change(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<ModelRequest>,
) -> Result<Json<Value>, Refusal> {
    let gateway = door.get();
    let model = gateway.configured_model(request.model.as_deref())?;
    if request.action == ModelAction::Remove {
        let version = request.version.clone();
        let version = version.ok_or_else(|| refuse("`version` is missing"))?;
        let shelf = gateway.shelf(&model);
        let removed = tokio::task::spawn_blocking(move || shelf.remove(&version)).await;
        let removed = removed.map_err(refuse)?.map_err(refuse)?;
        tracing::info!(target: "audit", uid = ?peer.uid, model = model.name, version = removed, "model removed");
        return Ok(Json(
            serde_json::json!({"name": model.name, "version": removed}),
        ));
    }
    let wish = Wish::Promote {
        model: model.name,
        step: request.step().map_err(refuse)?,
    };
    let outcome = gateway.changes.ask_and_wait(wish, &peer.named()).await;
    Ok(Json(outcome.map_err(refuse)?))
}
