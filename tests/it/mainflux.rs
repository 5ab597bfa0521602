//! Mainflux, whose acknowledgement proves nothing: an adapter with its rules before a real mosquitto. What it does not take is
//! named and kept, what it takes is stored once and whole.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::ledger;
use crate::plant;

const STORED: &str = "stored.jsonl";

struct Scene {
    gateway: Gateway,
    adapter: Peer,
    port: u16,
    broker: Broker,
    _sim: SimModbus,
    devices: String,
    directory: tempfile::TempDir,
}

impl Scene {
    /// A gateway with the devices `pump`, `tank` and `fan`, and an adapter with these rules.
    fn start(rules: &[&str]) -> Result<Scene> {
        let directory = tempfile::tempdir()?;
        let broker = Broker::start(directory.path())?;
        let port = free_port()?;
        let gateway = Gateway::new(directory.path());
        gateway.write("key", "the-key")?;
        gateway.write(
            "map.csv",
            "name,address,type,signal\na,holding:0,u32,counter\n",
        )?;
        let sim = SimModbus::start(&["--map", "map.csv"], directory.path())?;
        let pump = plant::small_pump_config(sim.port, &[0]);
        let named = |name: &str| pump.replace("\"pump\"", &format!("\"{name}\""));
        let mut scene = Scene {
            adapter: adapter(directory.path(), port, broker.port, rules)?,
            devices: format!("{pump}{}{}", named("tank"), named("fan")),
            gateway,
            port,
            broker,
            _sim: sim,
            directory,
        };
        scene.configure("", "200ms")?;
        scene.gateway.start()?;
        Ok(scene)
    }

    fn configure(&self, more: &str, poll_interval: &str) -> Result<()> {
        let devices = self.devices.replace("200ms", poll_interval);
        self.gateway.configure(&format!(
            "[[uplink]]\nname = \"cloud\"\nprofile = \"mainflux\"\nurl = \"mqtt://127.0.0.1:{}\"\nusername = \"thing\"\n\
             password_file = \"key\"\nvars = {{ channel = \"plant\" }}\n{more}\n{devices}",
            self.port
        ))
    }

    /// The adapter dies, and another one is there with other rules.
    fn other_rules(&mut self, rules: &[&str]) -> Result<()> {
        self.adapter.kill();
        let (port, broker) = (self.port, self.broker.port);
        self.adapter = adapter(self.directory.path(), port, broker, rules)?;
        Ok(())
    }

    /// The times of the samples that Mainflux has stored, by device. Nothing that it got may be invalid.
    fn stored(&self) -> Result<BTreeMap<String, BTreeSet<u64>>> {
        let text = std::fs::read_to_string(self.directory.path().join(STORED))?;
        let mut stored: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        // The last line may be half written.
        for row in text
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        {
            ensure!(row.get("invalid").is_none(), "{row}");
            let (Some(device), Some(t)) = (row["subtopic"].as_str(), row["t"].as_f64()) else {
                continue;
            };
            stored
                .entry(device.to_owned())
                .or_default()
                .insert(t.to_bits());
        }
        Ok(stored)
    }

    fn count(&self, device: &str) -> u64 {
        let stored = self.stored().unwrap_or_default();
        stored.get(device).map_or(0, |times| times.len() as u64)
    }

    fn uplink(&self) -> Option<Value> {
        Some(self.gateway.json(&["status"]).ok()?["uplinks"][0].clone())
    }

    /// Polling ends, everything goes, and what is stored is what was acquired.
    fn ends_whole(&mut self, more: &str) -> Result<()> {
        // Each device is read once more.
        self.configure(more, "1h")?;
        self.gateway.signal("HUP")?;
        wait_for("all of it stored", STEP * 2, || {
            let rows = ledger::verified(&self.gateway).ok()?;
            let whole = |(device, row): (&String, &ledger::Row)| {
                row.queued == 0 && row.lost() == 0 && self.count(device) == row.acquired
            };
            (rows.len() == 3 && rows.iter().all(whole)).then_some(())
        })
        .with_context(|| {
            let stored = ["pump", "tank", "fan"].map(|device| self.count(device));
            let aside = self.gateway.json(&["buffer", "poison", "list"]);
            format!(
                "{:?}: {stored:?}, {aside:?}",
                ledger::verified(&self.gateway)
            )
        })?;
        self.stored()?;
        self.gateway.terminate()?;
        Ok(())
    }
}

