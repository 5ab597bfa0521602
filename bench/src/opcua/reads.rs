//! CPU time of polling.

use std::time::Duration;

use anyhow::Result;
use millrace_drivers::Driver;
use millrace_drivers::opcua::{Collect, Security};

use super::driver;
use super::server::Server;
use crate::{Row, Target, cpu_time};

/// Nodes of the poll group.
const NODES: usize = 20_000;

/// The server is to answer, not to count.
const CHANGES: Duration = Duration::from_secs(10);

/// Values that a CPU second of this process reads from 20,000 nodes, in millions.
///
/// # Errors
/// No session, or one that broke.
pub async fn reads(rounds: usize) -> Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(NODES, CHANGES, None)?;
    let pki = directory.path();
    let driver = driver(&server.url, pki, Security::None, NODES, Collect::Poll);
    let mut session = driver.open().await?;
    session.read(0).await?;
    let before = cpu_time();
    let mut values = 0;
    for _ in 0..rounds {
        let reading = session.read(0).await?;
        let good = reading.samples.iter().filter(|s| s.quality.is_good());
        values += good.count();
    }
    let spent = cpu_time() - before;
    session.close().await;
    anyhow::ensure!(values == rounds * NODES, "{values} values are good");
    let rate = values as f64 / spent.as_secs_f64() / 1e6;
    let what = "20,000 nodes in batches, M values a CPU-s";
    Ok(vec![Row::new(what, rate).target(Target::AtLeast(1.5))])
}
