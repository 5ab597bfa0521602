//! What polling asks of a serial line, by the time of its frames: an estimate, made before anything is
//! plugged in.

use std::time::Duration;

use millrace_drivers::modbus::plan::{Limits, in_parts, plan};
use millrace_drivers::modbus::{PointSpec, ReadRequest, Request};
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
}

impl BusTime {
    /// Plans what every device would ask at a start.
    pub(crate) fn of(line: &Line, devices: &[Device]) -> Self {
        let pace = line.settings.pace();
        let mut time = Self {
            name: line.name.clone(),
            port: line.settings.port.clone(),
            baud: line.settings.baud,
            devices: 0,
            requests_per_s: 0.0,
            load: 0.0,
            worst_cycle_ms: 0.0,
        };
        for device in devices.iter().filter(|device| device.enabled) {
            let Connection::ModbusRtu { line: on, settings } = &device.connection else {
                continue;
            };
            if *on != line.name {
                continue;
            }
            time.devices += 1;
            let limits = Limits {
                cost: pace.cost(),
                ..settings.limits
            };
            let groups = by_interval(device, |point| match point {
                TagPoint::Modbus(spec) => Some(*spec),
                TagPoint::Opcua(_) => None,
            });
            for (interval, specs) in groups {
                let (requests, cycle) = cycle(&specs, &limits, &pace);
                let per_s = 1.0 / interval.as_secs_f64();
                time.requests_per_s += requests as f64 * per_s;
                time.load += cycle.as_secs_f64() * per_s;
                time.worst_cycle_ms += cycle.as_secs_f64() * 1e3;
            }
        }
        time
    }

    /// Whether the asked intervals cannot hold, in a sentence.
    pub(crate) fn warning(&self) -> Option<String> {
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

/// How many requests bring these points once, and the line time of all.
fn cycle(
    specs: &[PointSpec],
    limits: &Limits,
    pace: &millrace_drivers::modbus::Pace,
) -> (usize, Duration) {
    let requests = plan(&in_parts(specs, limits, &[]), limits);
    let time = requests.iter().map(|request| {
        let read = ReadRequest {
            table: request.table,
            start: request.start,
            count: request.count,
        };
        Request::Read(read).line_time(pace) + ANSWER
    });
    (requests.len(), time.sum())
}
