//! Each kind of core, as its generation documents it.

use super::scene::{CLAIM_STRING, ClaimCore, broker_of};
use super::*;

/// The key of the vendor's own example.
pub(super) const AZURE_KEY: &str =
    "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";

/// An enrolment without an uplink: one device, so that somebody can see that it runs.
fn content(directory: &Path) -> Result<(Peer, String)> {
    let (pump, port) = plant::start_pump(directory, &[])?;
    Ok((pump, plant::small_pump_config(port, &[0])))
}

fn runs(gateway: &Gateway) -> Result<()> {
    wait_for("a configured device", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["devices"][0]["tags_good"] == 1).then_some(())
    })
    .with_context(|| gateway.log())?;
    wait_state(gateway, "ready").map(|_| ())
}

/// The four generations of one GET, in the clear and by `/secure/`: the header that it wants and the members that it
/// sends.
#[test]
fn every_generation_of_mainflux_is_understood() -> Result<()> {
    let secure_key = "12345678910111213141516171819202";
    for (kind, base, reply) in [
        (
            "mainflux-0.12",
            "/things/bootstrap",
            json!({"mainflux_id": "t", "mainflux_key": PLANTED_SECRET, "mainflux_channels": [{"id": "1"}]}),
        ),
        (
            "mainflux-0.13",
            "/things/bootstrap",
            json!({"mainflux_id": "t", "mainflux_key": PLANTED_SECRET, "mainflux_channels": null}),
        ),
        (
            "magistrala-0.15",
            "/things/bootstrap",
            json!({"thing_id": "t", "thing_key": PLANTED_SECRET, "channels": []}),
        ),
        ("magistrala-0.30", "/clients/bootstrap", json!({"id": "e"})),
    ] {
        for secure in [false, true] {
            let directory = tempfile::tempdir()?;
            let (_pump, content) = content(directory.path())?;
            let mut reply = reply.clone();
            reply["content"] = json!(content);
            let known = json!({"key": KEY, "reply": reply});
            let core = Core::start(
                directory.path(),
                kind,
                &known,
                &["--base", base, "--secure-key", secure_key],
            )?;
            let url = format!("http://127.0.0.1:{}{base}", core.port);
            let more = match secure {
                true => "secure_key_file = \"secure.key\"",
                false => "",
            };
            let mut gateway = gateway(directory.path(), &table("mainflux", &url, more))?;
            gateway.write("secure.key", secure_key)?;
            gateway.start()?;
            runs(&gateway).with_context(|| format!("{kind}, secure: {secure}"))?;
            let said = core.peer.said();
            let last = said.last().context("requests")?;
            assert_eq!(last["status"], 200);
            let way = if secure { "/secure/gw-1" } else { "/gw-1" };
            assert_eq!(last["path"], format!("{base}{way}"), "{kind}");
            let sent = last["authorization"].as_str().unwrap_or_default();
            assert_eq!(sent.contains(KEY), !secure, "{kind}: {sent}");
        }
    }
    Ok(())
}

#[test]
fn magistrala_with_challenge_and_proof() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_pump, content) = content(directory.path())?;
    let reply = json!({"id": "e", "content_type": "application/toml", "content": content});
    let base = "/clients/bootstrap";
    let known = json!({"key": KEY, "reply": reply});
    let core = Core::start(
        directory.path(),
        "magistrala-proof",
        &known,
        &["--base", base],
    )?;
    let url = format!("http://127.0.0.1:{}{base}", core.port);
    let mut gateway = gateway(directory.path(), &table("magistrala-proof", &url, ""))?;
    gateway.start()?;
    runs(&gateway)?;
    let said = core.peer.said();
    let paths: Vec<&str> = said
        .iter()
        .filter_map(|said| said["path"].as_str())
        .collect();
    assert_eq!(
        paths,
        [
            format!("{base}/challenges/gw-1"),
            format!("{base}/configurations/gw-1")
        ]
    );
    Ok(())
}

