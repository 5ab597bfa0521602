//! `millrace-opcua-load`: the figures of the OPC UA driver.

use anyhow::Result;
use clap::{Parser, ValueEnum};
use millrace_bench::{Table, opcua};

/// Measures the OPC UA driver: notifications, monitored items, batches of reads, and with MILLRACE_BIN how soon the agent is
/// back after a restart of its server.
#[derive(Parser)]
struct Cli {
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Notifications to take.
    #[arg(long, default_value_t = 1_000_000)]
    notifications: usize,
    /// Reads of all 20,000 nodes.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Which parts; all of them where none is named.
    parts: Vec<Part>,
    #[command(flatten)]
    server: opcua::ServerArgs,
    /// Monitor so many items of the server at --url and say what memory they took, and nothing else.
    #[arg(long, hide = true, requires = "url")]
    hold: Option<usize>,
    /// The server of --hold.
    #[arg(long, hide = true)]
    url: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Notifications,
    Items,
    Reads,
    Restart,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // As many threads as the agent has.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if cli.server.is_server() {
        return runtime.block_on(opcua::serve(&cli.server));
    }
    if let (Some(count), Some(url)) = (cli.hold, &cli.url) {
        println!("{}", runtime.block_on(opcua::hold(url, count))?);
        return Ok(());
    }
    let parts = match cli.parts.as_slice() {
        [] => Part::value_variants(),
        parts => parts,
    };
    let table = Table::begin(cli.json);
    for part in parts {
        let rows = match part {
            Part::Notifications => runtime.block_on(opcua::notifications(cli.notifications))?,
            Part::Items => opcua::items()?,
            Part::Reads => runtime.block_on(opcua::reads(cli.rounds))?,
            Part::Restart => runtime.block_on(opcua::restart())?,
        };
        table.print(rows)?;
    }
    Ok(())
}
