//! The millrace program: polls devices, keeps every sample, scores windows, delivers over MQTT.

mod api;
mod apply;
mod audit;
mod backoff;
mod bootstrap;
mod cli;
mod clock;
mod command;
mod config;
mod delivered;
mod delivery;
#[cfg(feature = "sim")]
mod demo;
mod device;
mod durable;
mod events;
mod gateway;
mod live;
mod model;
mod opcua;
mod panel;
mod pipeline;
mod poison;
mod poll;
mod remote;
mod replay;
mod report;
mod shelf;
mod stored;
mod supervisor;
mod totals;
mod trace;
mod write;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
