//! Waiting for something to become true, with a limit that is far above what a loaded machine needs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A step that takes milliseconds on an idle machine: a start, a reconnect, one message.
pub const STEP: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(100);

/// Asks again and again until the answer is `Some`.
///
/// # Errors
/// After `limit`, naming what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}