/// From a line of text to data at a broker that wants a certificate: the key pair is made on the gateway, the token
/// is never sent, the answer to the first claim is lost, and the confirm comes only after the connection.
#[test]
fn a_claim_string_becomes_an_identity() -> Result<()> {
    let scene = ClaimCore::start(&["--fault", "lost:1:/claims/"])?;
    let claim = scene.claim_string();
    let mut gateway = scene.gateway()?;
    gateway.start()?;
    scene
        .subscriber
        .wait("data", STEP, |got| got.count("pump") > 10)?;
    wait_state(&gateway, "ready")?;
    let said = scene.core.peer.said();
    let of = |step: &str| {
        let path = format!("/claim/{step}/gw-1");
        said.iter()
            .filter(|said| said["path"] == path.as_str())
            .count()
    };
    assert_eq!(of("claims"), 2, "the first answer was lost: {said:?}");
    assert_eq!(of("confirmations"), 1, "{said:?}");
    assert!(
        !said.iter().any(|said| !said["alarm"].is_null()),
        "{said:?}"
    );
    assert!(
        !gateway.path("claim").exists(),
        "a one-time token is destroyed"
    );
    gateway.terminate()?;
    assert!(!gateway.log().contains(KEY));

    // The token comes back from a backup: the core refuses another key, and alarms.
    let other = tempfile::tempdir()?;
    let mut thief = Gateway::new(other.path());
    thief.write("claim", &claim)?;
    thief.configure(CLAIM_STRING)?;
    thief.start()?;
    let message = wait_message(&thief, "403")?;
    assert!(message.contains("used by another key"), "{message}");
    wait_for("an alarm", STEP, || {
        scene
            .core
            .peer
            .said()
            .iter()
            .any(|said| !said["alarm"].is_null())
            .then_some(())
    })?;
    assert!(!message.contains(KEY) && !thief.log().contains(KEY));
    Ok(())
}

/// The next certificate comes by the one before, without the token, which is gone by then.
#[test]
fn a_claimed_certificate_is_renewed_by_itself() -> Result<()> {
    // 30 seconds of life: renewed after 20 to 23.
    let scene = ClaimCore::start(&["--cert-days", "0.00035"])?;
    let mut gateway = scene.gateway()?;
    gateway.start()?;
    scene
        .subscriber
        .wait("data", STEP, |got| got.count("pump") > 5)?;
    wait_state(&gateway, "ready")?;
    assert!(!gateway.path("claim").exists());
    let certificate = gateway.data_dir().join("secrets/current/client.pem");
    let first = std::fs::read_to_string(&certificate)?;
    let mut said = scene.core.peer.said();
    wait_for("another certificate", STEP, || {
        (std::fs::read_to_string(&certificate).ok()? != first).then_some(())
    })
    .with_context(|| gateway.log())?;
    let before = scene.subscriber.look(|got| got.count("pump"));
    scene
        .subscriber
        .wait("data by the next certificate", STEP, |got| {
            got.count("pump") > before + 5
        })?;
    said.extend(scene.core.peer.said());
    let statuses = |step: &str| -> Vec<u64> {
        let path = format!("/claim/{step}/gw-1");
        let of = said.iter().filter(|said| said["path"] == path.as_str());
        of.filter_map(|said| said["status"].as_u64()).collect()
    };
    assert_eq!(statuses("claims"), [200], "{said:?}");
    assert_eq!(statuses("renewals").first(), Some(&200), "{said:?}");
    assert!(!gateway.log().contains(KEY));
    Ok(())
}

/// A certificate by one-time password, after an approval; used by an uplink of the local configuration; and the next
/// one by the certificate before.
#[test]
fn est_enrols_and_renews() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let known = json!({"key": KEY, "approve_after": 1});
    // 30 seconds of life: renewed after 20 to 23.
    let more = ["--tls", "pki", "--cert-days", "0.00035"];
    let core = Core::start(directory.path(), "est", &known, &more)?;
    let (broker, tls_port) = broker_of(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, pump_port) = plant::start_pump(directory.path(), &[])?;
    let current = "data/secrets/current";
    let config = format!(
        "{}{}[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://localhost:{tls_port}\"\nca_file = \"{current}/ca.pem\"\n\
         cert_file = \"{current}/client.pem\"\nkey_file = \"{current}/client.key\"\n",
        table(
            "est",
            &format!("https://localhost:{}", core.port),
            "ca_file = \"pki/ca.pem\""
        ),
        plant::small_pump_config(pump_port, &[0]),
    );
    let mut gateway = gateway(directory.path(), &config)?;
    gateway.start()?;
    subscriber.wait("data", STEP, |got| got.count("pump") > 5)?;
    let message = wait_state(&gateway, "ready")?;
    assert!(
        message.contains("the certificate is renewed at"),
        "{message}"
    );
    assert!(
        !gateway.path("bootstrap.key").exists(),
        "a one-time password is destroyed"
    );
    let certificate = gateway.data_dir().join("secrets/current/client.pem");
    let first = std::fs::read_to_string(&certificate)?;
    let mut said = core.peer.said();
    wait_for("another certificate", STEP, || {
        (std::fs::read_to_string(&certificate).ok()? != first).then_some(())
    })
    .with_context(|| gateway.log())?;
    let before = subscriber.look(|got| got.count("pump"));
    subscriber.wait("data by the next certificate", STEP, |got| {
        got.count("pump") > before + 5
    })?;
    said.extend(core.peer.said());
    let statuses = |step: &str| -> Vec<u64> {
        let of = said.iter().filter(|said| {
            said["path"]
                .as_str()
                .is_some_and(|path| path.ends_with(step))
        });
        of.filter_map(|said| said["status"].as_u64()).collect()
    };
    assert_eq!(statuses("/simpleenroll"), [202, 200]);
    assert_eq!(statuses("/simplereenroll").first(), Some(&200));
    Ok(())
}

