//! Every profile from the configuration to the broker: topics and payloads as a foreign client sees them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::certificates::Certificates;
use millrace_tests::wait::{STEP, wait_for};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

use crate::plant;

/// Messages by topic.
type Messages = BTreeMap<String, Vec<Vec<u8>>>;

/// Takes whatever the broker has.
struct Tap {
    messages: Arc<Mutex<Messages>>,
}

impl Tap {
    fn start(port: u16) -> Result<Tap> {
        let mut options = MqttOptions::new("tap", "127.0.0.1", port);
        options.set_max_packet_size(1 << 24, 1 << 24);
        let (client, mut connection) = Client::new(options, 8);
        client.try_subscribe("#", QoS::AtLeastOnce)?;
        for event in connection.iter() {
            if let Event::Incoming(Packet::SubAck(_)) = event? {
                break;
            }
        }
        let messages = Arc::<Mutex<Messages>>::default();
        let shared = messages.clone();
        // It ends with the broker, whose end is that of the test.
        std::thread::spawn(move || {
            let _client = client;
            for event in connection.iter() {
                let Ok(event) = event else { return };
                if let Event::Incoming(Packet::Publish(publish)) = event {
                    let mut messages = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    let of_topic = messages.entry(publish.topic).or_default();
                    of_topic.push(publish.payload.to_vec());
                }
            }
        });
        Ok(Tap { messages })
    }

    /// A message of each topic, once there are three.
    fn wait(&self, topic: &str) -> Result<Vec<u8>> {
        wait_for(topic, STEP, || {
            let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            messages
                .get(topic)
                .filter(|of_topic| of_topic.len() >= 3)?
                .last()
                .cloned()
        })
        .with_context(|| {
            let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            format!("topics: {:?}", messages.keys())
        })
    }

    fn wait_json(&self, topic: &str) -> Result<Value> {
        let payload = self.wait(topic)?;
        serde_json::from_slice(&payload).with_context(|| format!("{topic}: {payload:?}"))
    }
}

fn uplink(profile: &str, port: u16, more: &str) -> String {
    format!(
        "[[uplink]]\nname = \"{profile}\"\nclient_id = \"{profile}\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         profile = \"{profile}\"\n{more}\n"
    )
}

const LOGIN: &str = "username = \"thing\"\npassword_file = \"secret\"\n";

#[test]
fn each_profile_sends_what_its_core_takes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let tap = Tap::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write("secret", "s3cret")?;
    let uplinks = [
        (
            "mainflux",
            format!("vars = {{ channel = \"c1\" }}\n{LOGIN}"),
        ),
        (
            "magistrala",
            format!("vars = {{ domain = \"d1\", channel = \"c2\" }}\n{LOGIN}"),
        ),
        ("mainfluxlabs", "password_file = \"secret\"\n".to_owned()),
        ("thingsboard", "password_file = \"secret\"\n".to_owned()),
        ("influx-line", String::new()),
        ("leverege", "vars = { network = \"n1\" }\n".to_owned()),
        ("flowbox", String::new()),
        ("umh", "vars = { location = \"acme/hall\" }\n".to_owned()),
    ];
    let uplinks: String = uplinks
        .iter()
        .map(|(profile, more)| uplink(profile, broker.port, more))
        .collect();
    let device = plant::small_pump_config(port, &[0, 7]);
    gateway.configure(&format!("{uplinks}{device}"))?;
    gateway.start()?;

    for topic in [
        "channels/c1/messages/pump",
        "m/d1/c/c2/pump",
        "messages/pump",
    ] {
        let pack = tap.wait_json(topic)?;
        assert_eq!(pack[0]["bn"], "pump", "{topic}");
        assert_eq!(pack[0]["n"], ":t0", "{topic}");
        assert!(
            pack[0]["v"].is_u64() && pack[0]["t"].is_f64(),
            "{topic}: {pack}"
        );
        assert_eq!(pack[1]["n"], ":t7", "{topic}");
    }
    let telemetry = tap.wait_json("v1/gateway/telemetry")?;
    let point = &telemetry["pump"][0];
    assert!(
        point["ts"].is_i64() && point["values"]["t0"].is_u64(),
        "{telemetry}"
    );
    let line = String::from_utf8(tap.wait("telegraf/gw-1/pump")?)?;
    assert!(line.starts_with("pump,gateway=gw-1 t0="), "{line}");
    let list = tap.wait_json("leverege/n1/gw-1")?;
    assert_eq!(list[0]["networkId"], "n1");
    assert_eq!(list[0]["value"], "pump");
    assert!(list[0]["data"]["t7"].is_u64(), "{list}");
    let metrics = tap.wait_json("flowbox/gw-1/pump/metrics")?;
    assert!(metrics["metrics"]["t0"].is_u64(), "{metrics}");
    let one = tap.wait_json("umh/v1/acme/hall/_raw/pump/t0")?;
    let keys: Vec<&String> = one.as_object().context("an object")?.keys().collect();
    assert_eq!(keys, ["timestamp_ms", "value"]);

    // Greetings come before all data.
    let first = |topic: &str| {
        let messages = tap.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages
            .get(topic)
            .and_then(|of_topic| of_topic.first())
            .cloned()
    };
    assert_eq!(
        first("v1/gateway/connect").as_deref(),
        Some(&b"{\"device\":\"pump\"}"[..])
    );
    let online = first("flowbox/gw-1/status").context("a status")?;
    assert_eq!(online, b"{\"gateway\":\"gw-1\",\"online\":true}");

    // Each uplink settles what it has sent.
    let ledger = gateway.json(&["ledger", "--verify"])?;
    for (name, row) in ledger["uplinks"].as_object().context("uplinks")? {
        assert!(
            row["devices"]["pump"]["acked"].as_u64() > Some(0),
            "{name}: {row}"
        );
    }
    gateway.terminate()?;
    Ok(())
}

