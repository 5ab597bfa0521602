//! `millrace sim`: simulated devices for demonstrations, tests and field engineers without a plant.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::{Global, output};

mod modbus;
mod opcua;

/// Which device to simulate.
#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    Modbus(modbus::ModbusArgs),
    Opcua(opcua::OpcuaArgs),
}

impl SimCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        super::init_logs("warn");
        match self {
            SimCommand::Modbus(args) => args.run(global),
            SimCommand::Opcua(args) => args.run(global),
        }
    }
}

/// Says where the device is, as the first line: a script waits for it.
fn say_ready(url: &str, global: &Global) -> anyhow::Result<()> {
    if global.json {
        output::json_line(&json!({ "ready": url }))
    } else {
        Ok(output::text(&format!("ready {url}\n"))?)
    }
}

/// Says at the end what was served, in all and by tag.
fn say_served<'a>(
    total: u64,
    tags: impl Iterator<Item = (&'a str, u64)>,
    global: &Global,
) -> anyhow::Result<()> {
    if global.json {
        let tags: serde_json::Map<String, serde_json::Value> = tags
            .map(|(name, count)| (name.to_owned(), count.into()))
            .collect();
        output::json_line(&json!({ "served": total, "tags": tags }))
    } else {
        Ok(output::text(&format!("served {total} values\n"))?)
    }
}

/// Says at the end how often each fault has happened. On stderr: what is served is the last line of stdout.
fn say_faults(counts: &BTreeMap<&'static str, u64>) {
    if !counts.is_empty() {
        let told: Vec<String> = counts.iter().map(|(n, c)| format!("{n} {c}")).collect();
        eprintln!("faults: {}", told.join(", "));
    }
}
