//! `millrace sim opcua`: an OPC UA server whose variables follow signals, and which misbehaves on request.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::sim::opcua::{
    Faults, NAMESPACE_URI, SimNode, SimOpcua, SimOpcuaError, SimOpcuaSettings, SimType,
    nodes_from_csv,
};
use millrace_drivers::sim::signal::Signal;

use super::super::client::block_on;
use super::super::interrupt::interrupted;
use super::super::{Failure, Global, output};

/// More variables than this are no demonstration any more.
const NODES_MAX: usize = 100_000;

/// An OPC UA server
///
/// It runs until Ctrl-C and then says how many values it handed out. Its namespace is urn:millrace:sim,
/// its nodes are s=NAME. They can be written, and what is written stays. The object Simulation has two methods:
/// Multiply, and Misbehave, which takes the words of a fault that happens at once, such as drop.
#[derive(Debug, Args)]
pub(crate) struct OpcuaArgs {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4840")]
    listen: SocketAddr,
    /// So many variables, or a CSV file with the columns name,type,signal; types are bool, i8 to u64, f32, f64,
    /// string, and structure for a PumpState whose speed the signal is
    #[arg(long, value_name = "N|FILE", default_value = "30")]
    nodes: String,
    /// How often values change
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Certificate and key of the server, made at first use; there are secured endpoints only with it
    #[arg(long, value_name = "DIR")]
    pki_dir: Option<PathBuf>,
    /// Take this user too
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// The user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Keep so many values of each variable for HistoryRead
    #[arg(long, value_name = "N", default_value_t = 0)]
    history: usize,
    /// Misbehave: 'bad-nodes 50', 'limit-items 100', 'no-subscriptions', 'slow-publish 10s', 'clock -1h', or at times:
    /// 'restart 2s every 1m', 'blackhole 30s at 10s', 'drop 2%' (of seconds), 'new-certificate at 1m', 'reorder at 1m';
    /// may be given several times
    #[arg(long, value_name = "WORDS")]
    fault: Vec<String>,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the configuration of an agent that reads this server, and end
    #[arg(long)]
    print_config: bool,
}

impl OpcuaArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let nodes = self.nodes()?;
        if self.print_config {
            output::text(&print_config(&nodes, self.listen))?;
            return Ok(ExitCode::SUCCESS);
        }
        let settings = SimOpcuaSettings {
            interval: self.interval,
            pki_dir: self.pki_dir.clone(),
            user: self.user()?,
            history: self.history,
            faults: self.faults()?,
            seed: self.seed,
            ..SimOpcuaSettings::new(self.listen, nodes)
        };
        block_on(serve(settings, global))
    }

    fn nodes(&self) -> anyhow::Result<Vec<SimNode>> {
        if let Ok(count) = self.nodes.parse::<usize>() {
            if count > NODES_MAX {
                return Err(Failure::usage(format!(
                    "--nodes is {count}; the maximum is {NODES_MAX}"
                ))
                .into());
            }
            return Ok((0..count).map(example).collect());
        }
        let unusable = || format!("cannot use {}", self.nodes);
        let file = std::fs::File::open(&self.nodes)
            .map_err(|error| Failure::usage(unusable()).because(error))?;
        let nodes = nodes_from_csv(file);
        Ok(nodes.map_err(|error| Failure::usage(unusable()).because(error))?)
    }

    fn faults(&self) -> anyhow::Result<Faults> {
        let mut faults = Faults::default();
        for words in &self.fault {
            faults
                .add(words)
                .map_err(|e| Failure::usage(e.to_string()).hint(e.hint()))?;
        }
        Ok(faults)
    }

    fn user(&self) -> anyhow::Result<Option<(String, String)>> {
        let (Some(user), Some(path)) = (&self.user, &self.password_file) else {
            return Ok(None);
        };
        let password = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("cannot read {}", path.display())).because(error)
        })?;
        Ok(Some((user.clone(), password.trim_end().to_owned())))
    }
}

