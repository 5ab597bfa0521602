//! Several uplinks side by side, and brokers that refuse: each uplink has its own place, its own sources and its own
//! account.

use std::path::Path;

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::received::Received;
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::ledger;
use crate::plant;

fn uplink(name: &str, port: u16, more: &str) -> String {
    format!(
        "[[uplink]]\nname = \"{name}\"\nclient_id = \"{name}\"\nurl = \"mqtt://127.0.0.1:{port}\"\n{more}\n"
    )
}

/// A broker with a directory of its own.
fn broker(directory: &Path, name: &str, lines: &str) -> Result<Broker> {
    let directory = directory.join(name);
    std::fs::create_dir(&directory)?;
    Broker::start_with(&directory, lines)
}

/// State and queue of each uplink, by `uplink list` and `status`.
fn states(gateway: &Gateway) -> Result<Vec<(String, String)>> {
    let listed = gateway.json(&["uplink", "list"])?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = listed.as_array().context("a list")?;
    Ok(rows
        .iter()
        .map(|row| (text(row, "name"), text(row, "state")))
        .collect())
}

fn states_are(gateway: &Gateway, expected: &[(&str, &str)]) -> Result<()> {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
        .collect();
    wait_for("the states of the uplinks", STEP, || {
        (states(gateway).ok()? == expected).then_some(())
    })
}

#[test]
fn two_uplinks_have_their_own_routes_outages_and_accounts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let cloud = broker(directory.path(), "cloud", "")?;
    let mut plant = broker(directory.path(), "plant", "")?;
    let at_cloud = Subscriber::start(cloud.port)?;
    let at_plant = Subscriber::start(plant.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let devices = plant::small_pump_config(port, &[0])
        + &plant::small_pump_config(port, &[7]).replace("\"pump\"", "\"tank\"");
    let to_cloud = uplink("cloud", cloud.port, "");
    let to_plant = uplink("plant", plant.port, "route = [\"pump\"]\n");
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&format!("{to_cloud}{to_plant}{devices}"))?;
    gateway.start()?;
    at_cloud.wait("both devices", STEP, |got| {
        got.count("pump") > 5 && got.count("tank") > 5
    })?;
    at_plant.wait("the pump", STEP, |got| got.count("pump") > 5)?;

    // One is down: the other goes on.
    plant.stop()?;
    states_are(&gateway, &[("cloud", "connected"), ("plant", "down")])?;
    let status = gateway.json(&["status"])?;
    assert!(
        status["problems"].to_string().contains("uplink plant"),
        "{status}"
    );
    let before = at_cloud.look(|got| got.count("pump"));
    at_cloud.wait("the pump goes on", STEP, |got| {
        got.count("pump") > before + 20
    })?;
    let ledger = gateway.json(&["ledger", "--verify"])?;
    let row = |uplink: &str, key: &str| ledger["uplinks"][uplink]["devices"]["pump"][key].as_u64();
    assert!(row("plant", "queued") >= Some(20), "{ledger}");
    assert!(row("cloud", "queued") < row("plant", "queued"), "{ledger}");
    plant.restart()?;
    states_are(&gateway, &[("cloud", "connected"), ("plant", "connected")])?;
    at_plant.wait("all of the pump", STEP, |got| {
        got.count("pump") > before + 20
    })?;

    // One goes and another comes, while the agent runs.
    let pid = gateway.pid();
    let late = uplink("late", plant.port, "route = [\"tank\"]\n");
    gateway.configure(&format!("{to_cloud}{late}{devices}"))?;
    gateway.signal("HUP")?;
    at_plant.wait("the new uplink", STEP, |got| got.count("tank") > 5)?;
    states_are(&gateway, &[("cloud", "connected"), ("late", "connected")])?;
    assert_eq!(gateway.pid(), pid);
    let ledger = gateway.json(&["ledger", "--verify"])?;
    let names: Vec<_> = ledger["uplinks"]
        .as_object()
        .context("uplinks")?
        .keys()
        .collect();
    assert_eq!(names, ["cloud", "late"], "{ledger}");
    let tank = &ledger["uplinks"]["late"]["devices"]["tank"];
    assert!(
        tank["dropped"]["before-start"].as_u64() > Some(0),
        "{ledger}"
    );
    assert!(tank["acked"].as_u64() > Some(0), "{ledger}");
    ledger::verified(&gateway)?;

    gateway.terminate()?;
    let (at_cloud, at_plant) = (at_cloud.stop(), at_plant.stop());
    for got in [&at_cloud, &at_plant] {
        assert_eq!(got.violations, Vec::<String>::new());
        assert!(got.gaps.is_empty(), "{:?}", got.gaps);
        assert_eq!(got.line("pump")?.holes(), []);
    }
    assert_eq!(at_cloud.line("tank")?.holes(), []);
    // What is older than the uplink does not go there, and nothing else is missing.
    let holes = at_plant.line("tank")?.holes();
    assert!(
        matches!(&holes[..], [before] if *before.start() == 1),
        "{holes:?}"
    );
    Ok(())
}

