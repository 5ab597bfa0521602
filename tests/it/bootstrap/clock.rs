//! The first contact of a gateway whose clock says 1970.

use std::process::Command;

use anyhow::ensure;

use super::kinds::AZURE_KEY;
use super::scene::broker_of;
use super::*;

/// The shim of `shim/clock.c`, built into `directory`.
fn shim(directory: &Path) -> Result<std::path::PathBuf> {
    let library = directory.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/clock.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .status()?;
    ensure!(built.success(), "cc did not build the shim");
    Ok(library)
}

/// Every certificate is "not valid yet" to it. It enrols over verified TLS, connects by the certificate that it got, and
/// delivers; a stranger is refused all the same.
#[test]
fn it_works_in_1970() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let known = json!({"key": KEY});
    let core = Core::start(directory.path(), "est", &known, &["--tls", "pki"])?;
    let (broker, tls_port) = broker_of(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, pump_port) = plant::start_pump(directory.path(), &[])?;
    let current = "data/secrets/current";
    let url = format!("https://localhost:{}", core.port);
    let rest = format!(
        "{}[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://localhost:{tls_port}\"\nca_file = \"{current}/ca.pem\"\n\
         cert_file = \"{current}/client.pem\"\nkey_file = \"{current}/client.key\"\n",
        plant::small_pump_config(pump_port, &[0]),
    );
    let stranger = format!("ca_sha256 = \"{}\"", "0".repeat(64));
    let mut gateway = gateway(directory.path(), &(table("est", &url, &stranger) + &rest))?;
    let preload = format!("LD_PRELOAD={}", shim(directory.path())?.display());
    gateway.start_by(vec!["env".to_owned(), preload]);
    gateway.start()?;
    let status = gateway.json(&["status"])?;
    ensure!(
        status["clock"]["set"] == false,
        "the shim does not work: {}",
        status["clock"]
    );
    wait_message(&gateway, "no certificate with the SHA-256")?;
    gateway.terminate()?;

    gateway.configure(&(table("est", &url, "ca_file = \"pki/ca.pem\"") + &rest))?;
    gateway.start()?;
    subscriber
        .wait("data", STEP, |got| got.count("pump") > 5)
        .with_context(|| gateway.log())?;
    wait_state(&gateway, "ready")?;
    let status = gateway.json(&["status"])?;
    assert_eq!(status["clock"]["set"], false);
    Ok(())
}

/// The token of a registration carries the time: that of the service, whose certificate was verified.
#[test]
fn azure_is_asked_for_the_time_in_1970() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let known =
        json!({"key": AZURE_KEY, "reply": {"assignedHub": "localhost", "deviceId": "device-1"}});
    let core = Core::start(directory.path(), "azure-dps", &known, &["--tls", "pki"])?;
    let url = format!("https://localhost:{}", core.port);
    let more = "id_scope = \"0ne00TEST\"\nca_file = \"pki/ca.pem\"";
    let mut gateway = gateway(directory.path(), &table("azure-dps", &url, more))?;
    gateway.write("bootstrap.key", AZURE_KEY)?;
    let preload = format!("LD_PRELOAD={}", shim(directory.path())?.display());
    gateway.start_by(vec!["env".to_owned(), preload]);
    gateway.start()?;
    wait_state(&gateway, "trial")?;
    // The hub wants tokens, too, and for these the clock must be set.
    let error = wait_for("the uplink to say so", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        Some(status["uplinks"][0]["error"].as_str()?.to_owned())
    })?;
    assert!(error.contains("clock is not set"), "{error}");
    Ok(())
}
