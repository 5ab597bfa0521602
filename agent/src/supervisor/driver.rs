//! From a device's settings to the driver of its protocol.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::{DialIn, Line, Tap};
use millrace_drivers::{Driver, modbus, opcua};
use millrace_tags::{Clock, TagId, ValueType};

use crate::config::{self, Connection, Listen, TagMeaning, TagPoint};
use crate::delivered::Sessions;
use crate::totals::Totals;

/// Builds drivers, and what several of them share: lines and listeners.
pub(crate) struct Drivers {
    clock: Arc<dyn Clock>,
    serial: HashMap<String, Line>,
    /// Gateways that pass RTU frames on, by address and source.
    over_tcp: HashMap<String, Line>,
    dial_ins: HashMap<String, DialIn>,
    totals: Totals,
    taps: BTreeMap<String, Tap>,
    /// What OPC UA devices have to know of the agent before this one.
    memories: HashMap<String, opcua::Memory>,
    sessions: Sessions,
}

impl Drivers {
    /// Lines are opened by the first device that is read.
    pub(crate) fn new(lines: &[config::Line], totals: Totals, clock: &Arc<dyn Clock>) -> Self {
        let line = |line: &config::Line| {
            let settings = line.settings.clone();
            let serial = Line::serial(line.name.clone(), settings, clock.clone());
            (line.name.clone(), serial)
        };
        Self {
            clock: clock.clone(),
            serial: lines.iter().map(line).collect(),
            over_tcp: HashMap::new(),
            dial_ins: HashMap::new(),
            totals,
            taps: BTreeMap::new(),
            memories: HashMap::new(),
            sessions: Sessions::default(),
        }
    }

    /// OPC UA devices go on where the agent before this one ended.
    pub(super) fn remember(
        &mut self,
        memories: HashMap<String, opcua::Memory>,
        sessions: Sessions,
    ) {
        self.memories = memories;
        self.sessions = sessions;
    }

    /// The driver that the device's connection asks for.
    pub(crate) fn driver(&mut self, device: &config::Device, tags: &[TagId]) -> Arc<dyn Driver> {
        let points = self.points(device, tags);
        match &device.connection {
            Connection::ModbusTcp { settings, dial_in } => {
                let driver = modbus::TcpDriver::new(settings.clone(), points, self.clock.clone());
                self.taps.insert(device.name.clone(), driver.tap().clone());
                match dial_in {
                    Some(listen) => Arc::new(driver.dialled_in(self.dial_in(&device.name, listen))),
                    None => Arc::new(driver),
                }
            }
            Connection::ModbusRtu { line, settings } => {
                let line = self.serial_line(line);
                self.rtu(settings, line, points)
            }
            Connection::ModbusRtuTcp {
                address,
                dial_in,
                settings,
            } => {
                let line = self.line_over_tcp(address, dial_in.as_ref(), settings.timeout);
                self.rtu(settings, line, points)
            }
            Connection::Opcua(settings) => {
                let items = items(device, tags);
                let driver = opcua::OpcuaDriver::new(settings.clone(), items, self.clock.clone());
                let memory = opcua::Memory {
                    session: self.sessions.of(&device.name, &settings.url),
                    ..self.memories.remove(&device.name).unwrap_or_default()
                };
                let driver = driver.remembering(memory);
                let sessions = &mut self.sessions;
                sessions.keep(&device.name, &settings.url, driver.session());
                Arc::new(driver)
            }
        }
    }

    /// The sessions of the devices so far; those of later ones are not kept.
    pub(super) fn take_sessions(&mut self) -> Sessions {
        std::mem::take(&mut self.sessions)
    }

    /// The totals of the devices so far; later ones have none that are kept.
    pub(super) fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// The tags of a Modbus device as points to read.
    pub(crate) fn points(&mut self, device: &config::Device, tags: &[TagId]) -> Vec<modbus::Point> {
        let mut points = Vec::new();
        for (tag, id) in device.tags.iter().zip(tags) {
            if let TagPoint::Modbus(spec) = &tag.point {
                points.push(modbus::Point {
                    tag: *id,
                    spec: *spec,
                    meaning: self.meaning(&device.name, tag, spec),
                    interval: tag.poll_interval,
                });
            }
        }
        points
    }

