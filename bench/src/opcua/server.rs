//! The server, in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use millrace_drivers::sim::opcua::{SimNode, SimOpcua, SimOpcuaSettings, SimType};
use millrace_drivers::sim::signal::Signal;

use super::name;

/// What the process of the server is told.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Serve so many nodes, and nothing else.
    #[arg(long, hide = true)]
    serve: Option<usize>,
    /// Milliseconds from one change of all values to the next.
    #[arg(long, hide = true, default_value_t = 100)]
    interval: u64,
    /// Certificate and key of the server.
    #[arg(long, hide = true)]
    pki: Option<PathBuf>,
}

impl ServerArgs {
    /// Whether this process is a server.
    pub fn is_server(&self) -> bool {
        self.serve.is_some()
    }
}

/// Numbers that change with every tick.
pub(super) fn nodes(count: usize) -> Vec<SimNode> {
    let node = |place| SimNode {
        name: name(place),
        kind: SimType::F64,
        signal: Signal::Ramp {
            from: 0.0,
            to: 1000.0,
            period: Duration::from_secs(3600),
        },
    };
    (0..count).map(node).collect()
}

/// Serves until the standard input ends.
///
/// # Errors
/// The server does not start.
pub async fn serve(args: &ServerArgs) -> Result<()> {
    let address = "127.0.0.1:0".parse()?;
    let settings = SimOpcuaSettings {
        interval: Duration::from_millis(args.interval),
        pki_dir: args.pki.clone(),
        ..SimOpcuaSettings::new(address, nodes(args.serve.unwrap_or_default()))
    };
    let sim = SimOpcua::start(settings).await?;
    println!("{}", sim.url());
    let ended = || std::io::stdin().lines().count();
    tokio::task::spawn_blocking(ended).await?;
    Ok(())
}

/// A server that ends with this value.
pub(super) struct Server {
    child: Child,
    pub(super) url: String,
}

impl Server {
    /// With so many nodes that change this often, and secured endpoints where it has a place for its key.
    pub(super) fn start(count: usize, interval: Duration, pki: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let interval = interval.as_millis().to_string();
        command.args(["--serve", &count.to_string(), "--interval", &interval]);
        if let Some(pki) = pki {
            command.arg("--pki").arg(pki);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("the server has no output")?;
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        anyhow::ensure!(!url.is_empty(), "the server did not start");
        let url = url.trim().to_owned();
        Ok(Self { child, url })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already, then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
