//! An edge node of Sparkplug at mosquitto, recorded on the wire and by a host of paho, and held to the specification by
//! the checker in `src/sparkplug.rs`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;
use millrace_tests::served::Served;
use millrace_tests::sim::SimModbus;
use millrace_tests::sparkplug::{Scene, check, read};
use millrace_tests::wait::{STEP, wait_for};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use crate::plant;

const GROUP: &str = "acme";
const NODE: &str = "gw-1";
const HOST: &str = "scada";

/// A broker, a wire to it that is recorded, a host that writes down what it gets, and a gateway.
struct Stage {
    directory: tempfile::TempDir,
    broker: Broker,
    wire: Option<Peer>,
    wire_port: u16,
    host: Option<Peer>,
    gateway: Gateway,
    scene: Scene,
}

impl Stage {
    /// `primary`: the host is the primary one that the node waits for.
    fn start(primary: bool, devices: &str, more: &str) -> Result<Stage> {
        let directory = tempfile::tempdir()?;
        let broker = Broker::start(directory.path())?;
        let mut stage = Stage {
            wire: None,
            wire_port: free_port()?,
            host: None,
            gateway: Gateway::new(directory.path()),
            scene: Scene {
                group: GROUP.to_owned(),
                node: NODE.to_owned(),
                host: primary.then(|| HOST.to_owned()),
            },
            broker,
            directory,
        };
        stage.join()?;
        let host = if primary {
            ", primary_host = \"scada\""
        } else {
            ""
        };
        stage.gateway.configure(&format!(
            "[[uplink]]\nname = \"scada\"\nprofile = \"sparkplug-b\"\nurl = \"mqtt://127.0.0.1:{}\"\n\
             vars = {{ group = \"{GROUP}\"{host} }}\n{more}\n\
             [[uplink]]\nname = \"beside\"\nclient_id = \"beside\"\nurl = \"mqtt://127.0.0.1:{}\"\n\n{devices}",
            stage.wire_port, stage.broker.port
        ))?;
        Ok(stage)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn wire_log(&self) -> PathBuf {
        self.path().join("wire.jsonl")
    }

    /// Puts the wire in its place.
    fn join(&mut self) -> Result<()> {
        let (port, broker) = (self.wire_port.to_string(), self.broker.port.to_string());
        let args = ["--port", &port, "--broker", &broker, "--log", "wire.jsonl"];
        self.wire = Some(Peer::start("mqtt_tap.py", &args, self.path())?);
        Ok(())
    }

    /// Cuts the wire, whatever is on it.
    fn cut(&mut self) {
        self.wire = None;
    }

    /// Lets the host in.
    fn enter(&mut self, more: &[&str]) -> Result<()> {
        let port = self.broker.port.to_string();
        let mut args = vec!["--port", &port, "--log", "host.jsonl"];
        if self.scene.host.is_some() {
            args.extend(["--id", HOST]);
        }
        args.extend(more);
        self.host = Some(Peer::start("sparkplug_host.py", &args, self.path())?);
        Ok(())
    }

    /// The test's own word in the recording.
    fn mark(&self, mark: &Value) -> Result<()> {
        let at = now()?;
        let mut line = mark.clone();
        line["at"] = json!(at);
        let mut log = std::fs::File::options()
            .append(true)
            .open(self.wire_log())?;
        Ok(writeln!(log, "{line}")?)
    }

    fn recorded(&self) -> Result<Vec<Value>> {
        read(&self.wire_log())
    }

    /// What the host got, by the births that it got.
    fn heard(&self) -> Result<Heard> {
        Heard::of(&read(&self.path().join("host.jsonl"))?)
    }

    /// Waits for a packet of the node that `is` takes, after the first `from` of the recording; where it is.
    fn wait(&self, what: &str, from: usize, is: impl Fn(&Value) -> bool) -> Result<usize> {
        wait_for(what, STEP, || {
            let recorded = self.recorded().ok()?;
            let mut later = recorded.iter().enumerate().skip(from);
            Some(
                later
                    .find(|(_, record)| record["from"] == "client" && is(record))?
                    .0,
            )
        })
        .with_context(|| self.gateway.log())
    }

    fn wait_heard(&self, what: &str, is: impl Fn(&Heard) -> bool) -> Result<()> {
        wait_for(what, STEP, || self.heard().ok().filter(&is).map(|_| ()))
            .with_context(|| self.gateway.log())
    }

    /// Publishes as a host that is in a hurry: one connection for one message.
    fn say(&self, topic: &str, payload: Vec<u8>, retain: bool) -> Result<()> {
        let options = MqttOptions::new("other-host", "127.0.0.1", self.broker.port);
        let (client, mut connection) = Client::new(options, 4);
        client.publish(topic, QoS::AtLeastOnce, retain, payload)?;
        for event in connection.iter() {
            if let rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_)) = event? {
                return Ok(());
            }
        }
        anyhow::bail!("the connection ended")
    }

    /// The node met every requirement, and the broker keeps nothing of it.
    fn verify(&self) -> Result<()> {
        let findings = check(&self.scene, &self.recorded()?);
        ensure!(findings.is_empty(), "{findings:#?}");
        let heard = self.heard()?;
        ensure!(heard.unresolved.is_empty(), "{:?}", heard.unresolved);
        let options = MqttOptions::new("late", "127.0.0.1", self.broker.port);
        let (client, mut connection) = Client::new(options, 4);
        client.subscribe(format!("spBv1.0/{GROUP}/#"), QoS::AtMostOnce)?;
        client.publish("end", QoS::AtLeastOnce, false, "")?;
        for event in connection.iter() {
            match event? {
                rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) if publish.retain => {
                    anyhow::bail!("{} is retained", publish.topic)
                }
                rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_)) => break,
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a host knows.
#[derive(Default)]
struct Heard {
    /// Every value of a metric, live or historical: device/metric -> values.
    values: std::collections::BTreeMap<String, std::collections::BTreeSet<u64>>,
    historical: usize,
    /// Metrics that no birth explains.
    unresolved: Vec<String>,
}

