//! What can be asked over the socket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::peer::{Peer, Role};
use super::{bootstrap, buffer, calibrate, config, line, models, stored, trace};
use crate::gateway::{Gateway, NotFound};
use crate::opcua::Unanswered;
use crate::poison::{PoisonDone, PoisonRequest};
use crate::report::{
    ApiError, DeviceAction, DeviceRequest, EventRow, OpcuaRequest, ReadRequest, TagRow, WriteDone,
    WriteRequest,
};
use crate::supervisor::Current;
use crate::write::WriteRefusal;

/// What the API looks into: the gateway that runs now, which a new configuration replaces.
pub(crate) type Door = Arc<Current>;

/// How often `tags --follow` looks for news.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// All routes.
pub(crate) fn router(door: Door) -> Router {
    Router::new()
        .route(
            "/v1/status",
            get(async |State(door): State<Door>| Json(door.get().status())),
        )
        .route(
            "/v1/devices",
            get(async |State(door): State<Door>| Json(door.get().device_reports())),
        )
        .route("/v1/device", post(device))
        .route("/v1/tags", get(tags))
        .route("/v1/read", post(read))
        .route("/v1/write", post(write))
        .route("/v1/opcua", post(opcua))
        .route("/v1/modbus", get(line::report))
        .route("/v1/modbus/tunnel", get(line::tunnel))
        .route("/v1/modbus/trace", get(trace::trace))
        .route("/v1/events", get(events))
        .route("/v1/ledger", get(ledger))
        .route(
            "/v1/buffer",
            get(async |State(door): State<Door>| Json(door.get().buffer_report())),
        )
        .route("/v1/models/calibrate", post(calibrate::restart))
        .route("/v1/models", get(models::list).post(models::change))
        .route("/v1/models/install", post(models::install))
        .route("/v1/bootstrap", post(bootstrap::wish))
        .route("/v1/buffer/replay", post(buffer::replay))
        .route("/v1/buffer/purge", post(buffer::purge))
        .route("/v1/buffer/records", get(stored::records))
        .route("/v1/buffer/chunks", get(stored::chunks))
        .route(
            "/v1/buffer/poison",
            get(async |State(door): State<Door>| Json(door.get().poison())).post(poison),
        )
        .route(
            "/v1/config",
            get(async |State(door): State<Door>| Json(door.get().config_files())),
        )
        .route("/v1/config/apply", post(config::apply))
        .route("/v1/config/rollback", post(config::rollback))
        .route("/v1/config/diff", post(config::diff))
        .route("/v1/audit", get(config::audit))
        .fallback(async || {
            Refusal(
                StatusCode::NOT_FOUND,
                "this agent has no such route; is the command line of the same version?".to_owned(),
            )
        })
        .layer(axum::middleware::from_fn(admit))
        .with_state(door)
}

/// A refused request: the status, and a sentence.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (
            self.0,
            Json(ApiError {
                error: self.1,
                hint: None,
            }),
        )
            .into_response()
    }
}

impl From<NotFound> for Refusal {
    fn from(error: NotFound) -> Self {
        Self(StatusCode::NOT_FOUND, error.to_string())
    }
}

/// Strangers are refused; changes are logged with who made them.
async fn admit(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    if peer.role < Role::Engineer {
        let error = "this user may not ask the agent".to_owned();
        let hint = Some("add the user to group millrace, or use root".to_owned());
        return (StatusCode::FORBIDDEN, Json(ApiError { error, hint })).into_response();
    }
    next.run(request).await
}

async fn device(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<DeviceRequest>,
) -> Result<Response, Refusal> {
    let gateway = door.get();
    let device = gateway.device(&request.name)?;
    tracing::info!(target: "audit", uid = ?peer.uid, device = %request.name, action = ?request.action, "device");
    match request.action {
        DeviceAction::Test => return Ok(Json(gateway.test(&device).await).into_response()),
        DeviceAction::Pause => device.pause(true),
        DeviceAction::Resume => device.pause(false),
    }
    Ok(Json(gateway.device_report(&device)).into_response())
}

async fn poison(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<PoisonRequest>,
) -> Json<PoisonDone> {
    let done = door.get().resolve_poison(&request);
    tracing::info!(target: "audit", uid = ?peer.uid, action = ?request.action, done = ?done.done, "poison");
    Json(done)
}

async fn read(
    State(door): State<Door>,
    Json(request): Json<ReadRequest>,
) -> Result<Json<Vec<TagRow>>, Refusal> {
    Ok(Json(door.get().read(&request.tags).await?))
}

async fn write(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<WriteRequest>,
) -> Result<Json<WriteDone>, Refusal> {
    let who = peer.named();
    let written = door.get().write(&request.tag, &request.value, &who).await;
    written.map(Json).map_err(|refusal| {
        let status = match &refusal {
            WriteRefusal::NotFound(_) => StatusCode::NOT_FOUND,
            WriteRefusal::NotGranted(_) => StatusCode::FORBIDDEN,
            WriteRefusal::Refused(_) | WriteRefusal::Failed(_) => StatusCode::CONFLICT,
        };
        Refusal(status, refusal.to_string())
    })
}