    fn meaning(
        &mut self,
        device: &str,
        tag: &config::Tag,
        spec: &modbus::PointSpec,
    ) -> modbus::Meaning {
        match &tag.meaning {
            TagMeaning::Plain => modbus::Meaning::Plain,
            TagMeaning::States(states) => modbus::Meaning::States(states.clone()),
            // The reader of the configuration has made one, too.
            TagMeaning::Total { rollover, step } => {
                match modbus::Total::new(spec, *rollover, *step) {
                    Ok(total) => {
                        let total = Arc::new(total);
                        let name = format!("{device}/{}", tag.name);
                        self.totals.keep(name, spec, total.clone());
                        modbus::Meaning::Total(total)
                    }
                    Err(_) => modbus::Meaning::Plain,
                }
            }
        }
    }

    /// Those that devices share.
    pub(super) fn lines(&self) -> Vec<Line> {
        let lines = self.serial.values().chain(self.over_tcp.values());
        let mut lines: Vec<Line> = lines.cloned().collect();
        lines.sort_by(|one, other| one.name().cmp(other.name()));
        lines
    }

    /// Where to listen in on devices that have a connection of their own, by their names.
    pub(super) fn taps(&self) -> BTreeMap<String, Tap> {
        self.taps.clone()
    }

    /// The reader of the configuration refuses a device whose line is not there; it would find no port.
    fn serial_line(&mut self, name: &str) -> Line {
        let clock = &self.clock;
        let line = self.serial.entry(name.to_owned()).or_insert_with(|| {
            Line::serial(name, modbus::SerialSettings::new(name), clock.clone())
        });
        line.clone()
    }

    fn rtu(
        &self,
        settings: &modbus::RtuSettings,
        line: Line,
        points: Vec<modbus::Point>,
    ) -> Arc<dyn Driver> {
        let clock = self.clock.clone();
        Arc::new(modbus::RtuDriver::new(
            settings.clone(),
            line,
            points,
            clock,
        ))
    }

    /// One line for all devices of an address, since the bus behind it carries one frame at a time.
    fn line_over_tcp(
        &mut self,
        address: &str,
        dial_in: Option<&Listen>,
        timeout: Duration,
    ) -> Line {
        let name = match dial_in.and_then(|listen| listen.source) {
            Some(source) => format!("{address} from {source}"),
            None => address.to_owned(),
        };
        if let Some(line) = self.over_tcp.get(&name) {
            return line.clone();
        }
        let clock = self.clock.clone();
        let line = match dial_in {
            Some(listen) => {
                let dial_in = self.dial_in(&name, listen);
                Line::dialled_in(name.clone(), dial_in, timeout, clock)
            }
            None => Line::over_tcp(name.clone(), timeout, clock),
        };
        self.over_tcp.insert(name, line.clone());
        line
    }

    fn dial_in(&mut self, who: &str, listen: &Listen) -> DialIn {
        let address = &listen.address;
        let dial_in = self
            .dial_ins
            .entry(address.clone())
            .or_insert_with(|| DialIn::new(address));
        if let Some(source) = listen.source {
            dial_in.know(who, source);
        }
        dial_in.clone()
    }
}

fn items(device: &config::Device, tags: &[TagId]) -> Vec<opcua::Item> {
    let item = |(tag, id): (&config::Tag, &TagId)| match &tag.point {
        TagPoint::Opcua(node) => Some(opcua::Item {
            // Whoever writes a type of numbers wants numbers.
            named: matches!(tag.value_type, ValueType::Any | ValueType::Text),
            scaling: tag.scaling,
            deadband: tag.server_deadband.map(|deadband| match deadband {
                config::Deadband::Absolute(size) => opcua::ServerDeadband::Absolute(size),
                config::Deadband::Percent(size) => opcua::ServerDeadband::Percent(size),
            }),
            ..opcua::Item::new(*id, node.clone(), tag.poll_interval)
        }),
        TagPoint::Modbus(_) => None,
    };
    device.tags.iter().zip(tags).filter_map(item).collect()
}
