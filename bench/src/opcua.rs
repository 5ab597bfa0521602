//! The OPC UA driver measured: each part brings rows of the table.
//!
//! The server is our simulated one in a process of its own ([`serve`]), so that what is measured is the driver. Memory is
//! measured in a fresh process, too ([`hold`]).

mod items;
mod notifications;
mod reads;
mod restart;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use millrace_drivers::Session;
use millrace_drivers::opcua::{
    Collect, Item, NodeAddress, OpcuaDriver, Security, Settings, inspect, pin,
};
use millrace_drivers::sim::opcua::NAMESPACE_URI;
use millrace_tags::{SystemClock, TagId};

pub use items::{hold, items};
pub use notifications::notifications;
pub use reads::reads;
pub use restart::restart;
pub use server::{ServerArgs, serve};

/// How often values change.
const INTERVAL: Duration = Duration::from_millis(100);

/// The name of a node, as long as such names are.
fn name(place: usize) -> String {
    format!("Line{}.Unit{place:05}.Value", place / 1000)
}

/// A driver of the first nodes of a server, with every default but the security.
fn driver(url: &str, pki: &Path, security: Security, count: usize, by: Collect) -> OpcuaDriver {
    let items = (0..count).map(|place| {
        Item::new(
            TagId(place as u32),
            NodeAddress::named(NAMESPACE_URI, &name(place)),
            INTERVAL,
        )
    });
    let settings = Settings {
        security,
        collect: by,
        timeout: Duration::from_secs(60),
        ..Settings::new("bench", url, pki)
    };
    OpcuaDriver::new(settings, items.collect(), Arc::new(SystemClock::new()))
}

/// Trusts the server, whoever it is.
async fn trust(url: &str, pki: &Path) -> Result<()> {
    for endpoint in inspect(url, Duration::from_secs(60)).await? {
        if let Some(certificate) = endpoint.certificate {
            pin(pki, &certificate)?;
        }
    }
    Ok(())
}

/// Takes and settles readings until this many samples have come; how many did.
async fn take(session: &mut Box<dyn Session>, count: usize) -> Result<usize> {
    let mut taken = 0;
    while taken < count {
        let reading = session.notified().await?;
        if let Some(receipt) = reading.receipt {
            session.settle(receipt);
        }
        taken += reading.samples.len();
    }
    Ok(taken)
}