/// A source whose shortest message is larger than what the broker takes.
const LONG: &str = "a-device-with-a-name-that-makes-each-of-its-messages-too-large-1";

#[test]
fn a_source_that_mosquitto_refuses_waits_aside_and_the_other_goes_on() -> Result<()> {
    a_source_is_withheld("3.1.1")
}

#[test]
fn a_source_too_large_for_what_mosquitto_announces_waits_aside_too() -> Result<()> {
    a_source_is_withheld("5")
}

fn a_source_is_withheld(protocol: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    // By 3.1.1 `max_packet_size` closes the connection (docs/decisions/0006-refusals.md); by 5 it is announced.
    let mut core = broker(directory.path(), "core", "max_packet_size 300")?;
    let subscriber = Subscriber::start(core.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let devices = plant::small_pump_config(port, &[0])
        + &plant::small_pump_config(port, &[7]).replace("\"pump\"", &format!("\"{LONG}\""));
    let mut gateway = Gateway::new(directory.path());
    let to_core = uplink(
        "core",
        core.port,
        &format!("poison_after = 2\nprotocol = \"{protocol}\"\n"),
    );
    gateway.configure(&format!("{to_core}{devices}"))?;
    gateway.start()?;
    wait_for("it is withheld and said so", STEP * 2, || {
        let status = gateway.json(&["status"]).ok()?;
        let problems = status["problems"].to_string();
        (status["uplinks"][0]["refused_sources"][0] == LONG && problems.contains(LONG))
            .then_some(())
    })?;
    let before = subscriber.look(|got| got.count("pump"));
    subscriber.wait("the other goes on", STEP, |got| {
        got.count("pump") > before + 20
    })?;
    let poison = gateway.json(&["buffer", "poison", "list"])?;
    let rows = poison.as_array().context("rows")?;
    assert!(rows.iter().all(|row| row["source"] == LONG), "{poison}");
    let withheld = rows.iter().find(|row| row["tries"] == 0);
    let withheld = withheld.and_then(|row| row["records"].as_u64());
    assert!(withheld > Some(10), "{poison}");
    assert_eq!(ledger::verified(&gateway)?[LONG].acked, 0);
    gateway.terminate()?;

    // The list outlives the program; one row of it is given up, the others go once they may.
    core.stop()?;
    gateway.start()?;
    let poison = gateway.json(&["buffer", "poison", "list"])?;
    let rows = poison.as_array().context("rows")?;
    let records = |row: &&Value| row["records"].as_u64();
    let least = rows.iter().min_by_key(records).context("a row")?;
    let (id, given_up) = (least["id"].to_string(), records(&least));
    assert!(
        gateway
            .cli(&["buffer", "poison", "drop", &id])?
            .status
            .success()
    );
    core.restart_with("")?;
    let told = |got: &Received| -> Vec<_> {
        let poison = got.gaps_of(LONG).filter(|gap| gap.reason == "poison");
        poison
            .filter_map(|gap| Some(gap.first..=gap.last?))
            .collect()
    };
    subscriber.wait("the gap", STEP, |got| {
        let numbers = told(got).into_iter().flatten();
        Some(numbers.count() as u64) == given_up
    })?;
    subscriber.wait("what comes now", STEP, |got| got.count(LONG) > 0)?;
    assert!(
        gateway
            .cli(&["buffer", "poison", "retry", "--all"])?
            .status
            .success()
    );
    subscriber.wait("all but these", STEP, |got| {
        got.line(LONG).is_ok_and(|line| {
            line.holes()
                .into_iter()
                .flatten()
                .eq(told(got).into_iter().flatten())
        })
    })?;
    assert_eq!(
        gateway.json(&["buffer", "poison", "list"])?,
        Value::Array(Vec::new())
    );
    let dropped = &ledger::verified(&gateway)?[LONG].dropped;
    assert_eq!(dropped.get("poison").copied(), given_up);
    gateway.terminate()?;
    assert_eq!(subscriber.stop().violations, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_backlog_of_messages_too_large_for_mosquitto_goes_in_parts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut core = broker(directory.path(), "core", "max_packet_size 2000")?;
    let subscriber = Subscriber::start(core.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    let to_core = uplink("core", core.port, "");
    core.stop()?;
    gateway.configure(&format!(
        "{to_core}{}",
        plant::small_pump_config(port, &[0, 1, 2])
    ))?;
    gateway.start()?;
    wait_for("a backlog", STEP, || {
        (ledger::verified(&gateway).ok()?.get("pump")?.queued > 200).then_some(())
    })?;
    core.restart()?;
    subscriber.wait("all of it", STEP * 2, |got| {
        got.count("pump") > 200 && got.line("pump").is_ok_and(|line| line.holes().is_empty())
    })?;
    assert_eq!(
        gateway.json(&["buffer", "poison", "list"])?,
        Value::Array(Vec::new())
    );
    gateway.terminate()?;
    assert_eq!(subscriber.stop().violations, Vec::<String>::new());
    Ok(())
}

/// A mosquitto that takes the topics of the tank only, and an agent with a pump and a tank.
fn forbidden(directory: &Path, protocol: &str) -> Result<(Broker, Subscriber, Gateway, SimModbus)> {
    std::fs::write(
        directory.join("acl"),
        "topic readwrite millrace/gw-1/status\ntopic readwrite millrace/gw-1/data/tank\ntopic read #\n",
    )?;
    let acl = format!("acl_file {}", directory.join("acl").display());
    let core = broker(directory, "core", &acl)?;
    let subscriber = Subscriber::start(core.port)?;
    let mut gateway = Gateway::new(directory);
    gateway.write(
        "map.csv",
        "name,address,type,signal\na,holding:0,u32,counter\n",
    )?;
    let sim = SimModbus::start(&["--map", "map.csv"], directory)?;
    let pump = plant::small_pump_config(sim.port, &[0]);
    let tank = pump.replace("\"pump\"", "\"tank\"");
    let protocol = format!("protocol = \"{protocol}\"");
    let core_uplink = uplink("core", core.port, &protocol);
    gateway.configure(&format!("{core_uplink}{pump}{tank}"))?;
    gateway.start()?;
    subscriber.wait("what is permitted", STEP, |got| got.count("tank") > 5)?;
    Ok((core, subscriber, gateway, sim))
}

/// What mosquitto acknowledges with MQTT 3.1.1 and throws away no client can see (docs/decisions/0006-refusals.md); if a newer
/// one says so, this fails and the page is to be written anew.
#[test]
fn mosquitto_acknowledges_what_it_throws_away() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_core, subscriber, gateway, _sim) = forbidden(directory.path(), "3.1.1")?;
    wait_for("the pump counts as delivered", STEP, || {
        (ledger::verified(&gateway).ok()?.get("pump")?.acked > 5).then_some(())
    })?;
    assert_eq!(subscriber.stop().count("pump"), 0);
    Ok(())
}

#[test]
fn with_mqtt_5_mosquitto_names_what_it_refuses_and_nothing_of_it_is_settled() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_core, subscriber, gateway, _sim) = forbidden(directory.path(), "5")?;
    wait_for("the source in status", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["uplinks"][0]["refused_sources"][0] == "pump").then_some(())
    })?;
    let pump = ledger::verified(&gateway)?
        .remove("pump")
        .context("the pump")?;
    assert!(pump.acked == 0 && pump.queued > 0, "{pump:?}");
    let got = subscriber.stop();
    assert_eq!((got.count("pump"), got.violations.len()), (0, 0));
    Ok(())
}
