//! The simulated plant: a pump station over Modbus TCP, a tank farm over OPC UA.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use millrace_drivers::modbus::{Address, DataType, PointSpec, Table, WordOrder};
use millrace_drivers::sim::modbus::{Faults, RegisterMap, ServedValue, SimModbus};
use millrace_drivers::sim::opcua::{NAMESPACE_URI, SimNode, SimOpcua, SimOpcuaSettings, SimType};
use millrace_drivers::sim::signal::Signal;

use super::key::Key;
use super::pump::{self, ROLES};
use super::timeline::Timeline;
use super::verdict::Served;

/// The name of the Modbus device.
pub(super) const PUMP_STATION: &str = "pump-station";
/// The name of the OPC UA device.
pub(super) const TANK_FARM: &str = "tank-farm";
/// How often the pump station is polled: what the model was fitted to.
const POLL_INTERVAL: &str = "200ms";
/// How often the tank farm moves on, and publishes.
const TANK_INTERVAL: Duration = Duration::from_millis(500);
/// Tanks of the farm, each with five variables.
const TANKS: usize = 6;
/// Values that arrive after the devices stopped: the pump station must not run out of them.
const COURSE_SPARE: Duration = Duration::from_secs(60);
/// Loopback, and any free port.
pub(super) const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Both devices, and what they served.
pub(super) struct Plant {
    pump: SimModbus,
    tanks: SimOpcua,
    pump_types: HashMap<Arc<str>, DataType>,
    pump_served: HashMap<(Arc<str>, Key), u64>,
    /// When the signals began, on both clocks.
    pub(super) began: Instant,
    pub(super) began_wall: SystemTime,
}

/// A family of tags of the pump station beside the pump's own sensors.
struct Family {
    name: &'static str,
    count: usize,
    table: Table,
    data_type: DataType,
    unit: &'static str,
    signal: &'static str,
}

const fn family(
    name: &'static str,
    count: usize,
    table: Table,
    data_type: DataType,
    unit: &'static str,
    signal: &'static str,
) -> Family {
    Family {
        name,
        count,
        table,
        data_type,
        unit,
        signal,
    }
}

/// Forty tags such as a pump station has.
const FAMILIES: [Family; 9] = [
    family(
        "winding_temp",
        6,
        Table::Input,
        DataType::F32,
        "°C",
        "walk 65 0.2 40 110",
    ),
    family(
        "suction_pressure",
        4,
        Table::Input,
        DataType::F32,
        "bar",
        "sine 1.2 0.1 40s 0.01",
    ),
    family(
        "sump_level",
        4,
        Table::Input,
        DataType::U16,
        "mm",
        "ramp 800 2400 90s",
    ),
    family(
        "valve_position",
        6,
        Table::Holding,
        DataType::U16,
        "%",
        "walk 60 2 0 100",
    ),
    family(
        "speed",
        4,
        Table::Holding,
        DataType::I16,
        "1/min",
        "sine 1450 30 25s 2",
    ),
    family(
        "energy",
        4,
        Table::Holding,
        DataType::U32,
        "Wh",
        "tick 300ms",
    ),
    family("starts", 4, Table::Holding, DataType::U32, "", "tick 15s"),
    family(
        "running",
        4,
        Table::Coil,
        DataType::Bool,
        "",
        "square 0 1 20s",
    ),
    family(
        "overload",
        4,
        Table::Discrete,
        DataType::Bool,
        "",
        "constant 0",
    ),
];

impl Plant {
    /// Starts both devices on free ports of the loopback.
    pub(super) async fn start(timeline: &Timeline) -> anyhow::Result<Self> {
        let map = pump_map(timeline)?;
        let pump_types = map.entries().iter();
        let pump_types = pump_types
            .map(|e| (e.name.clone(), e.spec.data_type()))
            .collect();
        let tanks = SimOpcuaSettings {
            interval: TANK_INTERVAL,
            ..SimOpcuaSettings::new(ANY_PORT, tank_nodes())
        };
        let tanks = SimOpcua::start(tanks)
            .await
            .context("the tank farm does not start")?;
        let pump = SimModbus::bind(&ANY_PORT.to_string(), map, Faults::default())
            .context("the pump station does not start")?;
        pump.keep_log();
        Ok(Self {
            pump,
            tanks,
            pump_types,
            pump_served: HashMap::new(),
            began: Instant::now(),
            began_wall: SystemTime::now(),
        })
    }

