//! First contact: an agent that knows a core's address and a key gets its devices and its uplink from there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::peer::Peer;
use millrace_tests::process::free_port;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::json;

use crate::plant;

/// What must be found in one private file and nowhere else.
const PLANTED_SECRET: &str = "planted-thing-key-0123456789";

#[test]
fn an_enrolled_gateway_gets_its_configuration_and_delivers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, pump_port) = plant::start_pump(directory.path(), &[])?;
    let content = plant::small_pump_config(pump_port, &[0, 1]) + &plant::uplink_config(broker.port);
    let mut gateway = Gateway::new(directory.path());
    gateway.write(
        "reply.json",
        &reply("mainflux_id", "mainflux_key", &content),
    )?;

    let (core, port) = start_core(directory.path(), "Thing", "key-of-the-gateway")?;
    gateway.write("bootstrap.key", "key-of-the-gateway\n")?;
    gateway.configure(&bootstrap_config(port))?;
    gateway.start()?;
    subscriber.wait("data", STEP, |got| got.count("pump") > 10)?;
    wait_for("a ready bootstrap", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["bootstrap"]["state"] == "ready").then_some(())
    })?;
    assert!(
        core.said()
            .iter()
            .all(|said| said["path"] == "/things/bootstrap/gw-1")
    );

    gateway.terminate()?;
    secret_is_private(&gateway.data_dir())?;
    assert!(!gateway.log().contains(PLANTED_SECRET));

    // The core is gone: the last good configuration is enough.
    drop(core);
    let before = subscriber.look(|got| got.count("pump"));
    gateway.start()?;
    subscriber.wait("data from the last good configuration", STEP, |got| {
        got.count("pump") > before + 10
    })?;
    Ok(())
}

#[test]
fn a_gateway_that_is_not_enrolled_waits_and_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write("reply.json", "{}")?;
    let (_core, port) = start_core(directory.path(), "Thing", "another key")?;
    gateway.write("bootstrap.key", "key-of-the-gateway\n")?;
    gateway.configure(&bootstrap_config(port))?;
    gateway.start()?;
    let status = wait_for("a status that says so", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let waits = ["pending", "denied"]
            .iter()
            .any(|state| status["bootstrap"]["state"] == *state);
        waits.then_some(status)
    })?;
    assert!(status["bootstrap"]["message"].is_string(), "{status}");
    assert!(!status.to_string().contains("key-of-the-gateway"));
    assert!(!gateway.log().contains("key-of-the-gateway"));
    Ok(())
}

#[test]
fn every_spelling_of_the_header_and_the_reply_is_understood() -> Result<()> {
    for (scheme, id, key) in [
        ("raw", "mainflux_id", "mainflux_key"),
        ("Thing", "thing_id", "thing_key"),
        ("Client", "client_id", "client_secret"),
    ] {
        let directory = tempfile::tempdir()?;
        let (_pump, pump_port) = plant::start_pump(directory.path(), &[])?;
        let mut gateway = Gateway::new(directory.path());
        gateway.write(
            "reply.json",
            &reply(id, key, &plant::small_pump_config(pump_port, &[0])),
        )?;
        let (_core, port) = start_core(directory.path(), scheme, "key-of-the-gateway")?;
        gateway.write("bootstrap.key", "key-of-the-gateway\n")?;
        gateway.configure(&bootstrap_config(port))?;
        gateway.start()?;
        wait_for("a configured device", STEP, || {
            let status = gateway.json(&["status"]).ok()?;
            (status["devices"][0]["tags_good"] == 1).then_some(())
        })
        .with_context(|| format!("{scheme}, {id}"))?;
    }
    Ok(())
}

fn start_core(directory: &Path, scheme: &str, key: &str) -> Result<(Peer, u16)> {
    let port = free_port()?;
    let port_text = port.to_string();
    let args = [
        "--port",
        &port_text,
        "--external-id",
        "gw-1",
        "--external-key",
        key,
        "--scheme",
        scheme,
        "--reply",
        "reply.json",
    ];
    Ok((Peer::start("bootstrap_server.py", &args, directory)?, port))
}

fn bootstrap_config(port: u16) -> String {
    format!(
        "[bootstrap]\nprovider = \"mainflux\"\nurl = \"http://127.0.0.1:{port}/things/bootstrap\"\n\
         external_id = \"gw-1\"\nexternal_key_file = \"bootstrap.key\"\n"
    )
}

fn reply(id: &str, key: &str, content: &str) -> String {
    json!({id: "0f5c-thing", key: PLANTED_SECRET, "channels": [], "content": content}).to_string()
}

/// The credentials are kept, in files that only their owner can read.
fn secret_is_private(data_dir: &Path) -> Result<()> {
    let mut found = 0;
    let mut open = vec![data_dir.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if String::from_utf8_lossy(&std::fs::read(&path)?).contains(PLANTED_SECRET) {
                found += 1;
                let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{} is {mode:o}", path.display());
            }
        }
    }
    assert!(found > 0, "the credentials were not kept");
    Ok(())
}
