//! The gateway as it runs under one configuration: what the local API and the cloud may look into.

mod fresh;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use millrace_buffer::Buffer;
use millrace_drivers::modbus::{Line, Tap};
use millrace_tags::Clock;
use serde::Serialize;
use serde_json::json;

use crate::apply::Changes;
use crate::bootstrap::{Desk, Seen, SeenUplink};
use crate::config::written::{digest, without_secrets};
use crate::config::{self, Config, Connection, Pattern};
use crate::delivery::{Plant, PlantTag, Uplink};
use crate::device::{Device, chain};
use crate::events::EventLog;
use crate::live::LiveTable;
use crate::model::Model;
use crate::report::{
    ClockStatus, ConfigStatus, DeviceStatus, LastChange, LineReport, ModbusReport, Status, TagRow,
    UnitReport,
};
use crate::supervisor::stand_in::StandIn;

/// Everything that runs, by name.
pub(crate) struct Gateway {
    /// As meant.
    pub(crate) config: Config,
    /// Which configuration this is, and what is wrong with the one that it is not.
    pub(crate) config_status: Mutex<ConfigStatus>,
    /// When the program started.
    pub(crate) started: Instant,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// The store.
    pub(crate) buffer: Buffer,
    /// The store is one in memory, because the one on the disk cannot be opened.
    pub(crate) stand_in: Option<StandIn>,
    /// Last values.
    pub(crate) live: Arc<LiveTable>,
    /// Newest events.
    pub(crate) events: Arc<EventLog>,
    /// Devices, in order of configuration.
    pub(crate) devices: Vec<Arc<Device>>,
    /// Lines that devices share.
    pub(crate) lines: Vec<Line>,
    /// Where to listen in on devices that have a connection of their own.
    pub(crate) taps: BTreeMap<String, Tap>,
    /// Models, in order of configuration.
    pub(crate) models: Vec<Arc<Model>>,
    /// Uplinks, in order of configuration.
    pub(crate) uplinks: Vec<Arc<Uplink>>,
    /// The way to the main loop, which changes configurations.
    pub(crate) changes: Changes,
    /// First contact: what the task says, and what it is asked.
    pub(crate) bootstrap: Arc<Desk>,
}

/// A name that is not configured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotFound(String);

