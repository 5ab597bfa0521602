//! The way from a tool to Modbus units: on its own, or through the agent that holds their line.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::{Caller, SerialSettings};
use millrace_tags::{Clock, SystemClock};

use super::client::{Client, query};
use super::target::Target;
use super::{Failure, Global};
use crate::report::{LineReport, ModbusReport};

/// Besides a unit's timeout a tool waits for its turn on a busy line.
pub(super) const TURN_MAX: Duration = Duration::from_secs(30);

/// What a tool asks through.
pub(super) struct Way {
    /// Asks.
    pub(super) caller: Caller,
    /// The agent's line that it goes through.
    pub(super) line: Option<LineReport>,
}

/// The time, for tools without an agent.
pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// What the running agent has of Modbus; nothing where none runs, or we may not ask it: then it holds no port
/// that we could open.
pub(super) async fn agent(global: &Global) -> ModbusReport {
    let report = Client::new(global).fetch_if_running("/v1/modbus").await;
    report.ok().flatten().unwrap_or_default()
}

/// The way to what was typed.
pub(super) async fn way(
    target: &Target,
    timeout: Duration,
    global: &Global,
) -> anyhow::Result<Way> {
    let clock = clock();
    let caller = match target {
        Target::Modbus { address, .. } => Caller::tcp(address, timeout, &clock),
        Target::RtuOverTcp { address, .. } => {
            let held = agent(global).await.line(address).cloned();
            if let Some(line) = held {
                return through(line, timeout, global).await;
            }
            Caller::rtu_over_tcp(address, timeout, &clock)
        }
        Target::Serial { settings, .. } => {
            let held = agent(global).await.line(&settings.port).cloned();
            if let Some(line) = held {
                suits(&line, settings)?;
                return through(line, timeout, global).await;
            }
            Caller::serial(settings.clone(), timeout, &clock)
        }
        Target::OpcUa(url) => {
            let failure = Failure::usage(format!("{url} is no Modbus device"));
            return Err(failure
                .hint("`millrace trust` shows who an OPC UA server is")
                .into());
        }
    };
    Ok(Way { caller, line: None })
}

/// The way to the units of a line that the agent holds.
pub(super) async fn through(
    line: LineReport,
    timeout: Duration,
    global: &Global,
) -> anyhow::Result<Way> {
    let stream = Client::new(global)
        .tunnel(&tunnel_path(&line, timeout))
        .await?;
    Ok(Way {
        caller: Caller::over(stream, timeout + TURN_MAX, &clock()),
        line: Some(line),
    })
}

/// What to ask the agent for the way to the units of its line.
pub(super) fn tunnel_path(line: &LineReport, timeout: Duration) -> String {
    format!(
        "/v1/modbus/tunnel?line={}&timeout_ms={}",
        query(&line.name),
        timeout.as_millis()
    )
}

/// The agent's devices would be lost while the port had other settings.
fn suits(line: &LineReport, wanted: &SerialSettings) -> Result<(), Failure> {
    let wanted = wanted.to_string();
    match &line.settings {
        Some(settings) if *settings != wanted => Err(Failure::new(format!(
            "the agent holds {} at {settings}; at {wanted} its devices could not be read",
            line.port
        ))
        .hint(format!(
            "ask at {settings}, or stop the agent and ask again"
        ))),
        _ => Ok(()),
    }
}

impl ModbusReport {
    /// The line of that name, port or address.
    pub(super) fn line(&self, named: &str) -> Option<&LineReport> {
        let same = |line: &&LineReport| line.name == named || same_port(&line.port, named);
        self.lines.iter().find(same)
    }
}

/// Whether two paths are one port, under whichever of its names.
fn same_port(one: &str, other: &str) -> bool {
    let real = |path: &str| Path::new(path).canonicalize().ok();
    one == other || real(one).is_some_and(|path| Some(path) == real(other))
}

/// The way to a device of the running agent, or to a target as typed, and its unit.
pub(super) async fn device_or_target(
    typed: &str,
    timeout: Duration,
    global: &Global,
) -> anyhow::Result<(Way, u8)> {
    if typed.contains("://") || typed.starts_with('/') {
        let target = Target::parse(typed)?;
        let unit = target.unit();
        return Ok((way(&target, timeout, global).await?, unit));
    }
    let report: ModbusReport = match Client::new(global).fetch_if_running("/v1/modbus").await? {
        Some(report) => report,
        None => {
            let failure = Failure::new(format!("no agent runs that could know the device {typed}"));
            return Err(failure
                .hint("name it by its address: tcp://10.0.0.5:502/1 or /dev/ttyUSB0,9600,8E1/3")
                .into());
        }
    };
    let Some(unit) = report.units.iter().find(|unit| unit.device == typed) else {
        let known: Vec<&str> = report
            .units
            .iter()
            .map(|unit| unit.device.as_str())
            .collect();
        let failure = Failure::new(format!("the agent has no Modbus device {typed}"));
        return Err(failure.hint(format!("it has: {}", known.join(", "))).into());
    };
    let way = match report.line(&unit.address) {
        Some(line) => through(line.clone(), timeout, global).await?,
        None if unit.driver == "modbus-tcp" && !unit.address.starts_with("listen:") => Way {
            caller: Caller::tcp(&unit.address, timeout, &clock()),
            line: None,
        },
        None => {
            let failure = Failure::new(format!(
                "{typed} is reached by {}, which tools cannot share with the agent",
                unit.driver
            ));
            return Err(failure
                .hint("`millrace device test` reads it through the agent")
                .into());
        }
    };
    Ok((way, unit.unit_id))
}
