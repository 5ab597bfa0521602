//! What the agent tells about itself: the shapes of the local API, of `--json` and of the cloud's
//! `status` command. One definition, so that the three never differ.

mod buffer;
mod device;
mod modbus;
mod model;
mod opcua;
mod uplink;

use millrace_tags::LogKind;
use serde::{Deserialize, Serialize};

pub(crate) use buffer::{BufferStatus, Damage, Lanes, LogStatus, Refused, about_duration};
pub(crate) use device::{DeviceState, DeviceStatus, ExcludedRange, Since, TroubleReport};
pub(crate) use modbus::{LineReport, ModbusReport, TraceLine, TracePiece, TracePoint, UnitReport};
pub(crate) use model::{
    CalibrationStatus, ModelStatus, NextStatus, ShadowStatus, TakenBackStatus, TrialStatus,
};
pub(crate) use opcua::{
    CallDone, CallOutput, NodeRow, NodeTree, OpcuaQuestion, OpcuaRequest, ServerIdentity,
};
pub(crate) use uplink::{CoreStatus, LearnedLimits, MeteredStatus, UplinkStatus};

/// `GET /v1/status`: everything in one screen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The gateway's id.
    pub(crate) gateway: String,
    /// Version of the program.
    pub(crate) version: String,
    /// Seconds since the program started.
    pub(crate) uptime_s: u64,
    /// The configuration that runs.
    pub(crate) config: ConfigStatus,
    /// Every device.
    pub(crate) devices: Vec<DeviceStatus>,
    /// Every model.
    pub(crate) models: Vec<ModelStatus>,
    /// Every uplink.
    pub(crate) uplinks: Vec<UplinkStatus>,
    /// The store.
    pub(crate) buffer: BufferStatus,
    /// The clock.
    pub(crate) clock: ClockStatus,
    /// First contact, where one is configured.
    pub(crate) bootstrap: Option<BootstrapStatus>,
    /// What is wrong now, one plain sentence each; empty when all is well.
    pub(crate) problems: Vec<String>,
}

/// Which configuration runs, and what is wrong with the one that does not.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ConfigStatus {
    /// `configured`, `last-good` or `none`.
    pub(crate) source: String,
    /// Problems of the one on disk, where that is not the running one; the running one has none.
    pub(crate) problems: Vec<String>,
    /// Notes on the running one, such as a local table that wins over a cloud one.
    pub(crate) notes: Vec<String>,
    /// What came of the last change that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_change: Option<LastChange>,
}

/// A configuration that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastChange {
    /// `trying`, `kept` or `taken-back`.
    pub(crate) state: String,
    /// Who wanted it.
    pub(crate) who: String,
    /// Why it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The clock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ClockStatus {
    /// Whether the wall clock can be trusted.
    pub(crate) set: bool,
    /// Now, RFC 3339, where it can.
    pub(crate) utc: Option<String>,
}

/// First contact with a core.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootstrapStatus {
    /// The provider.
    pub(crate) provider: String,
    /// `ready`; `trial`: enrolled, and not yet connected with it; `pending`, `denied` or `transient`: not enrolled.
    pub(crate) state: String,
    /// What it is waiting for, and what to do.
    pub(crate) message: Option<String>,
    /// What is wrong with a claim that an installer brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) claim: Option<String>,
}

/// `GET /v1/tags`: the last value of a tag.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TagRow {
    /// Full name, `device/tag`.
    pub(crate) tag: String,
    /// The last value, scaled; `null` where it is bad.
    pub(crate) value: serde_json::Value,
    /// Its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    /// `good`, `uncertain` or `bad`.
    pub(crate) quality: String,
    /// Why it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Milliseconds since the device last confirmed it.
    pub(crate) age_ms: Option<f64>,
    /// When that was, in Unix milliseconds, where the clock is known.
    pub(crate) t: Option<f64>,
}

/// `GET /v1/events`: an event as the uplinks see it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EventRow {
    /// The device or model.
    pub(crate) source: String,
    /// `anomaly`, `comms` or `alarm`.
    pub(crate) kind: String,
    /// `begin`, `update` or `end`.
    pub(crate) state: String,
    /// When it began, Unix milliseconds.
    pub(crate) start: Option<f64>,
    /// When it ended.
    pub(crate) end: Option<f64>,
    /// Everything else.
    pub(crate) detail: serde_json::Value,
}

/// `POST /v1/buffer/purge`: what of the store is to go; all of it where nothing is said.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PurgeRequest {
    /// Only what is older, in Unix milliseconds.
    pub(crate) before_ms: Option<i64>,
    /// Only this log.
    pub(crate) log: Option<LogKind>,
}

/// `POST /v1/device`: what to do with a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeviceRequest {
    /// Which.
    pub(crate) name: String,
    /// What.
    pub(crate) action: DeviceAction,
}

/// What can be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceAction {
    /// Connect a second session, read every tag once, say what came.
    Test,
    /// Stop polling.
    Pause,
    /// Poll again.
    Resume,
}

/// What `device test` found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DeviceTest {
    /// The device.
    pub(crate) name: String,
    /// Whether every tag was good.
    pub(crate) ok: bool,
    /// Milliseconds to connect.
    pub(crate) connect_ms: Option<f64>,
    /// Milliseconds to read every tag.
    pub(crate) read_ms: Option<f64>,
    /// Why the session failed, with its causes.
    pub(crate) error: Option<String>,
    /// The tags, as read.
    pub(crate) tags: Vec<TagRow>,
    /// What the session noticed.
    pub(crate) remarks: Vec<String>,
}

