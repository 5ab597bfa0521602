//! The command line: what a person or a script types, and what comes back.
//!
//! Data goes to stdout, logs and errors to stderr; exit 0 ok, 1 failed, 2 usage or configuration. The
//! doc comments of the commands are their help text. One file a command group; [`client`] speaks to a
//! running agent, [`table`] and [`show`] make text of what it said.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

mod advice;
mod bootstrap;
mod browse;
mod buffer;
mod call;
mod check;
mod client;
mod config;
mod device;
mod events;
mod failure;
mod identify;
mod interrupt;
mod later;
mod ledger;
mod listen;
mod logs;
mod man;
mod model;
mod once;
mod opcua;
pub(crate) mod output;
mod probe_value;
mod reach;
mod run;
mod scan;
pub(crate) mod show;
#[cfg(feature = "sim")]
mod sim;
mod status;
mod table;
mod tags;
mod tape;
mod target;
mod trace;
mod trust;
mod uplink;
mod write;

pub(crate) use client::OUTCOME;
use failure::Failure;
#[cfg(feature = "sim")]
pub(crate) use interrupt::interrupted;
use later::Later;
pub(crate) use logs::{
    init as init_logs, restore as restore_log_level, set_level as set_log_level,
};
#[cfg(feature = "sim")]
pub(crate) use status::state_name as status_state;

/// Usage or configuration is wrong.
const EXIT_CONFIG: u8 = 2;

/// Edge data agent: polls Modbus and OPC UA devices, buffers every sample durably, scores it with local
/// models and delivers it over MQTT.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Socket of the running agent [default: /run/millrace/millrace.sock, then DATA_DIR/millrace.sock]
    #[arg(
        long,
        global = true,
        env = "MILLRACE_SOCKET",
        hide_env_values = true,
        value_name = "PATH"
    )]
    pub(crate) socket: Option<PathBuf>,
    /// Configuration file, or directory of files [default: /etc/millrace]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Where the agent keeps what it writes; wins over the configuration
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Global {
    /// The data directory where the configuration is not read.
    fn data_dir(&self) -> &Path {
        self.data_dir
            .as_deref()
            .unwrap_or_else(|| Path::new(crate::config::DATA_DIR))
    }

    /// Certificates of this gateway, and those that it trusts: the agent's, where there is a configuration.
    fn pki_dir(&self) -> PathBuf {
        match crate::config::load(self.config.as_deref(), self.data_dir.as_deref()) {
            Ok(loaded) => loaded.config.pki_dir(),
            Err(_) => self.data_dir().join("pki"),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    #[cfg(feature = "sim")]
    Demo(crate::demo::DemoArgs),
    /// Show the main job on simulated devices (left out of this build)
    #[cfg(not(feature = "sim"))]
    Demo(later::AnyArgs),
    /// Devices, uplinks, buffer, models and clock in one screen, problems first
    Status,
    Events(events::EventsArgs),
    Tags(tags::TagsArgs),
    Read(tags::ReadArgs),
    Write(write::WriteArgs),
    /// List, test, pause and resume devices
    #[command(subcommand)]
    Device(device::DeviceCommand),
    Trace(trace::TraceArgs),
    /// Record a bus, show or play a recording
    #[command(subcommand)]
    Tape(tape::TapeCommand),
    Ledger(ledger::LedgerArgs),
    /// The store: its state, what is in it
    #[command(subcommand)]
    Buffer(buffer::BufferCommand),
    /// Versions of model bundles
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Find units and line settings
    #[command(subcommand)]
    Scan(scan::ScanCommand),
    Browse(browse::BrowseArgs),
    Call(call::CallArgs),
    Identify(identify::IdentifyArgs),
    ProbeValue(probe_value::ProbeArgs),
    /// Simulated devices, well-behaved or misbehaving
    #[cfg(feature = "sim")]
    #[command(subcommand)]
    Sim(sim::SimCommand),
    /// Simulated devices (left out of this build)
    #[cfg(not(feature = "sim"))]
    Sim(later::AnyArgs),
    /// First contact with a cloud core
    #[command(subcommand)]
    Bootstrap(bootstrap::BootstrapCommand),
    /// Connections to cloud cores
    #[command(subcommand)]
    Uplink(uplink::UplinkCommand),
    /// The configuration that runs
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Trust(trust::TrustArgs),
    /// Find the culprit and the next step
    Doctor(later::AnyArgs),
    /// Live view in the terminal
    Watch(later::AnyArgs),
    /// Users and roles of the local API
    User(later::AnyArgs),
    Completions(CompletionsArgs),
    Man(man::ManArgs),
}

/// Print shell completions
#[derive(Debug, Args)]
struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Runs the command that was typed.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: clap knows the stream and the exit code of each.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_CONFIG));
        }
    };
    match cli.command.run(&cli.global) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

impl Command {
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => args.run(global),
            Command::Check(args) => args.run(global),
            #[cfg(feature = "sim")]
            Command::Demo(args) => crate::demo::run(&args, global.json),
            #[cfg(not(feature = "sim"))]
            Command::Demo(_) => Later::left_out("demo"),
            Command::Status => status::run(global),
            Command::Events(args) => args.run(global),
            Command::Tags(args) => args.run(global),
            Command::Read(args) => args.run(global),
            Command::Write(args) => args.run(global),
            Command::Device(command) => command.run(global),
            Command::Trace(args) => args.run(global),
            Command::Tape(command) => command.run(global),
            Command::Ledger(args) => args.run(global),
            Command::Buffer(command) => command.run(global),
            Command::Model(command) => command.run(global),
            Command::Scan(command) => command.run(global),
            Command::Browse(args) => args.run(global),
            Command::Call(args) => args.run(global),
            Command::Identify(args) => args.run(global),
            Command::ProbeValue(args) => args.run(global),
            #[cfg(feature = "sim")]
            Command::Sim(command) => command.run(global),
            #[cfg(not(feature = "sim"))]
            Command::Sim(_) => Later::left_out("sim"),
            Command::Bootstrap(command) => command.run(global),
            Command::Uplink(command) => command.run(global),
            Command::Config(command) => command.run(global),
            Command::Trust(args) => args.run(global),
            Command::Doctor(_) => {
                Later::new("doctor", "`millrace status` lists the problems first").refuse()
            }
            Command::Watch(_) => Later::new(
                "watch",
                "`millrace tags --follow` prints values as they change",
            )
            .refuse(),
            Command::User(_) => Later::new(
                "user",
                "the socket's group decides: members of group millrace may use it",
            )
            .refuse(),
            Command::Completions(args) => completions(&args),
            Command::Man(args) => args.run(Cli::command()),
        }
    }
}

fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "millrace", &mut text);
    output::bytes(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
