//! What the agent tells about itself: the shapes of the local API, of `--json` and of the cloud's
//! `status` command. One definition, so that the three never differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/status`: everything in one screen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's id.
    pub gateway: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since the program started.
    pub uptime_s: u64,
    /// The configuration that runs.
    pub config: ConfigStatus,
    /// Every device.
    pub devices: Vec<DeviceStatus>,
    /// Every model.
    pub models: Vec<ModelStatus>,
    /// Every uplink.
    pub uplinks: Vec<UplinkStatus>,
    /// The store.
    pub buffer: BufferStatus,
    /// The clock.
    pub clock: ClockStatus,
    /// First contact, where one is configured.
    pub bootstrap: Option<BootstrapStatus>,
    /// What is wrong now, one plain sentence each; empty when all is well.
    pub problems: Vec<String>,
}

/// Which configuration runs, and what is wrong with the one that does not.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// `configured`, `last-good` or `none`.
    pub source: String,
    /// Problems of the configured one; the running one has none.
    pub problems: Vec<String>,
    /// Notes on the running one, such as a local table that wins over a cloud one.
    pub notes: Vec<String>,
}

/// State of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// Not tried yet.
    #[default]
    Starting,
    /// A session is open and reads succeed.
    Online,
    /// The device is lost; the poller tries again after a pause.
    Offline,
    /// An operator paused it.
    Paused,
}

/// One device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// `modbus-tcp` or `opcua`.
    pub driver: String,
    /// Where it is.
    pub address: String,
    /// How it does.
    pub state: DeviceState,
    /// The last error, with its causes; kept after recovery until the next success.
    pub error: Option<String>,
    /// How many tags it has.
    pub tags: usize,
    /// How many of them have a good last value.
    pub tags_good: usize,
    /// Reads or notifications that brought samples.
    pub reads_total: u64,
    /// Reads that broke the session.
    pub read_errors_total: u64,
    /// Polls that could not start in time.
    pub overruns_total: u64,
    /// Duration of the last read in milliseconds.
    pub read_ms: f64,
    /// What the session knows and an operator should see, such as excluded addresses.
    pub remarks: Vec<String>,
}

/// One model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Version of the bundle.
    pub version: Option<String>,
    /// SHA-256 of the model file.
    pub sha256: Option<String>,
    /// `running`, `warming-up`, `starved` or `failed`.
    pub state: String,
    /// Why it does not score.
    pub error: Option<String>,
    /// The newest score.
    pub score: Option<f64>,
    /// The newest score over the threshold.
    pub ratio: Option<f64>,
    /// Whether an anomaly lasts.
    pub anomaly: bool,
    /// Windows scored.
    pub windows_total: u64,
    /// Samples shed because scoring could not keep up.
    pub samples_shed_total: u64,
}

/// One uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// Where to.
    pub url: String,
    /// Its profile.
    pub profile: String,
    /// `connecting`, `connected` or `down`.
    pub state: String,
    /// Why it is down.
    pub error: Option<String>,
    /// Messages acknowledged by the broker.
    pub messages_acked_total: u64,
    /// Samples and events acknowledged by the broker.
    pub records_acked_total: u64,
    /// Connections made.
    pub connects_total: u64,
}

/// `GET /v1/buffer`: the store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BufferStatus {
    /// Where it is.
    pub dir: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// The limit.
    pub max_bytes: u64,
    /// Epochs on disk.
    pub epochs: u64,
    /// Samples and events that no uplink has settled, by uplink.
    pub queued: BTreeMap<String, u64>,
    /// Seconds since the last commit.
    pub commit_age_s: Option<f64>,
    /// Why the last commit failed.
    pub commit_error: Option<String>,
    /// What opening the store found.
    pub recovery: Vec<String>,
}

/// The clock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ClockStatus {
    /// Whether the wall clock can be trusted.
    pub set: bool,
    /// Now, RFC 3339, where it can.
    pub utc: Option<String>,
}

/// First contact with a core.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BootstrapStatus {
    /// The provider.
    pub provider: String,
    /// `ready`, `pending`, `denied` or `transient`.
    pub state: String,
    /// What it is waiting for, and what to do.
    pub message: Option<String>,
}

/// `GET /v1/tags`: the last value of a tag.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TagRow {
    /// Full name, `device/tag`.
    pub tag: String,
    /// The last value, scaled; `null` where it is bad.
    pub value: serde_json::Value,
    /// Its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// `good`, `uncertain` or `bad`.
    pub quality: String,
    /// Why it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds since the device last confirmed it.
    pub age_ms: Option<f64>,
    /// When that was, in Unix milliseconds, where the clock is known.
    pub t: Option<f64>,
}

/// `GET /v1/events`: an event as the uplinks see it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EventRow {
    /// The device or model.
    pub source: String,
    /// `anomaly`, `comms` or `alarm`.
    pub kind: String,
    /// `begin`, `update` or `end`.
    pub state: String,
    /// When it began, Unix milliseconds.
    pub start: Option<f64>,
    /// When it ended.
    pub end: Option<f64>,
    /// Everything else.
    pub detail: serde_json::Value,
}

/// `POST /v1/device`: what to do with a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Which.
    pub name: String,
    /// What.
    pub action: DeviceAction,
}

/// What can be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceAction {
    /// Connect a second session, read every tag once, say what came.
    Test,
    /// Stop polling.
    Pause,
    /// Poll again.
    Resume,
}

/// What `device test` found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeviceTest {
    /// The device.
    pub name: String,
    /// Whether every tag was good.
    pub ok: bool,
    /// Milliseconds to connect.
    pub connect_ms: Option<f64>,
    /// Milliseconds to read every tag.
    pub read_ms: Option<f64>,
    /// Why the session failed, with its causes.
    pub error: Option<String>,
    /// The tags, as read.
    pub tags: Vec<TagRow>,
    /// What the session noticed.
    pub remarks: Vec<String>,
}

/// `POST /v1/read`: which tags to read from their devices now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadRequest {
    /// Full names or patterns.
    pub tags: Vec<String>,
}

/// Any answer that is not 2xx.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiError {
    /// What failed.
    pub error: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