const OWN: &str = r#"
format = 1
name = "own"
about = "A profile of a person's own."
codec = "template"
delivery = "acked"
sequence = "payload"

[vars]
site = "The site."

[topics]
names = "level"
data = "own/{site}/{source}/{tag}"

[template]
data = '{"v":{{ value }},"seq":{{ seq }}}'
"#;

#[test]
fn a_profile_of_ones_own_needs_no_release_and_a_bad_one_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let tap = Tap::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write("secret", "s3cret")?;
    std::fs::create_dir(gateway.path("profiles"))?;
    gateway.write("profiles/own.toml", OWN)?;
    let own = uplink("own", broker.port, "vars = { site = \"s1\" }\n");
    let nats = uplink("nats", broker.port, "");
    let proxus = uplink("proxus", broker.port, "password_file = \"secret\"\n");
    let device = plant::small_pump_config(port, &[3]);
    gateway.configure(&format!("{own}{nats}{proxus}{device}"))?;
    gateway.start()?;
    let message = tap.wait_json("own/s1/pump/t3")?;
    assert!(
        message["v"].is_u64() && message["seq"].as_u64() > Some(0),
        "{message}"
    );
    let message = tap.wait_json("millrace/gw-1/data/pump")?;
    assert_eq!(message["samples"][0]["n"], "t3");
    let message = tap.wait_json("telemetry")?;
    assert!(
        message["pump/t3"].is_u64() && message["ts"].is_i64(),
        "{message}"
    );
    gateway.terminate()?;

    gateway.write("profiles/own.toml", &OWN.replace("{tag}", "{tga}"))?;
    let output = gateway.cli(&["check", "--config", "millrace.toml"])?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    for part in [
        "profiles/own.toml",
        "topics.data",
        "own/{site}/{source}/{tga}",
        "{tag}",
    ] {
        if !text.contains(part) {
            bail!("{part} is not in {text}");
        }
    }
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}