impl NotFound {
    /// Names those that there are.
    pub(crate) fn new<'a>(
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        Self(match known.is_empty() {
            true => format!("there is no {what} {name}; none is configured"),
            false => format!("there is no {what} {name}; there are: {}", known.join(", ")),
        })
    }

    /// Of no tag, the list of which is long.
    pub(crate) fn tag(name: &str) -> Self {
        Self(format!(
            "there is no tag {name}; `millrace tags` lists them"
        ))
    }

    /// Where none was named and there is not only one.
    pub(crate) fn unnamed<'a>(what: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        Self(match known.is_empty() {
            true => format!("no {what} is configured"),
            false => format!(
                "there are several {what}s, name one of them: {}",
                known.join(", ")
            ),
        })
    }
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
            config: self.config_status(),
            devices: self.device_reports(),
            models: self.models.iter().map(|model| model.report()).collect(),
            uplinks: self.uplinks.iter().map(|uplink| uplink.report()).collect(),
            buffer: self.buffer_report(),
            clock: self.clock_report(),
            bootstrap: self.bootstrap.status(),
            problems: Vec::new(),
        };
        status.problems = crate::report::problems(&status);
        status
    }

    /// The uplinks, as the bootstrap looks at them.
    pub(crate) fn seen_uplinks(&self) -> Seen {
        let status = self.config_status();
        let enrolled = self.config.gateway.data_dir.join("secrets").join("current");
        let seen = |(settings, uplink): (&crate::config::Uplink, &Arc<Uplink>)| {
            let report = uplink.report();
            SeenUplink {
                uses_enrolment: settings.names_file_in(&enrolled),
                connected: report.state == "connected",
                verified: ["mqtts://", "wss://"]
                    .iter()
                    .any(|tls| report.url.starts_with(tls)),
                refusals: uplink.refusals(),
                name: report.name,
            }
        };
        Seen {
            applied: status.source == "configured" && status.problems.is_empty(),
            uplinks: self
                .config
                .uplinks
                .iter()
                .zip(&self.uplinks)
                .map(seen)
                .collect(),
        }
    }

    /// Which configuration runs, and what is wrong with the one that does not.
    pub(crate) fn config_status(&self) -> ConfigStatus {
        self.config_status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The configuration on disk has these problems; this one runs on.
    pub(crate) fn set_config_problems(&self, problems: Vec<String>) {
        self.config_status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .problems = problems;
    }

    /// What came of the last change that was tried.
    pub(crate) fn set_last_change(&self, change: Option<LastChange>) {
        self.config_status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last_change = change;
    }

    /// The cloud layer before the last change that was kept; `None`: there was none then.
    ///
    /// # Errors
    /// Where there was no change, or what was before it cannot be read.
    pub(crate) fn previous_layer(&self) -> Result<Option<String>, String> {
        let layers = crate::apply::layers::Layers::of(&self.config.gateway.data_dir);
        let previous = layers.previous().map_err(|error| chain(&error))?;
        previous.ok_or_else(|| {
            "there is nothing to go back to: no change of the configuration was kept yet".to_owned()
        })
    }

    /// The files of the running configuration as tables, without secrets and comments: for the cloud.
    pub(crate) fn config_tables(&self) -> serde_json::Value {
        let cloud = crate::config::cloud_file(&self.config.gateway.data_dir);
        let mut files = Vec::new();
        for path in self.config.files() {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let layer = if *path == cloud { "cloud" } else { "local" };
            let mut file = json!({"layer": layer, "file": name, "sha256": digest(&text)});
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                file["config"] = without_secrets(&text);
            }
            files.push(file);
        }
        json!({"files": files, "status": self.config_status()})
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
    ///
    /// # Errors
    /// Names those that there are.
    pub(crate) fn device(&self, name: &str) -> Result<Arc<Device>, NotFound> {
        let named = self.devices.iter().find(|device| device.name == name);
        let known = self.devices.iter().map(|device| device.name.as_str());
        named
            .cloned()
            .ok_or_else(|| NotFound::new("device", name, known))
    }

    /// The model of that name, and how it is configured.
    ///
    /// # Errors
    /// Names those that there are.
    pub(crate) fn model(&self, name: &str) -> Result<(&config::Model, &Arc<Model>), NotFound> {
        let mut models = self.config.models.iter().zip(&self.models);
        let known = self.config.models.iter().map(|model| model.name.as_str());
        models
            .find(|(settings, _)| settings.name == name)
            .ok_or_else(|| NotFound::new("model", name, known))
    }

    /// The line of that name.
    ///
    /// # Errors
    /// Names those that there are.
    pub(crate) fn line(&self, name: &str) -> Result<Line, NotFound> {
        let named = self.lines.iter().find(|line| line.name() == name);
        let known = self.lines.iter().map(Line::name);
        named
            .cloned()
            .ok_or_else(|| NotFound::new("line", name, known))
    }

    /// What an edge node of Sparkplug tells of through this uplink.
    pub(crate) fn plant(&self, uplink: &crate::config::Uplink) -> Plant {
        let routed = |name: &str| uplink.routes(name);
        let devices = self.devices.iter().filter(|device| routed(&device.name));
        let configured = self.config.enabled_devices();
        let tags = configured
            .filter(|device| routed(&device.name))
            .flat_map(|device| {
                device.tags.iter().map(|tag| {
                    let tag = PlantTag {
                        device: device.name.clone(),
                        name: tag.name.clone(),
                        value_type: tag.value_type,
                    };
                    (format!("{}/{}", tag.device, tag.name), tag)
                })
            });
        Plant {
            live: self.live.clone(),
            tags: tags.collect(),
            devices: devices
                .map(|device| (device.name.clone(), device.clone()))
                .collect(),
            models: self
                .config
                .models
                .iter()
                .map(|model| model.name.clone())
                .collect(),
        }
    }

    /// Lines and Modbus devices, for tools.
    pub(crate) fn modbus_report(&self) -> ModbusReport {
        let line = |line: &Line| {
            let name = line.name();
            let serial = self.config.lines.iter().find(|serial| serial.name == name);
            LineReport {
                name: name.to_owned(),
                port: serial
                    .map_or(name, |serial| &serial.settings.port)
                    .to_owned(),
                settings: serial.map(|serial| serial.settings.to_string()),
            }
        };
        let unit = |device: &crate::config::Device| {
            let (driver, address, unit_id) = match &device.connection {
                Connection::ModbusTcp { settings, dial_in } => {
                    let driver = match settings.tls {
                        Some(_) => "modbus-tls",
                        None => "modbus-tcp",
                    };
                    let address = match dial_in {
                        Some(listen) => format!("listen:{}", listen.address),
                        None => settings.address.clone(),
                    };
                    (driver, address, settings.unit_id)
                }
                Connection::ModbusRtu { line, settings } => {
                    ("modbus-rtu", line.clone(), settings.unit_id)
                }
                Connection::ModbusRtuTcp {
                    address, settings, ..
                } => ("modbus-rtu-tcp", address.clone(), settings.unit_id),
                Connection::Opcua(_) => return None,
            };
            Some(UnitReport {
                device: device.name.clone(),
                driver: driver.to_owned(),
                address,
                unit_id,
            })
        };
        ModbusReport {
            lines: self.lines.iter().map(line).collect(),
            units: self.config.enabled_devices().filter_map(unit).collect(),
        }
    }

    /// Last values of the tags whose full name matches.
    pub(crate) fn tag_rows(&self, pattern: &str) -> Vec<TagRow> {
        let pattern = Pattern::new(pattern);
        self.live
            .report(self.clock.as_ref(), |name| pattern.matches(name))
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
