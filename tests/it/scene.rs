//! What most tests of commands start with: a broker, a pump, an agent that is connected, and somebody who commands it.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::commander::Commander;
use millrace_tests::peer::Peer;
use millrace_tests::wait::{STEP, wait_for};

use crate::plant;

pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) core: Commander,
    /// Of the pump.
    pub(crate) port: u16,
    pub(crate) broker: Broker,
    _pump: Peer,
    _directory: tempfile::TempDir,
}

impl Scene {
    /// `configure` is told the gateway, the lines of the uplink and the port of the pump, of which so many tags are to
    /// be good.
    pub(crate) fn start(
        tags: u64,
        configure: impl FnOnce(&Gateway, &str, u16) -> Result<()>,
    ) -> Result<Scene> {
        let directory = tempfile::tempdir()?;
        let broker = Broker::start(directory.path())?;
        let core = Commander::start(broker.port)?;
        let (pump, port) = plant::start_pump(directory.path(), &[])?;
        let mut gateway = Gateway::new(directory.path());
        configure(&gateway, &plant::uplink_config(broker.port), port)?;
        gateway.start()?;
        let scene = Scene {
            gateway,
            core,
            port,
            broker,
            _pump: pump,
            _directory: directory,
        };
        scene.delivers(tags)?;
        Ok(scene)
    }

    /// Waits until so many tags are good and the uplink is connected.
    pub(crate) fn delivers(&self, tags: u64) -> Result<()> {
        wait_for(&format!("{tags} good tags"), STEP, || {
            let status = self.gateway.json(&["status"]).ok()?;
            let well = status["uplinks"][0]["state"] == "connected"
                && status["devices"][0]["tags_good"] == tags;
            well.then_some(())
        })
        .with_context(|| self.gateway.log())
    }
}
