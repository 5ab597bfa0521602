//! How soon the agent is back after its server was away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_drivers::sim::opcua::{NAMESPACE_URI, SimOpcua, SimOpcuaSettings};
use millrace_tests::agent::Gateway;

use super::{INTERVAL, name, server};
use crate::{Row, Target};

const ITEMS: usize = 1_000;

/// How long the server is away: shorter and longer than the first pauses of the agent.
const AWAY: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(45),
];

/// Nothing takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// From the open port to the first values of all items, and how many sessions there were at most.
///
/// # Errors
/// The agent cannot be started, or does not come back.
pub async fn restart() -> Result<Vec<Row>> {
    let address = "127.0.0.1:0".parse()?;
    let settings = SimOpcuaSettings {
        interval: INTERVAL,
        ..SimOpcuaSettings::new(address, server::nodes(ITEMS))
    };
    let mut sim = SimOpcua::start(settings).await?;
    // Only first values of items count: nothing else is handed out.
    sim.freeze(true);
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    configure(&gateway, &sim.url())?;
    gateway.start()?;
    served(&sim, 0).await?;
    let mut rows = Vec::new();
    for away in AWAY {
        sim.stop().await;
        tokio::time::sleep(away).await;
        let before = sim.served().total;
        let open = Instant::now();
        sim.resume().await?;
        served(&sim, before).await?;
        let what = format!("back after a server was {} s away, s", away.as_secs());
        let row = Row::new(what, open.elapsed().as_secs_f64());
        rows.push(row.target(Target::AtMost(2.0)));
        // The pause after a failure begins anew once values have come.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let sessions = f64::from(sim.sessions_peak());
    gateway.terminate()?;
    rows.push(Row::new("sessions at the server at most", sessions).target(Target::AtMost(1.0)));
    Ok(rows)
}

/// Until the server has handed out a value of each item since.
async fn served(sim: &SimOpcua, before: u64) -> Result<()> {
    let served = async {
        while sim.served().total < before + ITEMS as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, served).await;
    waited.context("the agent does not come back")
}

fn configure(gateway: &Gateway, url: &str) -> Result<()> {
    let mut tags = "name,address\n".to_owned();
    for place in 0..ITEMS {
        tags += &format!("t{place},nsu={NAMESPACE_URI};s={}\n", name(place));
    }
    gateway.write("tags.csv", &tags)?;
    gateway.configure(&format!(
        "[[device]]\nname = \"plc\"\ndriver = \"opcua\"\naddress = \"{url}\"\nsecurity = \"None\"\n\
         tags_file = \"tags.csv\"\n"
    ))
}
