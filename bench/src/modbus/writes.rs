//! How long a write takes on a line that is polled without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_drivers::modbus::{DataType, Line, RtuDriver, RtuSettings};
use millrace_drivers::{Driver, Session};
use millrace_tags::{SystemClock, TagId, Value};

use super::{BLOCK, Wire, percentile, points};
use crate::{Row, Target};

const BAUD: u32 = 9_600;

/// Units that are read all the time.
const POLLED: [u8; 2] = [2, 3];

/// The unit that is written.
const WRITTEN: u8 = 1;

/// From a write that was asked for to its arrival at the unit, and to the value that was read back; milliseconds, the
/// greatest but one in a hundred.
///
/// # Errors
/// There is no pseudo-terminal, or the driver fails.
pub async fn writes(count: u16, seed: u64) -> Result<Vec<Row>> {
    let wire = Wire::open(BAUD)?;
    let clock = Arc::new(SystemClock::new());
    let line = Line::serial("line", wire.settings.clone(), clock.clone());
    let driver = |unit: u8, tags: u16| -> Result<RtuDriver> {
        let points = points(tags, DataType::U16, Duration::from_millis(1))?;
        let settings = RtuSettings::new(format!("unit {unit}"), unit);
        Ok(RtuDriver::new(
            settings,
            line.clone(),
            points,
            clock.clone(),
        ))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut polling = Vec::new();
    for unit in POLLED {
        let session = driver(unit, BLOCK)?.open().await?;
        polling.push(tokio::spawn(poll(session, Arc::clone(&stop))));
    }
    let mut session = driver(WRITTEN, 1)?.open().await?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut arrived, mut done) = (Vec::new(), Vec::new());
    for value in 0..count {
        tokio::time::sleep(Duration::from_millis(rng.u64(300..900))).await;
        let asked = Instant::now();
        let value = Value::U64(u64::from(value));
        session.write(TagId(0), &value).await.context("a write")?;
        done.push(asked.elapsed().as_secs_f64() * 1e3);
        let at = wire.written.try_recv().context("the unit saw no write")?;
        arrived.push(at.duration_since(asked).as_secs_f64() * 1e3);
    }
    stop.store(true, Ordering::Relaxed);
    for polling in polling {
        polling.await??;
    }
    let frame = wire.settings.pace().exchange(8, 5 + usize::from(BLOCK) * 2);
    let most = (frame.as_secs_f64() * 1e3).round() + 50.0;
    Ok(vec![
        Row::new(
            "write on a polled line at 9600, ms to the unit, p99",
            percentile(&mut arrived, 0.99),
        )
        .target(Target::AtMost(most)),
        Row::new("the same, median", percentile(&mut arrived, 0.5)),
        Row::new(
            "the same, to the value read back, p99",
            percentile(&mut done, 0.99),
        ),
    ])
}

async fn poll(mut session: Box<dyn Session>, stop: Arc<AtomicBool>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        session.read(0).await?;
    }
    Ok(())
}
