//! `millrace-load [--seconds N] [LOAD…]`: runs named loads against the release build and prints figures.
//! `millrace-load --beside SAMPLES`: what a backlog of so many samples costs live data.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use millrace_bench::{Load, beside, measure};

/// Runs named loads (W1, W1K, W2, W2S, W3) and prints what they cost.
#[derive(Parser)]
struct Cli {
    /// Seconds to measure each load for.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Measure live data beside a backlog of so many samples instead, and without one, in turns
    #[arg(long, value_name = "SAMPLES", conflicts_with = "loads")]
    beside: Option<u64>,
    /// Which loads; all of them where none is named.
    loads: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(samples) = cli.beside {
        let figures = beside(Duration::from_secs(cli.seconds), samples).await?;
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    let named =
        |name: &String| Load::named(name).with_context(|| format!("there is no load {name}"));
    let mut loads = cli.loads.iter().map(named).collect::<Result<Vec<Load>>>()?;
    if loads.is_empty() {
        loads = Load::ALL.to_vec();
    }
    for load in loads {
        let figures = measure(load, Duration::from_secs(cli.seconds)).await?;
        println!("{}", serde_json::to_string(&figures)?);
    }
    Ok(())
}