#[test]
fn cores_that_want_a_certificate_and_receivers_that_want_it_sealed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path())?;
    let broker = Broker::start_tls(directory.path(), &certificates)?;
    let tap = Tap::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    let login = format!(
        "ca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        certificates.ca().display(),
        certificates.client().display(),
        certificates.client_key().display()
    );
    let by_certificate = |profile: &str, more: &str| {
        let plain = format!("mqtt://127.0.0.1:{}", broker.port);
        let tls = format!("mqtts://localhost:{}", broker.tls_port);
        uplink(profile, broker.port, &format!("{more}{login}")).replace(&plain, &tls)
    };
    let hub = "vars = { hub = \"my-hub.example\", device = \"azure-iot-hub\" }\n";
    gateway.write("seal.key", &"0f".repeat(32))?;
    let sealed = "compression = \"zstd\"\nseal = \"aes-256-gcm\"\nseal_key_file = \"seal.key\"\n";
    let uplinks = [
        by_certificate("aws-iot", ""),
        by_certificate("azure-iot-hub", hub),
        uplink("cumulocity", broker.port, ""),
        uplink("generic", broker.port, sealed),
    ]
    .concat();
    let device = plant::small_pump_config(port, &[0, 7]);
    gateway.configure(&format!("{uplinks}{device}"))?;
    gateway.start()?;
    let message = tap.wait_json("dt/millrace/gw-1/data/pump")?;
    assert_eq!(message["samples"][0]["n"], "t0");
    let topic =
        "devices/azure-iot-hub/messages/events/$.ct=application%2Fjson&$.ce=utf-8&kind=data";
    let message = tap.wait_json(topic)?;
    assert_eq!(message["samples"][1]["n"], "t7");
    let lines = String::from_utf8(tap.wait("s/us/gw-1:pump")?)?;
    assert!(lines.starts_with("200,millrace,t0,"), "{lines}");
    let data = tap.wait("millrace/gw-1/data/pump")?;
    assert!(data.starts_with(b"MRS1"), "{data:?}");
    let messages = tap.messages.lock().unwrap_or_else(PoisonError::into_inner);
    for (topic, payloads) in messages
        .iter()
        .filter(|(topic, _)| topic.starts_with("millrace/"))
    {
        assert!(
            payloads.iter().all(|payload| payload.starts_with(b"MRS1")),
            "{topic}"
        );
    }
    drop(messages);
    gateway.terminate()?;
    Ok(())
}

/// Whether `docs/unseal.py` opens a payload with the key in this file.
fn opens(gateway: &Gateway, key: &str, topic: &str, payload: &[u8]) -> Result<bool> {
    std::fs::write(gateway.path("sealed"), payload)?;
    let script = "import sys; sys.path.insert(0, sys.argv[1]); import unseal\n\
                  unseal.unseal(unseal.read_key(sys.argv[2]), sys.argv[3], open(sys.argv[4], 'rb').read())";
    let output = std::process::Command::new(millrace_tests::peer::python()?)
        .args(["-c", script])
        .arg(millrace_tests::checkout().join("docs"))
        .arg(gateway.path(key))
        .arg(topic)
        .arg(gateway.path("sealed"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !said.contains("InvalidTag") {
        bail!("{said}");
    }
    Ok(output.status.success())
}

#[test]
fn a_new_sealing_key_counts_without_a_restart() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let tap = Tap::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write("seal.key", &"0f".repeat(32))?;
    gateway.write("first.key", &"0f".repeat(32))?;
    gateway.write("second.key", &"a1".repeat(32))?;
    let sealed = "seal = \"aes-256-gcm\"\nseal_key_file = \"seal.key\"\n";
    let uplinks = uplink("generic", broker.port, sealed);
    gateway.configure(&format!(
        "{uplinks}{}",
        plant::small_pump_config(port, &[0])
    ))?;
    gateway.start()?;
    let topic = "millrace/gw-1/data/pump";
    let opened = |key: &str| -> Result<bool> {
        let payload = tap.wait(topic)?;
        opens(&gateway, key, topic, &payload)
    };
    assert!(opened("first.key")?);
    // What is no key changes nothing.
    gateway.write("seal.key", "too short")?;
    wait_for("a word on the key that is none", STEP, || {
        gateway
            .log()
            .contains("the new sealing key cannot be used")
            .then_some(())
    })?;
    assert!(opened("first.key")?);
    gateway.write("seal.key", &"a1".repeat(32))?;
    wait_for("a message of the new key", STEP, || {
        opened("second.key").ok()?.then_some(())
    })?;
    assert!(!opened("first.key")?);
    let status = gateway.json(&["status"])?;
    assert_eq!(status["uplinks"][0]["connects_total"], 1, "{status}");
    Ok(())
}
