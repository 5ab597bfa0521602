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
pub async fn line_use(baud: u32, span: Duration) -> Result<Row> {
    let wire = Wire::open(baud)?;
    let clock = Arc::new(SystemClock::new());
    let line = Line::serial("line", wire.settings.clone(), clock.clone());
    let points = points(BLOCKS * BLOCK, DataType::U16, Duration::from_millis(1))?;
    let driver = RtuDriver::new(RtuSettings::new("meter", 1), line.clone(), points, clock);
    let mut session = driver.open().await?;
    // The fence of a line of which nothing is known.
    session.read(0).await?;
    let (begun, busy) = (Instant::now(), wire.busy());
    while begun.elapsed() < span {
        let samples = session.read(0).await?.samples;
        let good = samples.iter().filter(|s| s.quality.is_good()).count();
        anyhow::ensure!(good == samples.len(), "{:?}", line.faults().summary());
    }
    let share = (wire.busy() - busy).as_secs_f64() / begun.elapsed().as_secs_f64();
    let what = format!("use of a line at {baud}, % of the time of frames and t3.5");
    Ok(Row::new(what, share * 100.0).target(Target::AtLeast(97.0)))
}
