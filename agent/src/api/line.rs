//! Lines and Modbus units of the running configuration, and a tool's way to them: a port that the agent holds is
//! open to nobody else.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use millrace_drivers::modbus::serve_line;
use serde::Deserialize;

use super::peer::Peer;
use super::routes::{Door, Refusal};
use crate::report::ModbusReport;

/// The protocol that a tool switches its connection to.
pub(crate) const TUNNEL: &str = "modbus-tcp";

/// No unit answers later than this.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// `GET /v1/modbus`.
pub(super) async fn report(State(door): State<Door>) -> Json<ModbusReport> {
    Json(door.get().modbus_report())
}

#[derive(Deserialize)]
pub(super) struct TunnelQuery {
    line: String,
    timeout_ms: u64,
}

/// `GET /v1/modbus/tunnel`: from the answer on the connection speaks Modbus TCP with the units of the line.
pub(super) async fn tunnel(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Query(query): Query<TunnelQuery>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let line = door.get().line(&query.line)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let timeout = Duration::from_millis(query.timeout_ms).min(TIMEOUT_MAX);
    tracing::info!(target: "audit", uid = ?peer.uid, line = %query.line, "a tool uses the line");
    tokio::spawn(async move {
        let served = async {
            let stream = TokioIo::new(upgrade.await?);
            let audit = |unit: u8, request: &millrace_drivers::modbus::Request| {
                if request.is_write() {
                    tracing::info!(
                        target: "audit", uid = ?peer.uid, line = line.name(), unit, ?request, "a tool writes"
                    );
                }
            };
            Ok::<_, anyhow::Error>(serve_line(stream, &line, timeout, audit).await?)
        };
        if let Err(error) = served.await {
            tracing::debug!(error = %error, "the connection of a tool broke");
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, TUNNEL)
        .body(Body::empty())
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
