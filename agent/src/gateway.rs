//! The gateway as it runs under one configuration: what the local API and the cloud may look into.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use millrace_buffer::Buffer;
use millrace_tags::Clock;
use serde::Serialize;

use crate::config::{Config, Pattern};
use crate::delivery::Uplink;
use crate::device::{Device, chain};
use crate::events::EventLog;
use crate::live::{LiveTable, TagLabel, tag_row};
use crate::model::Model;
use crate::report::{
    BootstrapStatus, BufferStatus, ClockStatus, ConfigStatus, DeviceStatus, DeviceTest, Status,
    TagRow,
};

/// Everything that runs, by name.
pub(crate) struct Gateway {
    /// As meant.
    pub(crate) config: Config,
    /// Which configuration this is, and what is wrong with the one that it is not.
    pub(crate) config_status: ConfigStatus,
    /// When the program started.
    pub(crate) started: Instant,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// The store.
    pub(crate) buffer: Buffer,
    /// Last values.
    pub(crate) live: Arc<LiveTable>,
    /// Newest events.
    pub(crate) events: Arc<EventLog>,
    /// Devices, in order of configuration.
    pub(crate) devices: Vec<Arc<Device>>,
    /// Models, in order of configuration.
    pub(crate) models: Vec<Arc<Model>>,
    /// Uplinks, in order of configuration.
    pub(crate) uplinks: Vec<Arc<Uplink>>,
    /// First contact; written by the bootstrap task.
    pub(crate) bootstrap: Arc<Mutex<Option<BootstrapStatus>>>,
}

/// A name that is not configured.
#[derive(Debug, thiserror::Error)]
#[error("there is no {what} {name}; there are: {known}")]
pub(crate) struct NotFound {
    what: &'static str,
    name: String,
    known: String,
}

/// A configuration file that runs, as `config show` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigFile {
    path: String,
    text: String,
}

impl Gateway {
    /// Everything in one screen.
    pub(crate) fn status(&self) -> Status {
        let mut status = Status {
            gateway: self.config.gateway.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            config: self.config_status.clone(),
            devices: self.device_reports(),
            models: self.models.iter().map(|model| model.report()).collect(),
            uplinks: self.uplinks.iter().map(|uplink| uplink.report()).collect(),
            buffer: self.buffer_report(),
            clock: self.clock_report(),
            bootstrap: self
                .bootstrap
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            problems: Vec::new(),
        };
        status.problems = crate::report::problems(&status);
        status
    }

    /// Every device.
    pub(crate) fn device_reports(&self) -> Vec<DeviceStatus> {
        self.devices
            .iter()
            .map(|device| self.device_report(device))
            .collect()
    }

    /// One device.
    pub(crate) fn device_report(&self, device: &Device) -> DeviceStatus {
        device.report(&self.live)
    }

    /// The device of that name.
    pub(crate) fn device(&self, name: &str) -> Result<Arc<Device>, NotFound> {
        self.devices
            .iter()
            .find(|device| device.name == name)
            .cloned()
            .ok_or_else(|| {
                let known: Vec<&str> = self
                    .devices
                    .iter()
                    .map(|device| device.name.as_str())
                    .collect();
                NotFound {
                    what: "device",
                    name: name.to_owned(),
                    known: known.join(", "),
                }
            })
    }

    /// Last values of the tags whose full name matches.
    pub(crate) fn tag_rows(&self, pattern: &str) -> Vec<TagRow> {
        let pattern = Pattern::new(pattern);
        self.live
            .report(self.clock.as_ref(), |name| pattern.matches(name))
    }

    /// Reads a device through a session of its own and says what came.
    pub(crate) async fn test(&self, device: &Device) -> DeviceTest {
        match device.read_all().await {
            Err(error) => DeviceTest {
                name: device.name.clone(),
                error: Some(chain(&error)),
                ..DeviceTest::default()
            },
            Ok(fresh) => {
                let tags = self.fresh_rows(device, &fresh.samples, |_| true);
                DeviceTest {
                    name: device.name.clone(),
                    ok: tags.iter().all(|row| row.quality == "good"),
                    connect_ms: Some(fresh.connected.as_secs_f64() * 1e3),
                    read_ms: Some(fresh.read.as_secs_f64() * 1e3),
                    error: None,
                    tags,
                    remarks: fresh.remarks,
                }
            }
        }
    }

    /// Reads the tags that match from their devices, now. A device that does not answer gives bad rows.
    pub(crate) async fn read(&self, names: &[String]) -> Result<Vec<TagRow>, NotFound> {
        let patterns: Vec<Pattern> = names.iter().map(Pattern::new).collect();
        let asked = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        let found = self.live.find(asked);
        if found.is_empty() {
            let known = "see `millrace tags`".to_owned();
            let name = names.join(" ");
            return Err(NotFound {
                what: "tag",
                name,
                known,
            });
        }
        let mut rows = Vec::new();
        for device in &self.devices {
            if !found.iter().any(|(tag, _)| device.tags.contains(tag)) {
                continue;
            }
            let samples = match device.read_all().await {
                Ok(fresh) => fresh.samples,
                Err(error) => {
                    let now = self.clock.now();
                    device
                        .tags
                        .iter()
                        .map(|tag| millrace_tags::Sample::bad(*tag, error.reason(), now))
                        .collect()
                }
            };
            rows.extend(self.fresh_rows(device, &samples, asked));
        }
        Ok(rows)
    }

    /// The last sample of each of the device's tags whose full name matches.
    fn fresh_rows(
        &self,
        device: &Device,
        samples: &[millrace_tags::Sample],
        asked: impl Fn(&str) -> bool,
    ) -> Vec<TagRow> {
        let named = self.live.find(asked);
        let of_device = named
            .into_iter()
            .filter(|(tag, _)| device.tags.contains(tag));
        of_device
            .map(|(tag, full_name)| {
                let last = samples.iter().rev().find(|sample| sample.tag == tag);
                let label = TagLabel {
                    full_name,
                    unit: self.live.unit(tag),
                };
                tag_row(&label, last, self.clock.as_ref())
            })
            .collect()
    }

    /// The store.
    pub(crate) fn buffer_report(&self) -> BufferStatus {
        let status = self.buffer.status();
                let queued = status.uplinks.iter().map(|(name, queued)| {
            (name.clone(), queued.alarm + queued.live + queued.backlog)
        });
        BufferStatus {
            dir: self.config.buffer_dir().display().to_string(),
            bytes: status.bytes,
            max_bytes: self.config.buffer.max_bytes,
            epochs: status.alarm.epochs + status.data.epochs,
            queued: queued.collect(),
            commit_age_s: status.last_commit_age.map(|age| age.as_secs_f64()),
            commit_error: status.last_error,
            recovery: self.buffer.recovery().notes.clone(),
        }
    }

    /// The files that this configuration was read from. They hold no secrets, only where those are.
    pub(crate) fn config_files(&self) -> Vec<ConfigFile> {
        let files = self.config.files().iter();
        files
            .map(|path| ConfigFile {
                path: path.display().to_string(),
                text: std::fs::read_to_string(path).unwrap_or_else(|error| format!("# {error}\n")),
            })
            .collect()
    }

    fn clock_report(&self) -> ClockStatus {
        let utc = self.clock.timebase().utc(self.clock.now());
        let rfc3339 = utc.and_then(|time| {
            let since_1970 = std::time::Duration::from_nanos(u64::try_from(time.0).ok()?);
            Some(humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since_1970).to_string())
        });
        ClockStatus {
            set: utc.is_some(),
            utc: rfc3339,
        }
    }
}
