//! `millrace-buffer-load`: the figures of the buffer, beside a plain segment file.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use millrace_bench::{Backlog, Life, Outage, Part, Table};

/// Measures the buffer: CPU time and bytes of ingest and drain, memory and reopening with a backlog.
#[derive(Parser)]
struct Cli {
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Where to work: a directory on the disk that is to be measured. Its content is left alone.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Sizes of the backlogs, GB.
    #[arg(long, value_delimiter = ',', default_value = "2,10")]
    backlog: Vec<f64>,
    /// No ingest and drain of signals.
    #[arg(long)]
    no_life: bool,
    /// No outage, whose small chunks are merged.
    #[arg(long)]
    no_outage: bool,
    /// Only lives and outages with commits of this many samples.
    #[arg(long)]
    samples: Option<usize>,
    /// Leaves out most of the work: to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Seed of the signals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What this process does for another one.
    #[arg(long, hide = true)]
    part: Option<Part>,
    #[arg(long, hide = true, default_value_t = 0)]
    epoch_bytes: u64,
    #[arg(long, hide = true, default_value_t = 0)]
    bytes: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(part) = cli.part {
        // The buffer stays open: it is killed with everything that it holds, or ends with its parent.
        let (_rig, said) = part.run(&cli.dir, cli.epoch_bytes, cli.bytes)?;
        println!("{}", serde_json::to_string(&said)?);
        std::io::stdout().flush()?;
        std::io::stdin().read_line(&mut String::new())?;
        return Ok(());
    }
    let dir = tempfile::tempdir_in(&cli.dir).context("no directory to work in")?;
    let table = Table::begin(cli.json);
    let divisor = if cli.quick { 20 } else { 1 };
    for life in lives() {
        if cli.no_life || cli.samples.is_some_and(|samples| samples != life.samples) {
            continue;
        }
        let commits = life.commits / divisor;
        table.print(Life { commits, ..life }.run(dir.path(), cli.seed)?)?;
    }
    for outage in outages() {
        if cli.no_outage || cli.samples.is_some_and(|samples| samples != outage.samples) {
            continue;
        }
        let commits = outage.commits / divisor;
        table.print(Outage { commits, ..outage }.run(dir.path(), cli.seed)?)?;
    }
    for gb in cli.backlog.into_iter().filter(|gb| *gb > 0.0) {
        for (epoch_bytes, growth_mb) in [(4 << 20, 24.0), (16 << 20, 48.0)] {
            let backlog = Backlog {
                bytes: (gb * 1e9) as u64 / divisor as u64,
                epoch_bytes,
                growth_mb,
            };
            table.print(backlog.run(dir.path())?)?;
        }
    }
    Ok(())
}

/// The sizes of commits: 50,000 samples a second each second or every 100 ms, and 500 a second.
fn lives() -> [Life; 3] {
    [
        Life {
            samples: 50_000,
            commits: 400,
            ingest: 28.0,
            amplification: Some(1.1),
        },
        Life {
            samples: 5_000,
            commits: 800,
            ingest: 15.0,
            amplification: None,
        },
        Life {
            samples: 500,
            commits: 2000,
            ingest: 4.0,
            amplification: Some(3.5),
        },
    ]
}

/// Several epochs each, of which the newest stays as it is.
fn outages() -> [Outage; 2] {
    [
        Outage {
            samples: 5_000,
            commits: 4_500,
        },
        Outage {
            samples: 500,
            commits: 24_000,
        },
    ]
}
