//! `millrace-inference-load`: what scoring costs, beside onnxruntime.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use millrace_bench::Table;
use millrace_bench::inference::{Ort, Subject, compare, fleet};

/// Measures the CPU time of one window for models of the zoo and for bundles, in turns with onnxruntime on one thread on the same
/// windows, then a hundred models at once.
#[derive(Parser)]
struct Cli {
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// A Python that has onnxruntime; without it only our own figures come.
    #[arg(long)]
    python: Option<PathBuf>,
    /// A further bundle with golden vectors. May be given several times.
    #[arg(long)]
    bundle: Vec<PathBuf>,
    /// Turns of each engine; the median counts.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Windows of a turn.
    #[arg(long, default_value_t = 1_000)]
    windows: usize,
    /// Models at once; 0 leaves them out.
    #[arg(long, default_value_t = 100)]
    models: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let zoo = checkout.join("../inference/tests/zoo");
    let scratch = tempfile::tempdir()?;
    let scratch = scratch.path();
    let mut rows = match cli.models {
        0 => Vec::new(),
        models => fleet(&zoo, scratch, models)?,
    };
    let mut subjects = Subject::zoo(&zoo, scratch)?;
    for bundle in &cli.bundle {
        subjects.push(Subject::bundle(bundle)?);
    }
    let script = checkout.join("inference/ort.py");
    let ort = cli.python.map(|python| Ort::start(&python, &script));
    rows.extend(compare(
        &subjects,
        ort.transpose()?,
        scratch,
        cli.turns,
        cli.windows.max(1),
    )?);
    Table::begin(cli.json).print(rows)
}
