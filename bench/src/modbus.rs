//! The Modbus driver measured: each part brings rows of the table.
//!
//! A line is a real pseudo-terminal whose far end paces its bytes ([`Wire`]); devices over TCP are plain threads that
//! answer ([`Server`]), so that what is measured is the driver.

mod jitter;
mod line;
mod models;
mod pipeline;
mod plans;
mod registers;
mod server;
mod wire;
mod writes;

use std::time::Duration;

use anyhow::{Context, Result};
use millrace_drivers::modbus::{Address, DataType, Point, PointSpec, Table, WordOrder};
use millrace_tags::TagId;

pub use jitter::jitter;
pub use line::line_use;
pub use models::{hundred_models, jitter_beside_models};
pub use pipeline::pipelining;
pub use plans::plan_cost;
pub use registers::{bare_cpu, cpu};
pub use writes::writes;

use server::Server;
use wire::Wire;

/// Most registers in one request.
const BLOCK: u16 = 125;

/// Tags of one type without gaps, from holding:0 on.
fn points(count: u16, data_type: DataType, interval: Duration) -> Result<Vec<Point>> {
    let point = |i: u16| {
        let mut address = Address {
            table: Table::Holding,
            offset: 0,
            bit: None,
        };
        let width = PointSpec::new(address, data_type, WordOrder::Abcd)?.registers();
        address.offset = i.checked_mul(width).context("that many do not fit")?;
        Ok(Point {
            tag: TagId(u32::from(i)),
            spec: PointSpec::new(address, data_type, WordOrder::Abcd)?,
            meaning: Default::default(),
            interval,
        })
    };
    (0..count).map(point).collect()
}

/// The value that this share of the others does not exceed.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    let index = index.min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}
