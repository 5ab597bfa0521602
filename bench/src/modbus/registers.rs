//! What registers over TCP cost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_drivers::Driver;
use millrace_drivers::modbus::{DataType, TcpDriver, TcpSettings};
use millrace_tags::SystemClock;
use nix::time::{ClockId, clock_gettime};

use super::server::Manner;
use super::{BLOCK, Server, points};
use crate::{Row, Target};

/// Blocks of a poll group.
const BLOCKS: u16 = 80;

/// CPU time of reading registers in full blocks, with so many requests in flight, and making samples of them.
///
/// # Errors
/// The driver fails.
pub fn cpu(data_type: DataType, width: u16, depth: usize, registers: u64) -> Result<Row> {
    let server = Server::start(Manner::Prompt)?;
    // A thread of its own: its clock counts neither the server nor anything else.
    let reading = std::thread::spawn(move || -> Result<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let settings = TcpSettings {
                max_in_flight: depth,
                ..TcpSettings::new("plc", server.address.to_string())
            };
            let per_block = BLOCK / width;
            let points = points(BLOCKS * per_block, data_type, Duration::from_secs(1))?;
            let a_read = points.len() as u64 * u64::from(width);
            let driver = TcpDriver::new(settings, points, Arc::new(SystemClock::new()));
            let mut session = driver.open().await?;
            session.read(0).await?;
            let before = thread_time()?;
            let reads = registers.div_ceil(a_read);
            for _ in 0..reads {
                let samples = session.read(0).await?.samples;
                anyhow::ensure!(samples.iter().all(|s| s.quality.is_good()), "a bad sample");
            }
            let took = thread_time()? - before;
            Ok(took.as_secs_f64() / (reads * a_read) as f64 * 1e6)
        })
    });
    let cpu = reading.join().ok().context("the reader failed")??;
    let what = format!("CPU-s a million registers, TCP, depth {depth}, {data_type} tags");
    Ok(Row::new(what, cpu).target(Target::AtMost(0.06)))
}

/// The same requests on a blocking socket: two calls of the kernel each, and nothing is looked at.
///
/// # Errors
/// The socket fails.
pub fn bare_cpu(registers: u64) -> Result<Row> {
    const REQUEST: [u8; 12] = [0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, BLOCK as u8];
    let server = Server::start(Manner::Prompt)?;
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    let mut reply = [0; 9 + 2 * BLOCK as usize];
    let before = thread_time()?;
    let requests = registers / u64::from(BLOCK);
    for _ in 0..requests {
        stream.write_all(&REQUEST)?;
        stream.read_exact(&mut reply)?;
    }
    let took = (thread_time()? - before).as_secs_f64();
    let cpu = took / (requests * u64::from(BLOCK)) as f64 * 1e6;
    Ok(Row::new(
        "the same requests on a bare socket, depth 1, CPU-s",
        cpu,
    ))
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
