//! `millrace identify`: who a Modbus unit or an OPC UA server says it is.

mod server;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::modbus::{Identification, identify};
use serde_json::{Map, Value, json};

use super::advice::failed;
use super::client::{Client, block_on};
use super::opcua::{self, Login};
use super::table::Table;
use super::{Failure, Global, output, reach};
use crate::report::DeviceStatus;

/// Ask a Modbus unit (function 43/14) or an OPC UA server who it is
///
/// Of an OPC UA server: product, version, state, what it offers to connect with, and what it can take.
#[derive(Debug, Args)]
pub(crate) struct IdentifyArgs {
    /// `tcp://HOST[:502][/UNIT]`, rtu+tcp://HOST:PORT/UNIT, /dev/ttyUSB0,9600,8E1/3, opc.tcp://HOST:PORT, or a device of
    /// the running agent
    #[arg(value_name = "TARGET")]
    target: String,
    #[command(flatten)]
    login: Login,
    /// How long the unit or server may take [default: 1s, of OPC UA 5s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

/// A Modbus unit says who it is at once or not at all.
const TIMEOUT_MODBUS: Duration = Duration::from_secs(1);

/// A handshake with keys takes longer.
const TIMEOUT_OPCUA: Duration = Duration::from_secs(5);

impl IdentifyArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        block_on(self.ask(global))
    }

    async fn ask(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if let Some(url) = self.server(global).await? {
            let timeout = self.timeout.unwrap_or(TIMEOUT_OPCUA);
            return server::ask(&self.target, &url, &self.login, timeout, global).await;
        }
        let timeout = self.timeout.unwrap_or(TIMEOUT_MODBUS);
        let (mut way, unit) = reach::device_or_target(&self.target, timeout, global).await?;
        let found = identify(&mut way.caller, unit).await;
        let found = found.map_err(|error| failed("the unit cannot be reached", error))?;
        let Some(found) = found else {
            return Err(Failure::new(format!("unit {unit} does not identify itself"))
                .hint("many devices lack function 43; `millrace scan modbus` shows what can be read")
                .into());
        };
        if global.json {
            output::json(&report(unit, &found))?;
        } else {
            output::text(&table(&found).render(""))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl IdentifyArgs {
    /// The address of the OPC UA server that is meant; nothing where it is another kind of device.
    async fn server(&self, global: &Global) -> anyhow::Result<Option<String>> {
        if opcua::is_address(&self.target) {
            return Ok(Some(self.target.clone()));
        }
        if self.target.contains("://") || self.target.starts_with('/') {
            return Ok(None);
        }
        let devices = Client::new(global).fetch_if_running("/v1/devices").await?;
        let devices: Vec<DeviceStatus> = devices.unwrap_or_default();
        let named = devices
            .into_iter()
            .find(|device| device.name == self.target && device.driver == "opcua");
        Ok(named.map(|device| device.address))
    }
}

fn name(object: u8) -> String {
    match Identification::name(object) {
        Some(name) => name.to_owned(),
        None => format!("object-{object}"),
    }
}

fn report(unit: u8, found: &Identification) -> Value {
    let objects = found.objects.iter();
    let objects: Map<String, Value> = objects
        .map(|(object, text)| (name(*object), text.as_str().into()))
        .collect();
    json!({ "unit": unit, "conformity": found.conformity, "objects": objects })
}

fn table(found: &Identification) -> Table {
    let mut table = Table::new(["OBJECT", "VALUE"]);
    for (object, text) in &found.objects {
        // Whatever the device says must not steer the terminal.
        let printable: String = text.chars().filter(|c| !c.is_control()).collect();
        table.row([name(*object), printable]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_names() {
        let mut found = Identification {
            conformity: 2,
            ..Identification::default()
        };
        for (object, text) in [(0, "Ace"), (1, "M3\u{1b}[2J"), (128, "x")] {
            found.objects.insert(object, text.to_owned());
        }
        insta::assert_snapshot!(table(&found).render(""));
        insta::assert_snapshot!(report(1, &found).to_string());
    }
}
