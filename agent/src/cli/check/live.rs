//! `millrace check --live`: every configured device and uplink tried once.
//!
//! Nothing is written and nothing is published. A line that the running agent holds is used through the agent, between
//! the turns of its devices; what only one may hold at a time (a port that devices dial in to, an uplink's client id, a
//! subscription) is asked of the agent itself.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use millrace_drivers::modbus::{Point, TcpDriver, TcpSettings};
use millrace_drivers::{Driver, PollGroup, Session, SessionError};
use millrace_tags::{Clock, TagId};
use millrace_uplink::test_connection;

use super::super::Global;
use super::super::client::Client;
use super::super::reach::{TURN_MAX, clock, tunnel_path};
use super::trial::Trial;
use crate::config::{self, Config, Connection};
use crate::device::chain;
use crate::report::{DeviceState, LineReport, ModbusReport, Status};
use crate::supervisor::Drivers;
use crate::totals::Totals;

/// Devices that are tried at once.
const AT_ONCE: usize = 16;

/// What the running agent holds; nothing where none runs.
struct Held {
    client: Client,
    modbus: ModbusReport,
    status: Option<Status>,
}

/// Tries everything; `each` gets the outcomes in the order of the configuration.
pub(super) async fn run(
    config: &Config,
    global: &Global,
    mut each: impl FnMut(&Trial) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Trial>> {
    let client = Client::new(global);
    let held = Held {
        modbus: (client.fetch_if_running("/v1/modbus").await)
            .ok()
            .flatten()
            .unwrap_or_default(),
        status: (client.fetch_if_running("/v1/status").await).ok().flatten(),
        client,
    };
    let clock = clock();
    let mut drivers = Drivers::new(&config.lines, Totals::default(), &clock);
    let mut devices = Vec::new();
    for device in config.enabled_devices() {
        let tags: Vec<TagId> = (0..).map(TagId).take(device.tags.len()).collect();
        let way = held.way(device, config);
        let driver: Arc<dyn Driver> = match &way {
            Way::Line(line) => {
                let points = drivers.points(device, &tags);
                Arc::new(Through::new(device, points, line.clone(), global, &clock))
            }
            _ => drivers.driver(device, &tags),
        };
        devices.push((device, way, driver));
    }
    let mut trials = Vec::new();
    let tried = devices
        .into_iter()
        .map(|(device, way, driver)| held.try_device(device, way, driver));
    let mut tried = stream::iter(tried).buffered(AT_ONCE);
    while let Some(trial) = tried.next().await {
        each(&trial)?;
        trials.push(trial);
    }
    for uplink in &config.uplinks {
        let trial = held.try_uplink(uplink).await;
        each(&trial)?;
        trials.push(trial);
    }
    Ok(trials)
}

/// How a device is reached.
enum Way {
    /// By itself.
    Direct,
    /// Through the agent's line.
    Line(LineReport),
    /// The agent reads it, and says what came.
    AskAgent,
    /// The agent has its connection, and knows how it does.
    Known(DeviceState, Option<String>),
    /// The agent holds the port at other settings.
    OtherSettings(LineReport),
}

impl Held {
    fn way(&self, device: &config::Device, config: &Config) -> Way {
        let of_agent = self.status.iter().flat_map(|status| &status.devices);
        let same = of_agent.clone().find(|known| {
            known.name == device.name && known.address == device.connection.address()
        });
        let line = match &device.connection {
            Connection::ModbusTcp { dial_in, .. } | Connection::ModbusRtuTcp { dial_in, .. }
                if dial_in.is_some() =>
            {
                return match same {
                    Some(known) => Way::Known(known.state, known.error.clone()),
                    None => Way::Direct,
                };
            }
            Connection::ModbusTcp { .. } => return Way::Direct,
            Connection::Opcua(_) => {
                return match same {
                    Some(_) => Way::AskAgent,
                    None => Way::Direct,
                };
            }
            Connection::ModbusRtuTcp { address, .. } => self.modbus.line(address),
            Connection::ModbusRtu { line, .. } => {
                let line = config.lines.iter().find(|known| known.name == *line);
                let Some(line) = line else {
                    return Way::Direct;
                };
                let held = self.modbus.line(&line.settings.port);
                let wanted = line.settings.to_string();
                if let Some(held) = held.filter(|held| held.settings.as_ref() != Some(&wanted)) {
                    return Way::OtherSettings(held.clone());
                }
                held
            }
        };
        line.map_or(Way::Direct, |line| Way::Line(line.clone()))
    }

    async fn try_device(
        &self,
        device: &config::Device,
        way: Way,
        driver: Arc<dyn Driver>,
    ) -> Trial {
        let begun = Instant::now();
        let mut trial = Trial::new("device", &device.name, device.connection.address());
        match way {
            Way::Direct => trial.read(device, driver).await,
            Way::Line(line) => {
                trial.through = Some(format!("line {} of the running agent", line.name));
                trial.read(device, driver).await;
            }
            Way::AskAgent => {
                trial.through = Some("the running agent, with the tags that it runs".to_owned());
                trial.ask(&self.client).await;
            }
            Way::Known(state, error) => {
                trial.through = Some("the running agent, which has its connection".to_owned());
                if !matches!(state, DeviceState::Online) {
                    let found = error.unwrap_or_else(|| "it has not dialled in yet".to_owned());
                    trial.fail(found, Some("`millrace status` shows when it does".to_owned()));
                }
            }
            Way::OtherSettings(line) => trial.fail(
                format!(
                    "the running agent holds {} at {}, not as configured here",
                    line.port,
                    line.settings.as_deref().unwrap_or("other settings")
                ),
                Some("apply this configuration (SIGHUP, or restart the agent) and check again, or stop the agent".to_owned()),
            ),
        }
        trial.done(begun)
    }

    async fn try_uplink(&self, uplink: &config::Uplink) -> Trial {
        let begun = Instant::now();
        let mut trial = Trial::new("uplink", &uplink.name, uplink.endpoint.to_string());
        let of_agent = self.status.iter().flat_map(|status| &status.uplinks);
        let same = of_agent
            .clone()
            .find(|known| known.name == uplink.name && known.url == trial.at);
        if let Some(known) = same {
            // A second connection with the same client id would throw out the agent's.
            trial.through = Some("the running agent, which has its connection".to_owned());
            if known.state != "connected" {
                let found = known.error.clone();
                trial.fail(
                    found.unwrap_or_else(|| format!("it is {}", known.state)),
                    None,
                );
            }
        } else {
            match test_connection(&uplink.session()).await {
                Ok(report) => {
                    trial.remarks.push(report.terms.protocol.to_string());
                    trial.remarks.extend(report.tls);
                }
                Err(error) => trial.fail(chain(&error), None),
            }
        }
        trial.done(begun)
    }
}

/// A device of a line that the agent holds, read through the agent.
struct Through {
    driver: TcpDriver,
    line: LineReport,
    timeout: Duration,
    client: Client,
}

impl Through {
    fn new(
        device: &config::Device,
        points: Vec<Point>,
        line: LineReport,
        global: &Global,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let mut settings = TcpSettings::new(&device.name, &line.name);
        if let Connection::ModbusRtu { settings: rtu, .. }
        | Connection::ModbusRtuTcp { settings: rtu, .. } = &device.connection
        {
            settings.unit_id = rtu.unit_id;
            settings.timeout = rtu.timeout;
            settings.limits = rtu.limits;
            settings.forbidden.clone_from(&rtu.forbidden);
        }
        let timeout = settings.timeout;
        settings.timeout += TURN_MAX;
        Self {
            driver: TcpDriver::new(settings, points, clock.clone()),
            line,
            timeout,
            client: Client::new(global),
        }
    }
}

#[async_trait]
impl Driver for Through {
    fn poll_groups(&self) -> &[PollGroup] {
        self.driver.poll_groups()
    }

    fn tags(&self) -> Vec<TagId> {
        self.driver.tags()
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        let path = tunnel_path(&self.line, self.timeout);
        let stream = self.client.tunnel(&path).await;
        let stream = stream.map_err(|error| SessionError::Connect {
            address: format!("line {} of the running agent", self.line.name),
            source: io::Error::other(format!("{error:#}")),
        })?;
        Ok(self.driver.open_over(stream))
    }
}
