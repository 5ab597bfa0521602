//! First contact: an agent that knows a core's address and a key gets its devices and its uplink from there, from
//! each kind of core that is documented.

mod aws;
mod claims;
mod clock;
mod fleet;
mod kinds;
mod scene;
mod trouble;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::peer::Peer;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;

/// What must be found in private files and nowhere else.
const PLANTED_SECRET: &str = "planted-thing-key-0123456789";

/// The external key of the tests; it, too, must not be found.
const KEY: &str = "key-of-the-gateway-0123456789abcdef";

/// A core of one kind, with one gateway `gw-1`.
struct Core {
    peer: Peer,
    port: u16,
    directory: std::path::PathBuf,
}

impl Core {
    fn start(directory: &Path, kind: &str, gateway: &Value, more: &[&str]) -> Result<Core> {
        write_gateway(directory, gateway)?;
        let mut args = vec!["--kind", kind, "--gateways", "gateways.json"];
        args.extend(more);
        let peer = Peer::start("bootstrap_server.py", &args, directory)?;
        let port = peer.ready["port"].as_u64().context("it says its port")?;
        Ok(Core {
            peer,
            port: u16::try_from(port)?,
            directory: directory.to_owned(),
        })
    }

    /// What the operator of the core says of the gateway from now on.
    fn change(&self, gateway: &Value) -> Result<()> {
        write_gateway(&self.directory, gateway)
    }
}

fn write_gateway(directory: &Path, gateway: &Value) -> Result<()> {
    let gateways = json!({"gw-1": gateway, "profile": gateway});
    let fresh = directory.join("gateways.new");
    std::fs::write(&fresh, gateways.to_string())?;
    Ok(std::fs::rename(fresh, directory.join("gateways.json"))?)
}

fn mainflux(port: u16, more: &str) -> String {
    table(
        "mainflux",
        &format!("http://127.0.0.1:{port}/things/bootstrap"),
        more,
    )
}

fn table(provider: &str, url: &str, more: &str) -> String {
    format!(
        "[bootstrap]\nprovider = \"{provider}\"\nurl = \"{url}\"\nexternal_id = \"gw-1\"\nspread = \"0s\"\n\
         external_key_file = \"bootstrap.key\"\n{more}\n"
    )
}

/// A gateway with this `[bootstrap]`, its key beside it.
fn gateway(directory: &Path, bootstrap: &str) -> Result<Gateway> {
    let gateway = Gateway::new(directory);
    gateway.write("bootstrap.key", &format!("{KEY}\n"))?;
    gateway.configure(bootstrap)?;
    Ok(gateway)
}

/// Waits until `bootstrap status` says this state, and gives its message.
fn wait_state(gateway: &Gateway, state: &str) -> Result<String> {
    let mut last = Value::Null;
    wait_for(&format!("the state {state}"), STEP, || {
        last = gateway.json(&["bootstrap", "status"]).ok()?;
        (last["state"] == state).then(|| last["message"].as_str().unwrap_or_default().to_owned())
    })
    .with_context(|| format!("{last}\n{}", gateway.log()))
}

/// Waits until a message of `bootstrap status` names this.
fn wait_message(gateway: &Gateway, named: &str) -> Result<String> {
    let mut last = Value::Null;
    wait_for(&format!("a message with {named:?}"), STEP, || {
        last = gateway.json(&["bootstrap", "status"]).ok()?;
        let message = last["message"].as_str()?;
        message.contains(named).then(|| message.to_owned())
    })
    .with_context(|| format!("{last}\n{}", gateway.log()))
}

#[test]
fn an_enrolled_gateway_gets_its_configuration_and_delivers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, pump_port) = plant::start_pump(directory.path(), &[])?;
    let content = plant::small_pump_config(pump_port, &[0, 1]) + &plant::uplink_config(broker.port);
    let reply = json!({"mainflux_id": "0f5c-thing", "mainflux_key": PLANTED_SECRET, "mainflux_channels": [],
        "content": content});
    let core = Core::start(
        directory.path(),
        "magistrala-0.15",
        &json!({"key": KEY, "reply": reply}),
        &[],
    )?;
    let mut gateway = gateway(directory.path(), &mainflux(core.port, ""))?;
    gateway.start()?;
    subscriber.wait("data", STEP, |got| got.count("pump") > 10)?;
    wait_state(&gateway, "ready")?;
    let said = core.peer.said();
    assert!(
        said.iter()
            .all(|said| said["path"] == "/things/bootstrap/gw-1"),
        "{said:?}"
    );
    // Nobody can read the key of the first contact any more, but the service.
    assert!(!gateway.path("bootstrap.key").exists());

    gateway.terminate()?;
    secrets_are_private(&gateway, &[PLANTED_SECRET, KEY])?;

    // The core is gone: the last good configuration is enough.
    drop(core);
    let before = subscriber.look(|got| got.count("pump"));
    gateway.start()?;
    subscriber.wait("data from the last good configuration", STEP, |got| {
        got.count("pump") > before + 10
    })?;
    wait_state(&gateway, "ready")?;
    Ok(())
}

/// Looks for each secret in every file below the data directory, in the log, in what the agent was started with and
/// in what it says.
fn secrets_are_private(gateway: &Gateway, secrets: &[&str]) -> Result<()> {
    for secret in secrets {
        let mut found = 0;
        let mut open = vec![gateway.data_dir()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_symlink() {
                    continue;
                }
                if path.is_dir() {
                    open.push(path);
                } else if String::from_utf8_lossy(&std::fs::read(&path)?).contains(secret) {
                    found += 1;
                    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
                    assert_eq!(mode, 0o600, "{} is {mode:o}", path.display());
                    assert!(
                        path.starts_with(gateway.data_dir().join("secrets")),
                        "{}",
                        path.display()
                    );
                }
            }
        }
        assert!(found > 0, "{secret} was not kept");
        assert!(!gateway.log().contains(secret), "{}", gateway.log());
    }
    Ok(())
}
