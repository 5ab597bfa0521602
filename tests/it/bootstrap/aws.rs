//! AWS IoT: a certificate that a whole fleet shares gets the gateway one of its own, by which it delivers.

use millrace_tests::certificates::Certificates;
use millrace_tests::ports::free_port;

use super::*;

/// What the claim certificate (`gw-1` by its name) may do, and what the gateway's own: as the policies of an account.
const POLICIES: &str = "user gw-1
topic write $aws/certificates/create-from-csr/json
topic read $aws/certificates/create-from-csr/json/+
topic write $aws/provisioning-templates/pumps/provision/json
topic read $aws/provisioning-templates/pumps/provision/json/+
user serial-42
topic readwrite millrace/#
topic readwrite $aws/things/pump-7/#
";

/// The broker is known by the authority of `[bootstrap]`: neither the core nor the configuration names another.
#[test]
fn a_claim_certificate_becomes_one_that_delivers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = directory.path();
    let pki = Certificates::make(place)?;
    std::fs::write(place.join("policies"), POLICIES)?;
    let tls_port = free_port()?;
    let lines = format!(
        "listener {tls_port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         use_identity_as_username true\nacl_file {}",
        pki.ca().display(),
        pki.server().display(),
        pki.server_key().display(),
        place.join("policies").display()
    );
    let broker = Broker::start_with(place, &lines)?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, pump_port) = plant::start_pump(place, &[])?;
    let configured = json!({"content": plant::small_pump_config(pump_port, &[0])});
    let device = json!({"thingName": "pump-7", "deviceConfiguration": configured});
    std::fs::write(place.join("device.json"), device.to_string())?;
    let port = broker.port.to_string();
    let account = Peer::start(
        "aws_fleet.py",
        &[
            "--port",
            &port,
            "--pki",
            ".",
            "--template",
            "pumps",
            "--answer",
            "device.json",
        ],
        place,
    )?;
    let mut gateway = Gateway::new(place);
    gateway.configure(&format!(
        "[bootstrap]\nprovider = \"aws-claim\"\nurl = \"mqtts://localhost:{tls_port}\"\nexternal_id = \"serial-42\"\n\
         spread = \"0s\"\nca_file = \"ca.pem\"\ntemplate = \"pumps\"\ncert_file = \"client.pem\"\n\
         key_file = \"client.key\"\nparameters = {{ Site = \"north\" }}\n\
         uplink = {{ vars = {{ prefix = \"millrace\" }} }}\n"
    ))?;
    gateway.start()?;
    subscriber.wait("data", STEP, |got| got.count("pump") > 10)?;
    wait_state(&gateway, "ready")?;
    let said = account.said();
    let last = said.last().context("questions")?;
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        last["asked"]["parameters"],
        json!({"SerialNumber": "serial-42", "Site": "north"})
    );
    let status = gateway.json(&["status"])?;
    assert_eq!(status["uplinks"][0]["profile"], "aws-iot");
    let current = gateway.data_dir().join("secrets/current");
    assert_eq!(
        std::fs::read(current.join("ca.pem"))?,
        std::fs::read(pki.ca())?
    );

    // The service is gone and the claim withdrawn: the certificate of its own is enough.
    drop(account);
    gateway.terminate()?;
    let claim = std::fs::read_to_string(pki.client_key())?;
    std::fs::remove_file(pki.client_key())?;
    let before = subscriber.look(|got| got.count("pump"));
    gateway.start()?;
    subscriber.wait("data by the certificate of its own", STEP, |got| {
        got.count("pump") > before + 10
    })?;
    assert!(!gateway.log().contains(&claim));
    Ok(())
}
