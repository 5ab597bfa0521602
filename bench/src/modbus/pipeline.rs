//! What several requests in flight are worth.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use millrace_drivers::Driver;
use millrace_drivers::modbus::{DataType, TcpDriver, TcpSettings};
use millrace_tags::SystemClock;

use super::server::Manner;
use super::{BLOCK, Server, points};
use crate::{Row, Target};

/// The device takes so long, for each of several requests at the same time.
const DELAY: Duration = Duration::from_millis(10);

/// Requests of a poll group.
const BLOCKS: u16 = 64;

/// How many times faster a poll group is read with that many requests in flight than with one.
///
/// # Errors
/// The driver fails.
pub async fn pipelining(depth: usize, reads: u32) -> Result<Row> {
    let one = seconds(1, reads).await?;
    let many = seconds(depth, reads).await?;
    let what = format!("pipelining, depth {depth}, a 10 ms server, times depth 1");
    Ok(Row::new(what, one / many).target(Target::AtLeast(7.5)))
}

async fn seconds(depth: usize, reads: u32) -> Result<f64> {
    let server = Server::start(Manner::Concurrent(DELAY))?;
    let settings = TcpSettings {
        max_in_flight: depth,
        ..TcpSettings::new("plc", server.address.to_string())
    };
    let points = points(BLOCKS * BLOCK, DataType::U16, Duration::from_secs(1))?;
    let driver = TcpDriver::new(settings, points, Arc::new(SystemClock::new()));
    let mut session = driver.open().await?;
    session.read(0).await?;
    let begun = Instant::now();
    for _ in 0..reads {
        session.read(0).await?;
    }
    Ok(begun.elapsed().as_secs_f64())
}