impl Heard {
    fn of(lines: &[Value]) -> Result<Heard> {
        let mut heard = Heard::default();
        let mut names = std::collections::BTreeMap::new();
        for line in lines {
            let topic = line["topic"].as_str().context("a topic")?;
            let levels: Vec<&str> = topic.split('/').collect();
            let (Some(kind), device) = (levels.get(2), levels.get(4).copied().unwrap_or_default())
            else {
                continue;
            };
            let metrics = line["sparkplug"]["metrics"].as_array();
            if matches!(*kind, "NBIRTH" | "NDEATH") {
                names.clear();
            }
            for metric in metrics.into_iter().flatten() {
                match *kind {
                    "DBIRTH" => {
                        names.insert(
                            metric["alias"].as_u64(),
                            format!("{device}/{}", metric["name"].as_str().unwrap_or_default()),
                        );
                    }
                    "DDATA" => {
                        let Some(name) = names.get(&metric["alias"].as_u64()) else {
                            heard.unresolved.push(format!("{topic}: {metric}"));
                            continue;
                        };
                        heard.historical += usize::from(metric["historical"] == true);
                        if let Some(value) = metric["value"].as_u64() {
                            heard.values.entry(name.clone()).or_default().insert(value);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(heard)
    }

    fn count(&self, metric: &str) -> usize {
        self.values
            .get(metric)
            .map_or(0, std::collections::BTreeSet::len)
    }

    /// What was served of these tags and never came, but for what a kill may take: served at most so long before one of
    /// these instants, it may not have been stored (`commit_interval`), or not have left the device.
    fn missing(&self, served: &Served, tags: u64, kills: &[f64]) -> Vec<u64> {
        let come = |value: u64| {
            let tag = format!("pump/t{}", value % 1000);
            self.values
                .get(&tag)
                .is_some_and(|values| values.contains(&value))
        };
        let excused = |at: f64| {
            let before = |kill: &f64| (-0.2..1.5).contains(&(kill - at));
            kills.iter().any(before)
        };
        let values = served.values.iter();
        let missing = values.filter(|(value, serving)| {
            **value % 1000 < tags && !come(**value) && !excused(serving.at)
        });
        missing.map(|(value, _)| *value).collect()
    }
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// `spBv1.0/acme/KIND/gw-1/…`
fn is(record: &Value, kind: &str, device: &str) -> bool {
    let device = if device.is_empty() {
        String::new()
    } else {
        format!("/{device}")
    };
    record["topic"] == format!("spBv1.0/{GROUP}/{kind}/{NODE}{device}")
}

/// A metric with a name: `Node Control/Rebirth` = true.
fn rebirth() -> Vec<u8> {
    let name = b"Node Control/Rebirth";
    [&[0x12, 24, 0x0a, 20][..], name, &[0x70, 1]].concat()
}

#[test]
fn restarts_rebirths_cuts_and_lost_devices_keep_to_the_specification() -> Result<()> {
    const TAGS: u64 = 3;
    let directory = tempfile::tempdir()?;
    let (mut pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut stage = Stage::start(
        false,
        &plant::small_pump_config(port, &[0, 1, 2]),
        "settle_after = \"3s\"\n",
    )?;
    stage.enter(&[])?;
    stage.gateway.start()?;
    stage.wait_heard("data", |heard| heard.count("pump/t2") > 5)?;

    // A host asks for births, twice in a moment; others say what nobody understands.
    let from = stage.recorded()?.len();
    let command = format!("spBv1.0/{GROUP}/NCMD/{NODE}");
    stage.say(&command, b"garbage".to_vec(), false)?;
    stage.say(&command, rebirth(), false)?;
    stage.say(&command, rebirth(), false)?;
    let at = stage.wait("a rebirth", from, |record| is(record, "NBIRTH", ""))?;
    stage.wait("data after it", at, |record| is(record, "DDATA", "pump"))?;

    // The wire is cut in the middle of everything, and the broker is gone for a while.
    for outage_ms in [700, 700, 4_000] {
        let from = stage.recorded()?.len();
        stage.cut();
        std::thread::sleep(std::time::Duration::from_millis(outage_ms));
        stage.join()?;
        let at = stage.wait("births", from, |record| is(record, "NBIRTH", ""))?;
        stage.wait("data", at, |record| is(record, "DDATA", "pump"))?;
    }

    // The agent is killed, and stopped.
    let from = stage.recorded()?.len();
    let mut kills = vec![now()?];
    stage.gateway.kill();
    stage.gateway.start()?;
    let at = stage.wait("data after a kill", from, |record| {
        is(record, "DDATA", "pump")
    })?;
    stage.gateway.terminate()?;
    stage.wait("a goodbye", at, |record| record["packet"] == "DISCONNECT")?;
    stage.gateway.start()?;
    let at = stage.wait("data after a stop", at + 1, |record| {
        is(record, "DDATA", "pump")
    })?;

    // The device is lost, and another one stands in its place.
    stage.mark(&json!({"mark": "lost", "device": "pump"}))?;
    kills.push(now()?);
    pump.kill();
    let at = stage.wait("a death", at, |record| is(record, "DDEATH", "pump"))?;
    let served = Served::read(&directory.path().join("served.jsonl"))?;
    stage.mark(&json!({"mark": "back", "device": "pump"}))?;
    let later = tempfile::tempdir()?;
    let text = port.to_string();
    let _pump = Peer::start(
        "modbus_ticks.py",
        &["--port", &text, "--tags", "3"],
        later.path(),
    )?;
    let at = stage.wait("a birth", at, |record| is(record, "DBIRTH", "pump"))?;
    stage.wait("data", at, |record| is(record, "DDATA", "pump"))?;

    wait_for("everything that was served", STEP, || {
        let missing = stage.heard().ok()?.missing(&served, TAGS, &kills);
        missing.is_empty().then_some(())
    })
    .with_context(|| {
        format!(
            "{:?}",
            stage
                .heard()
                .map(|heard| heard.missing(&served, TAGS, &kills))
        )
    })?;
    assert!(stage.heard()?.historical > 0);
    wait_for("what both uplinks settle", STEP, || {
        let ledger = stage.gateway.json(&["ledger", "--verify"]).ok()?;
        let of = |uplink: &str| ledger["uplinks"][uplink]["devices"]["pump"]["acked"].as_u64();
        (of("beside") > Some(50) && of("scada") > Some(50)).then_some(())
    })?;
    stage.gateway.terminate()?;
    stage.verify()
}

#[test]
fn the_primary_host_holds_back_births_and_data() -> Result<()> {
    const TAGS: u64 = 2;
    let directory = tempfile::tempdir()?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut stage = Stage::start(true, &plant::small_pump_config(port, &[0, 1]), "")?;
    // Another host and an old word of this one are not enough.
    let state = |online: bool, time: u64| {
        json!({"online": online, "timestamp": time})
            .to_string()
            .into_bytes()
    };
    let topic = format!("spBv1.0/STATE/{HOST}");
    stage.say("spBv1.0/STATE/other", state(true, 1), true)?;
    stage.say(&topic, state(false, 1_700_000_000_000), true)?;
    stage.gateway.start()?;
    wait_for("an uplink that waits", STEP, || {
        let status = stage.gateway.json(&["status"]).ok()?;
        let told = status["problems"]
            .to_string()
            .contains("the primary host scada is not online");
        (told && status["uplinks"][0]["state"] == "waiting").then_some(())
    })?;
    stage.enter(&[])?;
    stage.wait_heard("data", |heard| heard.count("pump/t1") > 5)?;

    // A will of an earlier session of the host arrives late: nobody minds.
    let from = stage.recorded()?.len();
    stage.say(&topic, state(false, 1_700_000_000_001), false)?;
    stage.wait("data", from, |record| is(record, "DDATA", "pump"))?;

    // The host dies and comes back; then the broker does, with nothing saved.
    let from = stage.recorded()?.len();
    stage.host = None;
    stage.wait("a goodbye", from, |record| record["packet"] == "DISCONNECT")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    stage.enter(&[])?;
    let at = stage.wait("births", from, |record| is(record, "NBIRTH", ""))?;
    stage.wait("data", at, |record| is(record, "DDATA", "pump"))?;
    stage.broker.kill()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    let from = stage.recorded()?.len();
    stage.broker.restart()?;
    let at = stage.wait("births", from, |record| is(record, "NBIRTH", ""))?;
    stage.wait("data", at, |record| is(record, "DDATA", "pump"))?;

    let kills = [now()?];
    stage.gateway.json(&["device", "pause", "pump"])?;
    let served = Served::read(&directory.path().join("served.jsonl"))?;
    wait_for("everything that was served", STEP, || {
        let missing = stage.heard().ok()?.missing(&served, TAGS, &kills);
        missing.is_empty().then_some(())
    })
    .with_context(|| {
        format!(
            "{:?}",
            stage
                .heard()
                .map(|heard| heard.missing(&served, TAGS, &kills))
        )
    })?;
    stage.gateway.terminate()?;
    stage.verify()
}

#[test]
fn a_host_of_sparkplug_2_is_a_primary_host_too() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut stage = Stage::start(true, &plant::small_pump_config(port, &[0]), "")?;
    stage.gateway.start()?;
    stage.enter(&["--legacy"])?;
    stage.wait_heard("data", |heard| heard.count("pump/t0") > 2)?;
    let from = stage.recorded()?.len();
    stage.host = None;
    stage.wait("a goodbye", from, |record| record["packet"] == "DISCONNECT")?;
    stage.enter(&["--legacy"])?;
    stage.wait("births", from, |record| is(record, "NBIRTH", ""))?;
    stage.gateway.terminate()?;
    stage.verify()
}

/// What the primary host says at a broker, retained.
fn host_says(broker: &Broker, online: bool, time: u64) -> Result<()> {
    let options = MqttOptions::new("host", "127.0.0.1", broker.port);
    let (client, mut connection) = Client::new(options, 4);
    let state = json!({"online": online, "timestamp": time}).to_string();
    client.publish(
        format!("spBv1.0/STATE/{HOST}"),
        QoS::AtLeastOnce,
        true,
        state,
    )?;
    for event in connection.iter() {
        if let Event::Incoming(Packet::PubAck(_)) = event? {
            return Ok(());
        }
    }
    anyhow::bail!("the broker has gone")
}

#[test]
fn the_node_walks_on_to_the_broker_that_its_host_is_at() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let first = Broker::start(first.path())?;
    let second = Broker::start(second.path())?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&format!(
        "[[uplink]]\nname = \"scada\"\nprofile = \"sparkplug-b\"\nurl = \"mqtt://127.0.0.1:{}\"\n\
         fallback_urls = [\"mqtt://127.0.0.1:{}\"]\nsettle_after = \"1s\"\n\
         vars = {{ group = \"{GROUP}\", primary_host = \"{HOST}\" }}\n\n{}",
        first.port,
        second.port,
        plant::small_pump_config(port, &[0])
    ))?;
    let acked_at = |gateway: &Gateway, broker: &Broker, more_than: u64| {
        let endpoint = format!(":{}", broker.port);
        wait_for("data that settle at the host's broker", STEP * 2, || {
            let uplink = gateway.json(&["status"]).ok()?["uplinks"][0].clone();
            let there = uplink["endpoint"].as_str()?.ends_with(&endpoint);
            let acked = uplink["records_acked_total"].as_u64()?;
            (there && uplink["state"] == "connected" && acked > more_than).then_some(acked)
        })
    };
    host_says(&first, false, 1)?;
    host_says(&second, true, 1)?;
    gateway.start()?;
    let acked = acked_at(&gateway, &second, 3)?;
    // It moves back.
    host_says(&first, true, 2)?;
    host_says(&second, false, 2)?;
    acked_at(&gateway, &first, acked)?;
    gateway.terminate()?;
    Ok(())
}

/// A double with a name: field 13 of a metric.
fn write_command(name: &str, value: f64, time_ms: u64) -> Vec<u8> {
    let mut metric = vec![0x0a, u8::try_from(name.len()).unwrap_or_default()];
    metric.extend(name.as_bytes());
    metric.push(0x69);
    metric.extend(value.to_le_bytes());
    let mut payload = vec![0x08];
    let mut rest = time_ms;
    while rest >= 0x80 {
        payload.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    payload.push(rest as u8);
    payload.extend([0x12, u8::try_from(metric.len()).unwrap_or_default()]);
    payload.extend(metric);
    payload
}

#[test]
fn a_host_writes_what_local_files_grant_and_gets_the_value_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let pump = SimModbus::start(&["--tags", "10"], directory.path())?;
    let device = format!(
        "[local]\ncommands = [\"write\"]\nwrite_tags = [\"pump/setpoint\"]\n\n\
         [[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{}\"\nunit_id = 1\n\
         poll_interval = \"500ms\"\n\n\
         [[device.tag]]\nname = \"setpoint\"\naddress = \"holding:0\"\ntype = \"u32\"\nscale = 0.1\nwritable = true\n\n\
         [[device.tag]]\nname = \"other\"\naddress = \"holding:2\"\ntype = \"u32\"\nscale = 0.1\nwritable = true\n",
        pump.port
    );
    let mut stage = Stage::start(false, &device, "protocol = \"5\"\n")?;
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let topic = format!("spBv1.0/{GROUP}/DCMD/{NODE}/pump");
    stage.enter(&[])?;
    stage.say(&topic, write_command("setpoint", 1.5, now), true)?;
    stage.gateway.start()?;
    let at = stage.wait("a birth", 0, |record| is(record, "DBIRTH", "pump"))?;
    stage.wait("data", at, |record| is(record, "DDATA", "pump"))?;
    stage.say(&topic, vec![], true)?;
    let value = |record: &Value, value: f64| {
        let metrics = record["sparkplug"]["metrics"].as_array();
        is(record, "DDATA", "pump")
            && metrics.is_some_and(|of| of.iter().any(|metric| metric["value"] == value))
    };
    stage
        .mark(&json!({"mark": "written", "device": "pump", "metric": "setpoint", "value": 42.5}))?;
    stage.say(&topic, write_command("setpoint", 42.5, now), false)?;
    let at = stage.wait("the value that was written", at, |record| {
        value(record, 42.5)
    })?;

    // The same message twice is one command, and what is not granted is none; nor was the one that is retained.
    stage.say(&topic, write_command("setpoint", 7.5, now + 1), false)?;
    stage.wait("the next value", at, |record| value(record, 7.5))?;
    stage.say(&topic, write_command("setpoint", 42.5, now), false)?;
    stage.say(&topic, write_command("other", 3.5, now + 3), false)?;
    stage.say(&topic, write_command("nothing", 3.5, now + 4), false)?;
    wait_for("the refusal in the log", STEP, || {
        stage
            .gateway
            .log()
            .contains("write not granted")
            .then_some(())
    })?;
    wait_for("the value that was written last", STEP, || {
        let row = stage.gateway.json(&["tags", "pump/setpoint"]).ok()?;
        (row[0]["value"] == 7.5).then_some(())
    })?;
    let log = stage.gateway.log();
    let audited = log
        .lines()
        .filter(|line| line.contains("audit") && line.contains("setpoint"));
    assert_eq!(audited.count(), 2, "{log}");
    stage.gateway.terminate()?;
    stage.verify()
}
