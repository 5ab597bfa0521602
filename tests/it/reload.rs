//! SIGHUP: a changed configuration is applied without a gap; a broken one changes nothing and is named.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::received::Received;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};

use crate::ledger;
use crate::plant;

/// Good samples of a tag that came so far.
fn good(got: &Received, source: &str, tag: &str) -> usize {
    got.of_tag(source, tag)
        .filter(|sample| sample.quality.is_none())
        .count()
}

#[test]
fn a_changed_configuration_is_applied_and_numbers_go_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let uplink = plant::uplink_config(broker.port);
    let tank = plant::small_pump_config(port, &[7]).replace("\"pump\"", "\"tank\"");
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&format!(
        "{uplink}{}{tank}",
        plant::small_pump_config(port, &[0])
    ))?;
    gateway.start()?;
    subscriber.wait("two devices", STEP, |got| {
        good(got, "pump", "t0") > 5 && good(got, "tank", "t7") > 5
    })?;
    let pid = gateway.pid();

    // A tag more, a device less.
    gateway.configure(&format!(
        "{uplink}{}",
        plant::small_pump_config(port, &[0, 1])
    ))?;
    gateway.signal("HUP")?;
    subscriber.wait("the new tag", STEP, |got| good(got, "pump", "t1") > 5)?;
    let status = gateway.json(&["status"])?;
    assert_eq!(status["config"]["source"], "configured", "{status}");
    assert_eq!(status["devices"].as_array().map(Vec::len), Some(1));
    assert_eq!(gateway.pid(), pid);
    let acquired = ledger::verified(&gateway)?;
    let tank = acquired.get("tank").context("no number is forgotten")?;
    assert!(tank.acquired > 5, "{tank:?}");

    gateway.terminate()?;
    let tank = ledger_after(&gateway)?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert!(got.gaps.is_empty(), "{:?}", got.gaps);
    for source in ["pump", "tank"] {
        assert_eq!(got.line(source)?.holes(), [], "{source}");
    }
    assert_eq!(
        got.count("tank") as u64,
        tank,
        "the old device's last values"
    );
    // The broker never saw the will: the session was ended properly.
    assert!(gateway.log().contains("applying the changed configuration"));
    Ok(())
}

/// What the ledger has of `tank` after a start without any device.
fn ledger_after(gateway: &Gateway) -> Result<u64> {
    let mut again = Gateway::new(gateway.config_path().parent().context("a directory")?);
    again.configure("")?;
    again.start()?;
    let rows = ledger::verified(&again)?;
    Ok(rows.get("tank").context("tank")?.acquired)
}

#[test]
fn a_broken_configuration_changes_nothing_and_status_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&plant::small_pump_config(port, &[0, 1]))?;
    gateway.start()?;
    let reads = |gateway: &Gateway| {
        let status = gateway.json(&["status"]).ok()?;
        status["devices"][0]["reads_total"].as_u64()
    };
    wait_for("reads", STEP, || reads(&gateway).filter(|n| *n > 5))?;

    let config = plant::small_pump_config(port, &[0, 1]);
    gateway.configure(&config.replace("\"u32\"", "\"u33\""))?;
    gateway.signal("HUP")?;
    let status = wait_for("a status that says so", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let problems = status["config"]["problems"].as_array()?;
        (!problems.is_empty()).then_some(status)
    })?;
    assert_eq!(status["config"]["source"], "configured", "{status}");
    assert!(status["config"].to_string().contains("u33"), "{status}");
    assert!(
        status["problems"].to_string().contains("millrace check"),
        "{status}"
    );
    let before = reads(&gateway).context("reads")?;
    wait_for("polling all the same", STEP, || {
        reads(&gateway).filter(|n| *n > before + 5)
    })?;

    gateway.configure(&config)?;
    gateway.signal("HUP")?;
    wait_for("a clean status", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let clean = status["config"]["problems"].as_array()?.is_empty();
        (clean && status["devices"][0]["tags_good"] == 2).then_some(())
    })
}

#[test]
fn a_stop_does_not_wait_for_who_follows() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&plant::small_pump_config(port, &[0]))?;
    gateway.start()?;
    let mut followers = [
        gateway.follow(&["events", "--follow"])?,
        gateway.follow(&["tags", "--follow"])?,
    ];
    wait_for("followed values", STEP, || {
        gateway.followed("tags").contains("pump/t0").then_some(())
    })?;
    let status = gateway.terminate()?;
    assert!(status.success(), "{status}: {}", gateway.log());
    assert!(!gateway.path("millrace.sock").exists());
    for follower in &mut followers {
        follower.wait(STEP)?;
    }
    Ok(())
}