    /// The `[[device]]` tables of the agent that reads them.
    pub(super) fn device_tables(&self, map: &Timeline) -> anyhow::Result<String> {
        let mut text = format!(
            "[[device]]\nname = \"{PUMP_STATION}\"\ndriver = \"modbus-tcp\"\naddress = \"{}\"\n\
             poll_interval = \"{POLL_INTERVAL}\"\n",
            self.pump.local_addr()
        );
        for entry in pump_map(map)?.entries() {
            let (address, data_type) = (entry.spec.address(), entry.spec.data_type());
            tag(
                &mut text,
                &entry.name,
                &address.to_string(),
                pump_unit(&entry.name),
            );
            let _ = writeln!(text, "type = \"{data_type}\"");
        }
        let _ = write!(
            text,
            "\n[[device]]\nname = \"{TANK_FARM}\"\ndriver = \"opcua\"\naddress = \"{}\"\n\
             security = \"None\"\npublish_interval = \"{}ms\"\nqueue_size = 20\n",
            self.tanks.url(),
            TANK_INTERVAL.as_millis()
        );
        for node in tank_nodes() {
            let address = format!("nsu={NAMESPACE_URI};s={}", node.name);
            tag(&mut text, &node.name, &address, tank_unit(&node.name));
        }
        Ok(text)
    }

    /// Takes over what the pump station served since the last call; call it now and then.
    pub(super) fn collect(&mut self) {
        for ServedValue { tag, bits } in self.pump.take_log() {
            let data_type = self.pump_types.get(&tag).copied().unwrap_or(DataType::U64);
            let key = served_key(data_type, bits);
            *self.pump_served.entry((tag, key)).or_insert(0) += 1;
        }
    }

    /// How many values both devices served so far.
    pub(super) fn served_total(&self) -> u64 {
        self.pump.served().total + self.tanks.served().total
    }

    /// Holds the tank farm's values still, so that nothing new waits in its subscriptions.
    pub(super) fn freeze(&self) {
        self.tanks.freeze(true);
    }

    /// Closes both devices; what each served.
    pub(super) async fn stop(mut self) -> BTreeMap<String, Served> {
        self.collect();
        let tanks = self.tanks.served().nodes;
        self.tanks.stop().await;
        self.pump.shutdown().await;
        BTreeMap::from([
            (PUMP_STATION.to_owned(), Served::Values(self.pump_served)),
            (TANK_FARM.to_owned(), Served::Counts(tanks)),
        ])
    }
}

/// How long a frozen tank farm needs until all that it handed out is fetched: some publishings.
pub(super) const DRAIN: Duration = TANK_INTERVAL.saturating_mul(3);

fn tag(text: &mut String, name: &str, address: &str, unit: &str) {
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n[[device.tag]]\nname = \"{name}\"\naddress = \"{address}\"\n"
    );
    if !unit.is_empty() {
        let _ = writeln!(text, "unit = \"{unit}\"");
    }
}

/// The registers of the pump station: the pump's sensors first.
fn pump_map(timeline: &Timeline) -> anyhow::Result<RegisterMap> {
    let courses = pump::courses(timeline.stop + COURSE_SPARE, &timeline.faults);
    let mut map = RegisterMap::new();
    let mut next: HashMap<&str, u16> = HashMap::new();
    for ((role, _), values) in ROLES.iter().zip(courses) {
        let signal = Signal::Recorded {
            values,
            period: pump::STEP,
        };
        let spec = place(&mut next, Table::Input, DataType::F32)?;
        map.add(*role, spec, signal)?;
    }
    for family in &FAMILIES {
        for number in 1..=family.count {
            let spec = place(&mut next, family.table, family.data_type)?;
            let signal = family.signal.parse::<Signal>()?;
            map.add(format!("{}_{number}", family.name), spec, signal)?;
        }
    }
    Ok(map)
}