async fn opcua(
    State(door): State<Door>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<OpcuaRequest>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let answer = door.get().ask_opcua(&request, &peer.named()).await;
    answer.map(Json).map_err(|error| {
        let status = match &error {
            Unanswered::NotFound(_) => StatusCode::NOT_FOUND,
            Unanswered::Address(_) => StatusCode::BAD_REQUEST,
            Unanswered::Session(_) | Unanswered::Call(_) => StatusCode::CONFLICT,
        };
        Refusal(status, crate::device::chain(&error))
    })
}

#[derive(Deserialize)]
struct TagsQuery {
    pattern: Option<String>,
    follow: Option<u8>,
}

async fn tags(State(door): State<Door>, Query(query): Query<TagsQuery>) -> Response {
    let pattern = query.pattern.unwrap_or_else(|| "*".to_owned());
    if query.follow.unwrap_or(0) == 0 {
        return Json(door.get().tag_rows(&pattern)).into_response();
    }
    follow_tags(door, pattern)
}

/// All rows once, then those that the device confirmed since the last look.
fn follow_tags(door: Door, pattern: String) -> Response {
    let look = move |since: Option<Duration>| {
        let (door, pattern) = (door.clone(), pattern.clone());
        async move {
            if since.is_some() {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
            let gateway = door.get();
            let looked = gateway.uptime();
            let mut rows = gateway.tag_rows(&pattern);
            if let Some(since) = since {
                // Measured after the rows were taken: rather one twice than one never.
                let oldest = gateway.uptime().saturating_sub(since).as_secs_f64() * 1e3;
                rows.retain(|row| row.age_ms.is_some_and(|age| age <= oldest));
            }
            Some((Ok::<_, Infallible>(json_lines(&rows)), Some(looked)))
        }
    };
    Body::from_stream(stream::unfold(None, look)).into_response()
}

#[derive(Deserialize)]
struct EventsQuery {
    follow: Option<u8>,
}

async fn events(State(door): State<Door>, Query(query): Query<EventsQuery>) -> Response {
    if query.follow.unwrap_or(0) == 0 {
        return Json(door.get().events.report()).into_response();
    }
    let follower = Follower::new(door);
    let lines = stream::unfold(follower, async |mut follower| {
        let lines = json_lines(&follower.next().await);
        Some((Ok::<_, Infallible>(lines), follower))
    });
    Body::from_stream(lines).into_response()
}

/// Somebody who wants every event, over new configurations, too.
struct Follower {
    door: Door,
    so_far: Vec<EventRow>,
    news: broadcast::Receiver<EventRow>,
    last: Option<EventRow>,
}

impl Follower {
    fn new(door: Door) -> Self {
        let (so_far, news) = door.get().events.follow();
        Self {
            door,
            so_far,
            news,
            last: None,
        }
    }

    async fn next(&mut self) -> Vec<EventRow> {
        loop {
            if !self.so_far.is_empty() {
                self.last = self.so_far.last().cloned();
                return std::mem::take(&mut self.so_far);
            }
            match self.news.recv().await {
                Ok(row) => self.so_far.push(row),
                // The follower was too slow and misses some.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => self.go_on().await,
            }
        }
    }

    /// The log of the old configuration is gone; the new one has inherited it.
    async fn go_on(&mut self) {
        tokio::time::sleep(FOLLOW_EVERY).await;
        let (mut so_far, news) = self.door.get().events.follow();
        let seen = so_far
            .iter()
            .rposition(|row| Some(row) == self.last.as_ref());
        so_far.drain(..seen.map_or(0, |last| last + 1));
        self.so_far = so_far;
        self.news = news;
    }
}

#[derive(Deserialize)]
struct LedgerQuery {
    verify: Option<u8>,
}

async fn ledger(
    State(door): State<Door>,
    Query(query): Query<LedgerQuery>,
) -> Result<Response, Refusal> {
    let buffer = door.get().buffer.clone();
    if query.verify.unwrap_or(0) == 0 {
        return Ok(Json(buffer.ledger()).into_response());
    }
    let failed = |error: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error);
    let counted = tokio::task::spawn_blocking(move || buffer.verify()).await;
    let ledger = counted.map_err(|error| failed(error.to_string()))?;
    Ok(Json(ledger.map_err(|error| failed(crate::device::chain(&error)))?).into_response())
}

pub(super) fn json_lines<T: Serialize>(rows: &[T]) -> Vec<u8> {
    let mut lines = Vec::new();
    for row in rows {
        // Our own plain structs always serialise.
        if serde_json::to_writer(&mut lines, row).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}

impl Gateway {
    /// Time since the program started.
    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
