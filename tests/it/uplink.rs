//! The session with a real broker: TLS with a private CA and a client certificate, and a clean stop.

use anyhow::Result;
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::certificates::Certificates;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};

use crate::plant;

#[test]
fn tls_with_a_private_ca_and_a_client_certificate_delivers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path())?;
    let broker = Broker::start_tls(directory.path(), &certificates)?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    let uplink = tls_uplink(&broker, "ca.pem");
    gateway.configure(&(uplink + &plant::small_pump_config(port, &[0, 1])))?;
    gateway.start()?;
    subscriber.wait("data over TLS", STEP, |got| got.count("pump") > 10)?;
    assert_eq!(subscriber.stop().violations, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_broker_of_another_ca_is_refused_and_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let foreign = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path())?;
    let other = Certificates::make(foreign.path())?;
    std::fs::copy(other.ca(), directory.path().join("other-ca.pem"))?;
    let broker = Broker::start_tls(directory.path(), &certificates)?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(
        &(tls_uplink(&broker, "other-ca.pem") + &plant::small_pump_config(port, &[0, 1])),
    )?;
    gateway.start()?;
    let error = wait_for("the cause in status", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        status["uplinks"][0]["error"]
            .as_str()
            .map(str::to_lowercase)
    })?;
    assert!(
        error.contains("certificate") || error.contains("issuer"),
        "{error}"
    );
    assert_eq!(subscriber.look(|got| got.count("pump")), 0);
    Ok(())
}

#[test]
fn sigterm_commits_everything_and_the_next_start_has_no_gap() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(
        &(plant::uplink_config(broker.port) + &plant::small_pump_config(port, &[0, 1])),
    )?;
    for cycle in 1..=3 {
        gateway.start()?;
        subscriber.wait("live data", STEP, |got| got.count("pump") > 10 * cycle)?;
        let status = gateway.terminate()?;
        assert!(status.success(), "{status}: {}", gateway.log());
    }
    subscriber.wait("offline at last", STEP, |got| {
        got.statuses
            .last()
            .is_some_and(|status| status["online"] == false)
    })?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert!(got.statuses.iter().any(|status| status["online"] == true));
    assert_eq!(got.line("pump")?.holes(), []);
    assert!(got.gaps.is_empty(), "{:?}", got.gaps);
    Ok(())
}

#[test]
fn the_will_says_offline_when_the_agent_is_killed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&plant::uplink_config(broker.port))?;
    gateway.start()?;
    subscriber.wait("online", STEP, |got| {
        got.statuses.iter().any(|status| status["online"] == true)
    })?;
    gateway.kill();
    subscriber.wait("offline", STEP, |got| {
        got.statuses
            .last()
            .is_some_and(|status| status["online"] == false)
    })
}

fn tls_uplink(broker: &Broker, ca: &str) -> String {
    format!(
        "[[uplink]]\nname = \"cloud\"\nprofile = \"generic\"\nurl = \"mqtts://localhost:{}\"\nca_file = \"{ca}\"\n\
         cert_file = \"client.pem\"\nkey_file = \"client.key\"\n\n",
        broker.tls_port
    )
}