/// The token is our own: where the answer of the first request is lost, the second finds that it works.
#[test]
fn thingsboard_provisions_once_and_a_lost_answer_is_made_good() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let known = json!({"key": "profile-key:profile-secret"});
    let core = Core::start(
        directory.path(),
        "thingsboard",
        &known,
        &["--fault", "lost:1"],
    )?;
    let broker = Broker::start(directory.path())?;
    let url = format!("http://127.0.0.1:{}", core.port);
    let uplink = format!("uplink = {{ url = \"mqtt://127.0.0.1:{}\" }}", broker.port);
    let mut gateway = gateway(directory.path(), &table("thingsboard", &url, &uplink))?;
    gateway.write("bootstrap.key", "profile-key:profile-secret")?;
    gateway.start()?;
    wait_state(&gateway, "ready")?;
    let status = gateway.json(&["status"])?;
    assert_eq!(status["uplinks"][0]["profile"], "thingsboard");
    assert_eq!(status["uplinks"][0]["state"], "connected");
    let said = core.peer.said();
    let provisions = said
        .iter()
        .filter(|said| said["path"] == "/api/v1/provision");
    assert_eq!(provisions.count(), 2, "{said:?}");
    Ok(())
}

#[test]
fn azure_names_the_hub() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let known = json!({"key": AZURE_KEY, "approve_after": 1, "reply": {"assignedHub": "localhost", "deviceId": "device-1"}});
    let core = Core::start(directory.path(), "azure-dps", &known, &["--tls", "pki"])?;
    let url = format!("https://localhost:{}", core.port);
    let more = "id_scope = \"0ne00TEST\"\nca_file = \"pki/ca.pem\"";
    let mut gateway = gateway(directory.path(), &table("azure-dps", &url, more))?;
    gateway.write("bootstrap.key", AZURE_KEY)?;
    gateway.start()?;
    // There is no hub; what is to be seen is which one it would log in to, and as whom.
    wait_state(&gateway, "trial")?;
    let uplink = wait_for("the uplink", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        status["uplinks"].get(0).cloned()
    })?;
    assert_eq!(uplink["url"], "mqtts://localhost:8883");
    assert_eq!(uplink["profile"], "azure-iot-hub");
    let statuses: Vec<u64> = core
        .peer
        .said()
        .iter()
        .filter_map(|said| said["status"].as_u64())
        .collect();
    assert_eq!(statuses, [202, 202, 200]);
    Ok(())
}

/// A stick with an enrolment in YAML; it is removed once the enrolment has proved itself.
#[test]
fn somebody_brings_a_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(
        "[bootstrap]\nprovider = \"file\"\nfile = \"enrolment.yaml\"\nspread = \"0s\"\n",
    )?;
    gateway.start()?;
    let message = wait_state(&gateway, "pending")?;
    assert!(message.contains("enrolment.yaml"), "{message}");
    let text = format!(
        "id: me\nkey: {PLANTED_SECRET}\nuplink:\n  url: mqtt://127.0.0.1:{}\n  profile: generic\n",
        broker.port
    );
    gateway.write("enrolment.yaml", &text)?;
    gateway.json(&["bootstrap", "run"])?;
    wait_state(&gateway, "ready")?;
    wait_for("the file to go", STEP, || {
        (!gateway.path("enrolment.yaml").exists()).then_some(())
    })?;
    gateway.terminate()?;
    secrets_are_private(&gateway, &[PLANTED_SECRET])
}
