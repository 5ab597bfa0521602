//! What a configuration asks of devices and of the disk: estimates for `millrace check`.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_buffer::Settings;
use millrace_drivers::modbus::PointSpec;
use millrace_drivers::modbus::plan::{Barrier, Limits, plan_at_start};
use millrace_drivers::opcua::Collect;
use millrace_tags::LogKind;
use serde::Serialize;

use super::bus_time::BusTime;
use super::device::{Connection, Device};
use super::sizing::{Load, Room, Signal, Sizing, sizing};
use super::tag::TagPoint;
use super::{Config, units};

/// Nodes in one OPC UA read: what most servers allow.
const NODES_PER_READ: usize = 1_000;

/// From this gain on it is worth saying what merging brings.
const MERGING_TELLS: f64 = 1.1;

/// What the configuration asks for. Devices that are disabled do not count in the rates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The gateway's id.
    pub(crate) gateway: String,
    /// Where data are kept.
    pub(crate) data_dir: String,
    /// Each serial line: what its devices ask of it.
    pub(crate) lines: Vec<BusTime>,
    /// Each device.
    pub(crate) devices: Vec<DeviceSummary>,
    /// Tags of all devices.
    pub(crate) tags: usize,
    /// Names of the models.
    pub(crate) models: Vec<String>,
    /// Uplinks, as `name -> url`.
    pub(crate) uplinks: BTreeMap<String, String>,
    /// Samples a second, at most: deadbands only lower it.
    pub(crate) samples_per_s: f64,
    /// Bytes a day on disk, about, at that rate.
    pub(crate) bytes_per_day: f64,
    /// Days until the buffer is full while no uplink takes anything, about, if data stay as they are
    /// written; `None` without samples. Those of a long outage are merged: `storage` says both.
    pub(crate) days_until_full: Option<f64>,
    /// More of the same estimate.
    pub(crate) storage: Sizing,
}

/// What the configuration asks of one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeviceSummary {
    /// Its name.
    pub(crate) name: String,
    /// Its driver.
    pub(crate) driver: &'static str,
    /// Where it is.
    pub(crate) address: String,
    /// Whether it is polled.
    pub(crate) enabled: bool,
    /// Its tags.
    pub(crate) tags: usize,
    /// Requests a second that it is sent, planned as the driver would at a start.
    pub(crate) requests_per_s: f64,
    /// Samples a second, at most.
    pub(crate) samples_per_s: f64,
}

/// Estimates what the configuration asks for.
pub(crate) fn summary(config: &Config) -> Summary {
    let devices: Vec<DeviceSummary> = config.devices.iter().map(device_summary).collect();
    let enabled = devices.iter().filter(|device| device.enabled);
    let samples_per_s: f64 = enabled.map(|device| device.samples_per_s).sum();
    let storage = sizing(&loads(config), room(config));
    Summary {
        gateway: config.gateway.id.clone(),
        data_dir: config.gateway.data_dir.display().to_string(),
        tags: devices.iter().map(|device| device.tags).sum(),
        lines: config
            .lines
            .iter()
            .map(|line| BusTime::of(line, &config.devices))
            .collect(),
        devices,
        models: config
            .models
            .iter()
            .map(|model| model.name.clone())
            .collect(),
        uplinks: config
            .uplinks
            .iter()
            .map(|uplink| (uplink.name.clone(), uplink.endpoint.to_string()))
            .collect(),
        samples_per_s,
        bytes_per_day: storage.bytes_per_hour * 24.0,
        days_until_full: storage.days_until_full,
        storage,
    }
}

/// The tags that are sampled, each a load of its own.
fn loads(config: &Config) -> Vec<Load> {
    let tags = config.enabled_devices().flat_map(|device| &device.tags);
    tags.map(|tag| {
        let raw = match &tag.point {
            TagPoint::Modbus(spec) => tag.meaning.value_type(spec),
            TagPoint::Opcua(_) => tag.value_type,
        };
        Load {
            tags: 1,
            interval: tag.poll_interval,
            signal: Signal::of(raw, tag.scaling.is_some()),
        }
    })
    .collect()
}

fn room(config: &Config) -> Room {
    let buffer = &config.buffer;
    let settings = Settings {
        max_bytes: buffer.max_bytes,
        alarm_max_bytes: buffer.alarm_max_bytes,
        ..Settings::new(config.buffer_dir())
    };
    Room {
        commit_interval: buffer.commit_interval,
        max_bytes: settings.log_bytes_max(LogKind::Data),
        max_age: buffer.max_age,
        keep: buffer.keep,
    }
}

