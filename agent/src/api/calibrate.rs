//! What models have learned: forgotten on request.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::peer::Peer;
use super::routes::{Door, Refusal};
use crate::report::ModelStatus;

/// `POST /v1/models/calibrate`: the model learns anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CalibrateRequest {
    /// Its name.
    pub(crate) model: String,
}

/// Has it done with the next window; answers with how it stands.
pub(super) async fn restart(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<CalibrateRequest>,
) -> Result<Json<ModelStatus>, Refusal> {
    let name = &request.model;
    let gateway = door.get();
    let (_, model) = gateway.model(name)?;
    let learns = model.learn_anew().await;
    tracing::info!(target: "audit", uid = ?peer.uid, model = %name, done = learns, "the calibration begins anew");
    if !learns {
        let error = format!(
            "model {name} learns nothing on this gateway: its threshold is fixed, and its detector is not trained here"
        );
        return Err(Refusal(StatusCode::CONFLICT, error));
    }
    Ok(Json(model.report()))
}
