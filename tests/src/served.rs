//! What the simulated Modbus device served, as it wrote it down itself.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Factor between the tick and the tag index in a value.
pub const TICK_FACTOR: u64 = 1000;

/// All values that were handed out, with how often and when last.
#[derive(Debug, Default)]
pub struct Served {
    /// Value -> times served, and the time of the last (Unix seconds).
    pub values: BTreeMap<u64, Serving>,
}

/// How often a value was served.
#[derive(Debug, Clone, Copy)]
pub struct Serving {
    /// Number of times.
    pub times: u64,
    /// When last, Unix seconds.
    pub at: f64,
}

impl Served {
    /// Reads the log of `modbus_ticks.py`.
    ///
    /// # Errors
    /// When a line is not what that script writes.
    pub fn read(log: &Path) -> Result<Served> {
        let mut served = Served::default();
        let text =
            std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        for line in text.lines() {
            let entry: Value =
                serde_json::from_str(line).with_context(|| format!("served: {line}"))?;
            let number = |key: &str| {
                entry[key]
                    .as_u64()
                    .with_context(|| format!("{key} in {line}"))
            };
            let at = entry["at"]
                .as_f64()
                .with_context(|| format!("at in {line}"))?;
            let (first, count, tick) = (number("first")?, number("count")?, number("tick")?);
            for index in first..first + count {
                let serving = served
                    .values
                    .entry(tick * TICK_FACTOR + index)
                    .or_insert(Serving { times: 0, at });
                serving.times += 1;
                serving.at = at;
            }
        }
        Ok(served)
    }

    /// How many values were handed out.
    pub fn total(&self) -> u64 {
        self.values.values().map(|serving| serving.times).sum()
    }
}
