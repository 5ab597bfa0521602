//! What a backlog costs live data: the same agent with and without one, turn by turn, through mosquitto.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_buffer::{Buffer, Settings, Start, TagSpec};
use millrace_drivers::sim::modbus::{Faults, RegisterMap, SimModbus};
use millrace_tags::{Clock, Sample, SourceKind, SystemClock, Value, ValueType};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use serde::Serialize;

use crate::load::Load;
use crate::measure::{configure, subscribe};

/// Turns of each kind; the figure is their median.
const TURNS: usize = 5;

/// The source of the backlog; nothing reads it, so that nothing else of it comes.
const OLD: &str = "old";

/// A commit of it.
const COMMIT_SAMPLES: u64 = 30_000;

/// Ten devices, read often: a thousand messages of live data in ten seconds.
const LIVE: Load = Load {
    name: "beside",
    devices: 10,
    tags: 20,
    stride: 2,
    interval: Duration::from_millis(100),
};

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Beside {
    /// Device reply to subscriber without a backlog, milliseconds, 99 of 100, each turn.
    pub alone_ms_p99: Vec<f64>,
    /// With one.
    pub backlog_ms_p99: Vec<f64>,
    /// Median with over median without.
    pub ratio: f64,
    /// Median with over median without, of the 50 of 100.
    pub ratio_p50: f64,
    /// Samples of the backlog a second that were acknowledged meanwhile, each turn.
    pub drained_per_second: Vec<f64>,
}

/// Takes turns, `span` each, with a backlog of so many samples.
///
/// # Errors
/// When a part cannot be started, or a backlog did not last for its turn: then it has to be larger.
pub async fn beside(span: Duration, samples: u64) -> Result<Beside> {
    let mut turns = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        turns[0].push(turn(span, 0).await?);
        turns[1].push(turn(span, samples).await?);
    }
    let p99 = |turns: &[Turn]| turns.iter().map(|turn| turn.p99).collect::<Vec<f64>>();
    let p50 = |turns: &[Turn]| turns.iter().map(|turn| turn.p50).collect::<Vec<f64>>();
    Ok(Beside {
        ratio: median(p99(&turns[1])) / median(p99(&turns[0])),
        ratio_p50: median(p50(&turns[1])) / median(p50(&turns[0])),
        alone_ms_p99: p99(&turns[0]),
        backlog_ms_p99: p99(&turns[1]),
        drained_per_second: turns[1].iter().map(|turn| turn.drained).collect(),
    })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Turn {
    p50: f64,
    p99: f64,
    drained: f64,
}

async fn turn(span: Duration, samples: u64) -> Result<Turn> {
    let directory = tempfile::tempdir()?;
    if samples > 0 {
        fill(&directory.path().join("data/buffer"), samples)?;
    }
    let broker = Broker::start(directory.path())?;
    let mut devices = Vec::new();
    for _ in 0..LIVE.devices {
        let map = RegisterMap::ticks(LIVE.tags, LIVE.stride, LIVE.interval)?;
        devices.push(SimModbus::bind("127.0.0.1:0", map, Faults::default())?);
    }
    let mut gateway = Gateway::new(directory.path());
    configure(&gateway, &LIVE, &devices, broker.port)?;
    // Live data only: what the backlog costs a subscriber is not the agent's.
    let filters = (0..LIVE.devices).map(|nth| format!("millrace/+/data/d{nth}"));
    let counted = subscribe(broker.port, filters.collect());
    gateway.start()?;
    // Connections and first chunks; the backlog drains already.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = queued(&gateway)?;
    counted.reset();
    tokio::time::sleep(span).await;
    let counted = counted.taken();
    let after = queued(&gateway)?;
    gateway.terminate()?;
    ensure!(
        samples == 0 || (after > 0 && after < before),
        "the backlog was {before} and is {after}: it has to last for the turn"
    );
    Ok(Turn {
        p50: counted.percentile(0.5),
        p99: counted.percentile(0.99),
        drained: (before - after) as f64 / span.as_secs_f64(),
    })
}

/// What is left of the backlog.
fn queued(gateway: &Gateway) -> Result<u64> {
    let ledger = gateway.json(&["ledger"])?;
    let row = &ledger["devices"][OLD];
    match row.is_null() {
        true => Ok(0),
        false => row["queued"].as_u64().context("queued"),
    }
}

/// A store as an outage leaves it.
fn fill(dir: &Path, samples: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let clock = Arc::new(SystemClock::new());
    let buffer = Buffer::open(Settings::new(dir), clock.clone())?;
    drop(buffer.outbox("cloud", Start::Oldest));
    let tag = TagSpec {
        name: "level".into(),
        value_type: ValueType::F64,
        unit: None,
    };
    let old = buffer.register(OLD, SourceKind::Device, &[tag]);
    let tag = *old.tags.first().context("a tag")?;
    for from in (0..samples).step_by(COMMIT_SAMPLES as usize) {
        let value = |n: u64| Value::F64((n % 1000) as f64 * 0.37);
        let batch = from..samples.min(from + COMMIT_SAMPLES);
        buffer.append(
            old.source,
            batch
                .map(|n| Sample::good(tag, value(n), clock.now()))
                .collect(),
        );
        buffer.commit()?;
    }
    buffer.close()?;
    Ok(())
}