/// `POST /v1/read`: which tags to read from their devices now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReadRequest {
    /// Full names or patterns.
    pub(crate) tags: Vec<String>,
}

/// A tag and the value that it shall have, in its own unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WriteRequest {
    /// Full name.
    pub(crate) tag: String,
    /// A number, true, false, a text or an array.
    pub(crate) value: serde_json::Value,
}

/// A write that was read back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WriteDone {
    /// Full name.
    pub(crate) tag: String,
    /// What was written.
    pub(crate) value: serde_json::Value,
    /// What the device held before; null where that was no value.
    pub(crate) old: serde_json::Value,
    /// What the device holds now.
    pub(crate) read_back: serde_json::Value,
    /// The unit of all three.
    pub(crate) unit: Option<String>,
}

/// Any answer that is not 2xx.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ApiError {
    /// What failed.
    pub(crate) error: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

/// What is wrong, one plain sentence each, the worst first.
pub(crate) fn problems(status: &Status) -> Vec<String> {
    let store = status.buffer.problems().into_iter();
    store
        .chain(runway_problem(status))
        .chain(config_problem(&status.config))
        .chain(device::problems(&status.devices))
        .chain(status.uplinks.iter().filter_map(uplink::problem))
        .chain(status.models.iter().filter_map(model_problem))
        .chain(status.bootstrap.as_ref().and_then(bootstrap_problem))
        .chain(clock_problem(&status.clock))
        .collect()
}

/// While an uplink is down, less room than for this is a problem.
const RUNWAY_SHORT_S: u64 = 24 * 3600;

/// What will be lost if an uplink stays down.
pub(crate) fn runway_problem(status: &Status) -> Option<String> {
    let runway = status.buffer.runway_s?;
    let stays = |state: &str| state == "down" || state == "waiting";
    let down = status.uplinks.iter().find(|u| stays(&u.state))?;
    (runway < RUNWAY_SHORT_S).then(|| {
        format!(
            "the store is full in about {} if uplink {} stays down",
            about_duration(runway),
            down.name
        )
    })
}

fn config_problem(config: &ConfigStatus) -> Option<String> {
    let (count, running) = (config.problems.len(), &config.source);
    if running != "configured" {
        Some(format!(
            "the configuration has {count} problems; {running} runs instead (see `millrace check`)"
        ))
    } else if count > 0 {
        Some(
            "the configuration on disk was changed and cannot be used; the one before it runs on \
             (see `millrace check`)"
                .to_owned(),
        )
    } else {
        None
    }
}

fn model_problem(model: &ModelStatus) -> Option<String> {
    let (name, error) = (&model.name, cause(&model.error));
    if model.state == "failed" || model.state == "starved" {
        return Some(format!("model {name} does not score: {error}"));
    }
    let taken_back = model.taken_back.as_ref()?;
    let (version, reason) = (&taken_back.version, &taken_back.reason);
    Some(format!(
        "version {version} of model {name} was taken back: {reason}"
    ))
}

fn bootstrap_problem(bootstrap: &BootstrapStatus) -> Option<String> {
    let (state, message) = (&bootstrap.state, cause(&bootstrap.message));
    if let Some(claim) = &bootstrap.claim {
        return Some(claim.clone());
    }
    match state.as_str() {
        "ready" => None,
        "trial" => Some(format!("the enrolment is on trial: {message}")),
        _ => Some(format!("not enrolled ({state}): {message}")),
    }
}

fn clock_problem(clock: &ClockStatus) -> Option<String> {
    let said = "the clock is not set; times are counted from boot until it is";
    (!clock.set).then(|| said.to_owned())
}

fn cause(error: &Option<String>) -> &str {
    error.as_deref().unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_what_is_well_is_not_named() {
        let device = |name: &str, state, tags_good| DeviceStatus {
            name: name.to_owned(),
            state,
            tags: 2,
            tags_good,
            ..DeviceStatus::default()
        };
        let mut status = Status {
            devices: vec![
                device("well", DeviceState::Online, 2),
                device("lost", DeviceState::Offline, 0),
                device("partly", DeviceState::Online, 1),
                device("paused", DeviceState::Paused, 0),
            ],
            ..Status::default()
        };
        status.clock.set = true;
        status.config.source = "configured".to_owned();
        let said = problems(&status);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("lost") && said[1].contains("1 of 2"));

        let down = UplinkStatus {
            name: "cloud".to_owned(),
            state: "down".to_owned(),
            ..UplinkStatus::default()
        };
        status.uplinks = vec![down];
        status.buffer.runway_s = Some(30 * 3600);
        assert_eq!(runway_problem(&status), None);
        status.buffer.runway_s = Some(5 * 3600 + 70);
        let said = problems(&status);
        assert_eq!(
            said[0],
            "the store is full in about 5 h if uplink cloud stays down"
        );
        status.uplinks.clear();
        assert_eq!(runway_problem(&status), None);

        status.config.problems = vec!["bad".to_owned()];
        status.buffer.commit_error = Some("no space left".to_owned());
        let said = problems(&status);
        assert!(said[0].contains("no space left") && said[1].contains("on disk was changed"));
    }
}
