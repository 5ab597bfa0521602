//! Our simulated server, and a driver for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::opcua::{Item, NodeAddress, OpcuaDriver, Security, Settings};
use millrace_drivers::sim::opcua::{
    NAMESPACE_URI, SimNode, SimOpcua, SimOpcuaSettings, nodes_from_csv,
};
use millrace_tags::{SystemClock, TagId};

use crate::session::PATIENCE;

const NODES: &str = "name,type,signal
Count,u32,counter
Tick,i64,tick 20ms
Level,f64,sine 50 10 3s
Fixed,f32,constant 4.5
Name,string,text PUMP-01
";

pub(crate) fn nodes() -> Vec<SimNode> {
    nodes_from_csv(NODES.as_bytes()).expect("nodes")
}

pub(crate) fn sim_settings() -> SimOpcuaSettings {
    SimOpcuaSettings {
        interval: Duration::from_millis(20),
        ..SimOpcuaSettings::new("127.0.0.1:0".parse().expect("address"), nodes())
    }
}

pub(crate) async fn sim() -> SimOpcua {
    SimOpcua::start(sim_settings())
        .await
        .expect("simulated server")
}

pub(crate) fn settings(sim: &SimOpcua, pki: &Path) -> Settings {
    Settings {
        security: Security::None,
        publish_interval: Duration::from_millis(50),
        sampling_interval: Some(Duration::ZERO),
        timeout: PATIENCE,
        ..Settings::new("press", &sim.url(), pki)
    }
}

pub(crate) fn items(names: &[&str]) -> Vec<Item> {
    let tags = (0..).map(TagId);
    names
        .iter()
        .zip(tags)
        .map(|(name, tag)| {
            let node = NodeAddress::named(NAMESPACE_URI, name);
            Item::new(tag, node, Duration::from_millis(100))
        })
        .collect()
}

pub(crate) fn driver(settings: Settings, names: &[&str]) -> OpcuaDriver {
    OpcuaDriver::new(settings, items(names), Arc::new(SystemClock::new()))
}