/// The next free place of a table.
fn place(
    next: &mut HashMap<&str, u16>,
    table: Table,
    data_type: DataType,
) -> anyhow::Result<PointSpec> {
    let offset = next.entry(table.name()).or_insert(0);
    let address = Address {
        table,
        offset: *offset,
        bit: None,
    };
    let spec = PointSpec::new(address, data_type, WordOrder::Abcd)?;
    *offset += spec.registers();
    Ok(spec)
}

fn pump_unit(name: &str) -> &'static str {
    let role = ROLES.iter().find(|(role, _)| *role == name);
    let family = || FAMILIES.iter().find(|family| name.starts_with(family.name));
    role.map(|(_, unit)| *unit)
        .or_else(|| family().map(|family| family.unit))
        .unwrap_or_default()
}

/// Five variables a tank.
fn tank_nodes() -> Vec<SimNode> {
    let sine = |mean, amplitude, seconds, noise| Signal::Sine {
        mean,
        amplitude,
        period: Duration::from_secs(seconds),
        noise,
    };
    let walk = |start, step, low, high| Signal::Walk {
        start,
        step,
        low,
        high,
    };
    let mut nodes = Vec::new();
    for tank in 1..=TANKS {
        let seconds = 40 + 7 * tank as u64;
        for (noun, kind, signal) in [
            ("level", SimType::F64, sine(4.5, 2.0, seconds, 0.01)),
            ("temperature", SimType::F32, walk(18.0, 0.1, 5.0, 40.0)),
            ("pressure", SimType::F32, sine(1.02, 0.02, 15, 0.002)),
            ("inflow", SimType::F64, walk(30.0, 1.0, 0.0, 80.0)),
            (
                "batches",
                SimType::U32,
                Signal::Tick(Duration::from_secs(5)),
            ),
        ] {
            nodes.push(SimNode {
                name: format!("tank{tank}.{noun}"),
                kind,
                signal,
            });
        }
    }
    nodes
}

fn tank_unit(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("level") => "m",
        Some("temperature") => "°C",
        Some("pressure") => "bar",
        Some("inflow") => "m3/h",
        _ => "",
    }
}

/// A served value from its bits.
fn served_key(data_type: DataType, bits: u64) -> Key {
    let number = match data_type {
        DataType::Bool => return Key::Bool(bits != 0),
        DataType::F32 => return Key::Single(bits as u32),
        DataType::F64 => f64::from_bits(bits),
        DataType::I8 | DataType::I16 | DataType::I32 | DataType::I48 | DataType::I64 => {
            bits as i64 as f64
        }
        _ => bits as f64,
    };
    Key::Number(number.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pump_station_of_45_and_a_tank_farm_of_30() {
        let map = pump_map(&Timeline::new(60)).unwrap();
        assert_eq!(map.entries().len(), 45);
        assert_eq!(tank_nodes().len(), 30);
        for entry in map.entries() {
            assert_eq!(
                pump_unit(&entry.name).is_empty(),
                ["starts", "running", "overload"]
                    .iter()
                    .any(|n| entry.name.starts_with(n)),
                "{}",
                entry.name
            );
        }
    }

    #[test]
    fn served_bits_are_what_json_says() {
        assert_eq!(
            served_key(DataType::F32, u64::from(0.1f32.to_bits())),
            Key::of(&json!(0.1)).single()
        );
        assert_eq!(served_key(DataType::I16, -3i64 as u64), Key::of(&json!(-3)));
        assert_eq!(served_key(DataType::U32, 7), Key::of(&json!(7)));
        assert_eq!(served_key(DataType::Bool, 1), Key::of(&json!(true)));
    }
}
