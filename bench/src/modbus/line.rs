//! How much of a serial line polling uses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use millrace_drivers::Driver;
use millrace_drivers::modbus::{DataType, Line, RtuDriver, RtuSettings};
use millrace_tags::SystemClock;

use super::{BLOCK, Wire, points};
use crate::{Row, Target};

/// A poll group of so many full blocks.
const BLOCKS: u16 = 4;

/// The share of the time that frames and the silences around them took, where one unit is read without a pause.
///
/// # Errors
/// There is no pseudo-terminal, or the driver fails.
pub async fn line_use(baud: u32, span: Duration) -> Result<Vec<Row>> {
    let wire = Wire::open(baud)?;
    let clock = Arc::new(SystemClock::new());
    let line = Line::serial("line", wire.settings.clone(), clock.clone());
    let points = points(BLOCKS * BLOCK, DataType::U16, Duration::from_millis(1))?;
    let driver = RtuDriver::new(RtuSettings::new("meter", 1), line.clone(), points, clock);
    let mut session = driver.open().await?;
    // The fence of a line of which nothing is known.
    session.read(0).await?;
    let (begun, busy, late) = (Instant::now(), wire.busy(), wire.late());
    let mut bad = 0;
    while begun.elapsed() < span {
        let samples = session.read(0).await?.samples;
        bad += samples.iter().filter(|s| !s.quality.is_good()).count();
    }
    let took = begun.elapsed();
    let share = |of: Duration| of.as_secs_f64() / took.as_secs_f64() * 100.0;
    let what = format!("use of a line at {baud}, % of the time of frames and t3.5");
    Ok(vec![
        Row::new(what, share(wire.busy() - busy)).target(Target::AtLeast(97.0)),
        Row::new("lost by the far end itself, %", share(wire.late() - late)),
        // A machine that lets the far end pause within a frame breaks the frame off.
        Row::new("samples that were bad", bad as f64).target(Target::AtMost(0.0)),
    ])
}