async fn serve(settings: SimOpcuaSettings, global: &Global) -> anyhow::Result<ExitCode> {
    let address = settings.address;
    let mut server = SimOpcua::start(settings).await.map_err(|error| {
        let hint = match error {
            SimOpcuaError::Listen { .. } => {
                "another program may have the port; --listen 127.0.0.1:0 takes a free one"
            }
            _ => "--pki-dir names a directory that this user may write",
        };
        Failure::new(format!("no server on {address}"))
            .because(error)
            .hint(hint)
    })?;
    let interrupted = interrupted()?;
    super::say_ready(&server.url(), global)?;
    interrupted.await;
    let (served, happened) = (server.served(), server.happened());
    server.stop().await;
    let nodes = served
        .nodes
        .iter()
        .map(|(name, count)| (name.as_str(), *count));
    super::say_served(served.total, nodes, global)?;
    super::say_faults(&happened);
    Ok(ExitCode::SUCCESS)
}

/// Variable number `index` where no file names any: levels, temperatures, flows, counters, states.
fn example(index: usize) -> SimNode {
    let (noun, kind, signal) = match index % 5 {
        0 => ("Level", SimType::F64, walk(50.0, 0.5, 0.0, 100.0)),
        1 => ("Temperature", SimType::F32, walk(20.0, 0.1, -10.0, 60.0)),
        2 => (
            "Flow",
            SimType::F64,
            Signal::Sine {
                mean: 40.0,
                amplitude: 10.0,
                period: Duration::from_secs(30),
                noise: 0.5,
            },
        ),
        3 => ("Count", SimType::U32, Signal::Tick(Duration::from_secs(1))),
        _ => (
            "Run",
            SimType::Bool,
            Signal::Square {
                low: 0.0,
                high: 1.0,
                period: Duration::from_secs(20),
            },
        ),
    };
    SimNode {
        name: format!("{noun}{}", index / 5 + 1),
        kind,
        signal,
    }
}

fn walk(start: f64, step: f64, low: f64, high: f64) -> Signal {
    Signal::Walk {
        start,
        step,
        low,
        high,
    }
}

fn print_config(nodes: &[SimNode], listen: SocketAddr) -> String {
    let mut text = format!(
        "[[device]]\nname = \"sim\"\ndriver = \"opcua\"\naddress = \"opc.tcp://{listen}/\"\nsecurity = \"None\"\n"
    );
    for node in nodes {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[device.tag]]\nname = {:?}\naddress = \"nsu={NAMESPACE_URI};s={}\"\n",
            node.name, node.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: OpcuaArgs,
    }

    fn typed(words: &[&str]) -> OpcuaArgs {
        Typed::try_parse_from([&["sim"], words].concat())
            .unwrap()
            .args
    }

    #[test]
    fn variables_have_names_of_their_own() {
        let nodes = typed(&["--nodes", "12"]).nodes().unwrap();
        let names: std::collections::BTreeSet<&str> =
            nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names.len(), 12);
        assert!(names.contains("Level1") && names.contains("Temperature3"));
    }

    #[test]
    fn a_bad_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.csv");
        std::fs::write(&path, "name,type,signal\na,f99,counter\n").unwrap();
        let error = typed(&["--nodes", path.to_str().unwrap()])
            .nodes()
            .unwrap_err();
        let text = failure::text(&error);
        assert!(text.contains("nodes.csv: line 2"), "{text}");
        assert!(typed(&["--nodes", "100001"]).nodes().is_err());
        assert!(typed(&["--nodes", "nothing.csv"]).nodes().is_err());
    }

    #[test]
    fn fault_words_are_checked() {
        let args = typed(&["--fault", "drop 2%", "--fault", "clock +1h"]);
        assert_eq!(args.faults().unwrap().clock_ahead_ms, 3_600_000);
        let error = typed(&["--fault", "crc 2%"]).faults().unwrap_err();
        assert!(failure::text(&error).contains("hint: the faults are: bad-nodes"));
    }

    #[test]
    fn configuration_to_paste() {
        let text = print_config(&[example(0)], "127.0.0.1:4840".parse().unwrap());
        assert!(
            text.contains("address = \"nsu=urn:millrace:sim;s=Level1\""),
            "{text}"
        );
    }
}
