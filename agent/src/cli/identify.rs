//! `millrace identify`: who a Modbus unit says it is.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::modbus::{Identification, identify};
use serde_json::{Map, Value, json};

use super::advice::failed;
use super::client::block_on;
use super::table::Table;
use super::{Failure, Global, output, reach};

/// Ask a Modbus unit who it is (function 43/14)
#[derive(Debug, Args)]
pub(crate) struct IdentifyArgs {
    /// `tcp://HOST[:502][/UNIT]`, rtu+tcp://HOST:PORT/UNIT, /dev/ttyUSB0,9600,8E1/3, or a device of the running agent
    #[arg(value_name = "TARGET")]
    target: String,
    /// How long the unit may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl IdentifyArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        block_on(self.ask(global))
    }

    async fn ask(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let (mut way, unit) = reach::device_or_target(&self.target, self.timeout, global).await?;
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