fn device_summary(device: &Device) -> DeviceSummary {
    DeviceSummary {
        name: device.name.clone(),
        driver: device.connection.kind(),
        address: device.connection.address(),
        enabled: device.enabled,
        tags: device.tags.len(),
        requests_per_s: requests_per_s(device),
        samples_per_s: device.tags.iter().map(|tag| per_s(tag.poll_interval)).sum(),
    }
}

fn requests_per_s(device: &Device) -> f64 {
    match &device.connection {
        Connection::ModbusTcp { settings, .. } => {
            modbus_requests_per_s(device, &settings.limits, &settings.forbidden)
        }
        Connection::ModbusRtu { settings, .. } | Connection::ModbusRtuTcp { settings, .. } => {
            modbus_requests_per_s(device, &settings.limits, &settings.forbidden)
        }
        Connection::Opcua(settings) => match settings.collect {
            Collect::Subscribe => per_s(settings.publish_interval),
            Collect::Poll => by_interval(device, |_| Some(()))
                .iter()
                .map(|(interval, nodes)| {
                    nodes.len().div_ceil(NODES_PER_READ) as f64 * per_s(*interval)
                })
                .sum(),
        },
    }
}

fn modbus_requests_per_s(device: &Device, limits: &Limits, forbidden: &[Barrier]) -> f64 {
    let groups = by_interval(device, |point| match point {
        TagPoint::Modbus(spec) => Some(*spec),
        TagPoint::Opcua(_) => None,
    });
    groups
        .iter()
        .map(|(interval, specs): (&Duration, &Vec<PointSpec>)| {
            plan_at_start(specs, limits, forbidden).len() as f64 * per_s(*interval)
        })
        .sum()
}

pub(super) fn by_interval<T>(
    device: &Device,
    pick: impl Fn(&TagPoint) -> Option<T>,
) -> BTreeMap<Duration, Vec<T>> {
    let mut groups: BTreeMap<Duration, Vec<T>> = BTreeMap::new();
    for tag in &device.tags {
        if let Some(picked) = pick(&tag.point) {
            groups.entry(tag.poll_interval).or_default().push(picked);
        }
    }
    groups
}

fn per_s(interval: Duration) -> f64 {
    1.0 / interval.as_secs_f64()
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "gateway {}, data in {}", self.gateway, self.data_dir)?;
        for line in &self.lines {
            writeln!(
                f,
                "line    {} ({}, {} baud): {} devices, {} requests/s, {:.0} % of its time; a cycle with \
                 everything due takes {:.1} s",
                line.name,
                line.port,
                line.baud,
                line.devices,
                units::about_rate(line.requests_per_s),
                line.load * 100.0,
                line.worst_cycle_ms / 1e3
            )?;
        }
        for device in &self.devices {
            write!(
                f,
                "device  {} ({}, {}): ",
                device.name, device.driver, device.address
            )?;
            match device.enabled {
                true => writeln!(
                    f,
                    "{} tags, {} requests/s, {} samples/s",
                    device.tags,
                    units::about_rate(device.requests_per_s),
                    units::about_rate(device.samples_per_s)
                )?,
                false => writeln!(f, "{} tags, disabled", device.tags)?,
            }
        }
        for model in &self.models {
            writeln!(f, "model   {model}")?;
        }
        for (name, url) in &self.uplinks {
            writeln!(f, "uplink  {name} ({url})")?;
        }
        let storage = &self.storage;
        write!(
            f,
            "storage at most {} samples/s, about {} an hour ({} B a sample), {} a day",
            units::about_rate(self.samples_per_s),
            units::about_size(storage.bytes_per_hour),
            units::about_rate(storage.bytes_per_sample),
            units::about_size(self.bytes_per_day)
        )?;
        if let Some(days) = self.days_until_full {
            write!(
                f,
                "; full after about {} days without an uplink",
                units::about_rate(days)
            )?;
            let merged = storage.days_until_full_merged.unwrap_or(days);
            if merged > days * MERGING_TELLS {
                write!(
                    f,
                    ", {} where its small chunks are merged ({} B a sample)",
                    units::about_rate(merged),
                    units::about_rate(storage.bytes_per_sample_merged)
                )?;
            }
        }
        writeln!(f)?;
        writeln!(
            f,
            "wear    about {} written a day, {} times the data",
            units::about_size(storage.written_per_day),
            units::about_rate(storage.write_amplification)
        )?;
        for warning in &storage.warnings {
            writeln!(f, "  ! {warning}")?;
        }
        Ok(())
    }
}
