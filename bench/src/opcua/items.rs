//! Memory of monitored items, in a fresh process.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_drivers::Driver;
use millrace_drivers::opcua::{Collect, Security};

use super::server::Server;
use super::{driver, take};
use crate::usage::Usage;
use crate::{Row, Target};

/// Items of a session that is there for all that a first session needs.
const WARM_UP_ITEMS: usize = 10;

/// How often all of them change: as many notifications as a subscription of that size commonly has.
const CHANGES: Duration = Duration::from_secs(1);

/// From the first values to the look at the memory.
const SETTLED: Duration = Duration::from_secs(5);

/// By how much 5,000 and 50,000 items let the resident set grow, MB.
///
/// # Errors
/// No session, or one that broke.
pub fn items() -> Result<Vec<Row>> {
    [(5_000, 5.0), (50_000, 50.0)]
        .into_iter()
        .map(|(count, most)| {
            let server = Server::start(count, CHANGES, None)?;
            let mut command = Command::new(std::env::current_exe()?);
            let held = command
                .args(["--hold", &count.to_string(), "--url", &server.url])
                // As the service unit has it.
                .env("MALLOC_TRIM_THRESHOLD_", "131072")
                .stderr(Stdio::inherit())
                .output()?;
            let said = String::from_utf8_lossy(&held.stdout);
            let grown: f64 = said.trim().parse().context("the process said nothing")?;
            let what = format!("RSS growth with {count} monitored items, MB");
            Ok(Row::new(what, grown).target(Target::AtMost(most)))
        })
        .collect()
}

/// Monitors so many items, and says by how much the resident set has grown, MB.
///
/// # Errors
/// No session, or one that broke.
pub async fn hold(url: &str, count: usize) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let open = async |count| {
        let by = Collect::Subscribe;
        let driver = driver(url, directory.path(), Security::None, count, by);
        let mut session = driver.open().await?;
        take(&mut session, 2 * count).await?;
        anyhow::Ok((driver, session))
    };
    let (_, mut session) = open(WARM_UP_ITEMS).await?;
    session.close().await;
    let rss = || anyhow::Ok(Usage::of(std::process::id())?.rss as f64 / 1e6);
    let before = rss()?;
    let (_driver, mut session) = open(count).await?;
    let settled = tokio::time::Instant::now() + SETTLED;
    while tokio::time::Instant::now() < settled {
        take(&mut session, 1).await?;
    }
    let grown = rss()? - before;
    session.close().await;
    Ok(grown)
}
