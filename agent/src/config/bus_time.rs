//! What polling asks of a serial line, by the time of its frames: an estimate, made before anything is
//! plugged in.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_drivers::modbus::plan::{Limits, plan_at_start};
use millrace_drivers::modbus::{ReadRequest, Request};
use serde::Serialize;

use super::device::{Connection, Device};
use super::line::Line;
use super::summary::by_interval;
use super::tag::TagPoint;

/// What a meter takes to answer, about.
const ANSWER: Duration = Duration::from_millis(10);

/// What the devices of a line ask of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BusTime {
    /// The line's name.
    pub(crate) name: String,
    /// Its port.
    pub(crate) port: String,
    /// Bits a second.
    pub(crate) baud: u32,
    /// Devices that are polled on it.
    pub(crate) devices: usize,
    /// Requests a second, over all devices.
    pub(crate) requests_per_s: f64,
    /// Line time that polling asks for, a second. Above 1 the intervals cannot hold.
    pub(crate) load: f64,
    /// How long a cycle takes in which everything is due at once: the longest that a value waits.
    pub(crate) worst_cycle_ms: f64,
    /// Whether the asked intervals cannot hold, in a sentence.
    pub(crate) warning: Option<String>,
}

/// Tags of one device and interval, read together.
struct Group {
    device: String,
    interval: Duration,
    requests: usize,
    /// One read of all.
    cycle: Duration,
    /// The longest of its requests, which others have to wait for.
    longest: Duration,
}

impl BusTime {
    /// Plans what every device would ask at a start.
    pub(crate) fn of(line: &Line, devices: &[Device]) -> Self {
        let groups = groups(line, devices);
        let seconds = |group: &Group| group.interval.as_secs_f64();
        let load = |group: &Group| group.cycle.as_secs_f64() / seconds(group);
        let cycle_ms = |group: &Group| group.cycle.as_secs_f64() * 1e3;
        let polled: BTreeSet<&str> = groups.iter().map(|group| group.device.as_str()).collect();
        let mut time = Self {
            name: line.name.clone(),
            port: line.settings.port.clone(),
            baud: line.settings.baud,
            devices: polled.len(),
            requests_per_s: groups.iter().map(|g| g.requests as f64 / seconds(g)).sum(),
            load: groups.iter().map(load).sum(),
            worst_cycle_ms: groups.iter().map(cycle_ms).sum(),
            warning: None,
        };
        time.warning = time.overload().or_else(|| late(&groups));
        time
    }

    fn overload(&self) -> Option<String> {
        (self.load > 1.0).then(|| {
            format!(
                "polling asks for {:.0} % of the line's time at {} baud: the intervals cannot hold; with \
                 everything due at once a cycle takes {:.1} s",
                self.load * 100.0,
                self.baud,
                self.worst_cycle_ms / 1e3
            )
        })
    }
}

/// Names the group that is late the most although the line has time for all: what is sent already, or belongs to
/// another group of the same device, goes before it.
fn late(groups: &[Group]) -> Option<String> {
    let behind = groups.iter().enumerate().filter_map(|(index, group)| {
        let others = (groups.iter().enumerate()).filter(|(other, _)| *other != index);
        let waits = others.map(|(_, other)| match other.device == group.device {
            true => other.cycle,
            false => other.longest,
        });
        let wait = waits.max().unwrap_or_default();
        let late = (group.cycle + wait).checked_sub(group.interval)?;
        Some((late, wait, group))
    });
    let (_, wait, group) = behind.max_by_key(|(late, ..)| *late)?;
    Some(format!(
        "the tags of {} at {} ms are read late at times: their read takes {} ms, and what goes before it up to {} ms",
        group.device,
        group.interval.as_millis(),
        group.cycle.as_millis(),
        wait.as_millis()
    ))
}

/// What the enabled devices of the line read, as their drivers would plan it.
fn groups(line: &Line, devices: &[Device]) -> Vec<Group> {
    let pace = line.settings.pace();
    let mut groups = Vec::new();
    for device in devices.iter().filter(|device| device.enabled) {
        let Connection::ModbusRtu { line: on, settings } = &device.connection else {
            continue;
        };
        if *on != line.name {
            continue;
        }
        let limits = Limits {
            cost: pace.cost(),
            ..settings.limits
        };
        let specs = by_interval(device, |point| match point {
            TagPoint::Modbus(spec) => Some(*spec),
            TagPoint::Opcua(_) => None,
        });
        for (interval, specs) in specs {
            let requests = plan_at_start(&specs, &limits, &settings.forbidden);
            let times = requests.iter().map(|request| {
                let read = ReadRequest {
                    table: request.table,
                    start: request.start,
                    count: request.count,
                };
                Request::Read(read).line_time(&pace) + ANSWER
            });
            let times: Vec<Duration> = times.collect();
            groups.push(Group {
                device: device.name.clone(),
                interval,
                requests: requests.len(),
                cycle: times.iter().sum(),
                longest: times.into_iter().max().unwrap_or_default(),
            });
        }
    }
    groups
}
