//! CPU time of what a server sends by itself.

use anyhow::Result;
use millrace_drivers::Driver;
use millrace_drivers::opcua::{Collect, Mode, Policy, Security};

use super::server::Server;
use super::{INTERVAL, driver, take, trust};
use crate::{Row, Target, cpu_time};

/// Items of the subscription.
const ITEMS: usize = 5_000;

/// CPU seconds of this process for a million notifications, from the socket to samples: in clear, and signed and encrypted.
///
/// # Errors
/// No session, or one that broke.
pub async fn notifications(count: usize) -> Result<Vec<Row>> {
    let encrypted = Security::Policy {
        policy: Policy::Basic256Sha256,
        mode: Mode::SignAndEncrypt,
    };
    let plain = cost(Security::None, count).await?;
    let encrypted = cost(encrypted, count).await?;
    Ok(vec![
        Row::new("CPU-s a million notifications to samples", plain).target(Target::AtMost(1.0)),
        Row::new("the same, signed and encrypted", encrypted).target(Target::AtMost(1.2)),
    ])
}

async fn cost(security: Security, count: usize) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let own = directory.path().join("client");
    let server = Server::start(ITEMS, INTERVAL, Some(&directory.path().join("server")))?;
    trust(&server.url, &own).await?;
    let driver = driver(&server.url, &own, security, ITEMS, Collect::Subscribe);
    let mut session = driver.open().await?;
    // What comes before values change is not what this is about.
    take(&mut session, 2 * ITEMS).await?;
    let before = cpu_time();
    let taken = take(&mut session, count).await?;
    let spent = cpu_time() - before;
    session.close().await;
    Ok(spent.as_secs_f64() * 1e6 / taken as f64)
}