fn adapter(directory: &std::path::Path, port: u16, broker: u16, rules: &[&str]) -> Result<Peer> {
    let (port, broker) = (port.to_string(), broker.to_string());
    let mut args = vec!["--port", &port, "--broker", &broker, "--log", STORED];
    args.extend(["--thing", "thing", "--key", "the-key", "--channel", "plant"]);
    args.extend(rules);
    Peer::start("mainflux_adapter.py", &args, directory)
}

#[test]
fn what_is_acknowledged_and_discarded_or_hung_up_on_is_named_and_kept() -> Result<()> {
    let mut scene = Scene::start(&["--discard", "tank", "--refuse", "fan"])?;
    let named = |scene: &Scene| {
        let uplink = scene.uplink()?;
        let topic = uplink["unproven_topics"].to_string();
        let sources = &uplink["refused_sources"];
        let both = *sources == serde_json::json!(["fan", "tank"]);
        (both && topic.contains("channels/plant/messages/tank: the core acknowledges"))
            .then_some(())
    };
    wait_for("both sources in status", STEP, || named(&scene))
        .with_context(|| format!("{:?} {}", scene.uplink(), scene.gateway.log()))?;
    let before = scene.count("pump");
    wait_for("the pump goes on", STEP, || {
        (scene.count("pump") > before + 20).then_some(())
    })?;
    let rows = ledger::verified(&scene.gateway)?;
    for device in ["tank", "fan"] {
        let row = &rows[device];
        ensure!(row.acked == 0 && row.queued > 0, "{device}: {row:?}");
        ensure!(scene.count(device) == 0, "{device} is stored");
    }
    let said = String::from_utf8(scene.gateway.cli(&["status"])?.stdout)?;
    ensure!(said.contains("fan") && said.contains("tank"), "{said}");

    // The adapter dies amid the pump's data, and the thing gets its rights. A new start tries at once.
    scene.other_rules(&[])?;
    scene.gateway.terminate()?;
    scene.gateway.start()?;
    wait_for("nothing refused", STEP * 2, || {
        let uplink = scene.uplink()?;
        let none = |key: &str| uplink[key].as_array().is_some_and(Vec::is_empty);
        (none("refused_sources") && none("unproven_topics")).then_some(())
    })
    .with_context(|| format!("{:?}", scene.uplink()))?;
    // Single records that were refused before the whole source was are a person's to send again.
    let retried = scene.gateway.cli(&["buffer", "poison", "retry", "--all"])?;
    ensure!(retried.status.success(), "{retried:?}");
    scene.ends_whole("")
}

#[test]
fn nothing_is_lost_over_deaths_of_the_adapter_and_of_the_broker() -> Result<()> {
    let mut scene = Scene::start(&[])?;
    for round in 0..3 {
        let before = scene.count("pump");
        wait_for("new data", STEP * 2, || {
            (scene.count("pump") > before + 10).then_some(())
        })?;
        match round {
            0 => scene.other_rules(&[])?,
            1 => {
                scene.broker.kill()?;
                scene.broker.restart()?;
            }
            _ => {
                scene.broker.stop()?;
                scene.broker.restart()?;
            }
        }
    }
    scene.ends_whole("")
}

#[test]
fn where_the_thing_may_not_listen_nothing_is_settled_and_the_way_out_is_named() -> Result<()> {
    let mut scene = Scene::start(&["--deaf"])?;
    wait_for("the way out in status", STEP * 2, || {
        let uplink = scene.uplink()?;
        let topics = uplink["unproven_topics"].as_array()?.clone();
        let way_out = |topic: &Value| topic.to_string().contains("verify = \\\"puback\\\"");
        (topics.len() == 3 && topics.iter().all(way_out)).then_some(())
    })
    .with_context(|| format!("{:?}", scene.uplink()))?;
    let rows = ledger::verified(&scene.gateway)?;
    ensure!(rows.values().all(|row| row.acked == 0), "{rows:?}");
    let stored = ["pump", "tank", "fan"].map(|device| scene.count(device));
    ensure!(stored == [0; 3], "stored: {stored:?}");
    scene.gateway.terminate()?;
    let trusting = "verify = \"puback\"";
    scene.configure(trusting, "200ms")?;
    scene.gateway.start()?;
    scene.ends_whole(trusting)
}
