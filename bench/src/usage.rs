//! What a process has used so far, from /proc.

use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks in a second: fixed at 100 for user space on every Linux that this runs on (man 5 proc).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Largest resident set so far, bytes.
    pub rss_peak: u64,
    /// Resident set now, bytes.
    pub rss: u64,
    /// Bytes that it had written to storage.
    pub written: u64,
}

impl Usage {
    /// Looks at a process of ours.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| path)
        };
        let stat = read("stat")?;
        // The name may hold spaces; fields are counted from behind its parenthesis.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |field: usize| {
            fields
                .get(field)
                .and_then(|text| text.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        let (status, io) = (read("status")?, read("io")?);
        Ok(Usage {
            cpu: Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_SECOND),
            rss_peak: number(&status, "VmHWM:") * 1024,
            rss: number(&status, "VmRSS:") * 1024,
            written: number(&io, "write_bytes:"),
        })
    }
}

fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Has the largest resident set of this process begin anew.
///
/// # Errors
/// The kernel does not offer it.
pub(crate) fn forget_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("cannot reset the peak of memory")
}

/// CPU time of this process so far, all threads.
pub fn cpu_time() -> Duration {
    // The clock is there on every Linux; zero only makes a figure infinite.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}
