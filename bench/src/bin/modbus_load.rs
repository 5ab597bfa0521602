//! `millrace-modbus-load`: the figures of the Modbus driver.

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use millrace_bench::{Table, modbus};
use millrace_drivers::modbus::DataType;

/// Measures the Modbus driver: lines, registers, plans, pipelining, writes, and with MILLRACE_BIN the agent's poll jitter, also beside models, and what models cost.
#[derive(Parser)]
struct Cli {
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Seconds for each measurement that has no end of its own.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seed of the maps and the pauses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Turns with models and without.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Which parts; all of them where none is named.
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Line,
    Cpu,
    Plans,
    Pipelining,
    Jitter,
    Writes,
    Models,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // As many threads as the agent has.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let parts = match cli.parts.as_slice() {
        [] => Part::value_variants(),
        parts => parts,
    };
    let table = Table::begin(cli.json);
    let span = Duration::from_secs(cli.seconds);
    for part in parts {
        let rows = match part {
            Part::Line => runtime.block_on(async {
                let slow = modbus::line_use(9_600, span).await?;
                let fast = modbus::line_use(115_200, span).await?;
                anyhow::Ok([slow, fast].concat())
            })?,
            Part::Cpu => vec![
                modbus::bare_cpu(20_000_000)?,
                modbus::cpu(DataType::U16, 1, 1, 20_000_000)?,
                modbus::cpu(DataType::F32, 2, 1, 20_000_000)?,
                modbus::cpu(DataType::U16, 1, 8, 20_000_000)?,
                modbus::cpu(DataType::F32, 2, 8, 20_000_000)?,
            ],
            Part::Plans => modbus::plan_cost(1_000, cli.seed)?,
            Part::Pipelining => vec![runtime.block_on(modbus::pipelining(8, 10))?],
            Part::Jitter => modbus::jitter(span)?,
            Part::Models => {
                let jitter = modbus::jitter_beside_models(span, cli.turns)?;
                [jitter, modbus::hundred_models(span)?].concat()
            }
            // A write a second or so.
            Part::Writes => runtime.block_on(modbus::writes(4 * cli.seconds as u16, cli.seed))?,
        };
        table.print(rows)?;
    }
    Ok(())
}
