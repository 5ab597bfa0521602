//! `millrace-uplink-load`: the figures of the uplink's session.

use anyhow::Result;
use clap::Parser;
use millrace_bench::{Row, Table, uplink};

/// Measures the uplink's session beside a bare publisher, against the same mosquitto: message rates, CPU a message, CPU a
/// gigabyte.
#[derive(Parser)]
struct Cli {
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Turns of each publisher; the median counts.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Times the messages of a turn.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut rows = vec![Row::new("cores in use by others", uplink::others()?)];
    rows.extend(uplink::uplink(cli.turns, cli.scale)?);
    Table::begin(cli.json).print(rows)
}
