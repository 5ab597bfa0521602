//! What a person wants of the bootstrap.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::peer::{Peer, Role};
use super::routes::{Door, Refusal};
use crate::bootstrap::Wish;
use crate::report::BootstrapStatus;

/// `POST /v1/bootstrap`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootstrapRequest {
    /// `run` or `reset`.
    pub(crate) wish: Wish,
}

/// Has it done soon; answers with how it stands now. `reset` is for admins only.
pub(super) async fn wish(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<BootstrapRequest>,
) -> Result<Json<Option<BootstrapStatus>>, Refusal> {
    let granted = request.wish == Wish::Run || peer.role >= Role::Admin;
    tracing::info!(target: "audit", uid = ?peer.uid, request = ?request, granted, "bootstrap");
    if !granted {
        let error = "only root and the service user may have the enrolment forgotten";
        return Err(Refusal(StatusCode::FORBIDDEN, error.to_owned()));
    }
    let desk = &door.get().bootstrap;
    if !desk.ask_for(request.wish) {
        let error = "no [bootstrap] is configured on this gateway, and no claim was brought";
        return Err(Refusal(StatusCode::CONFLICT, error.to_owned()));
    }
    Ok(Json(desk.status()))
}
