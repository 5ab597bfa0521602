//! Listening in on a running agent: frames with their meaning, recorded, and played as the device that they were recorded
//! of.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::process::Process;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

const MAP: &str = "name,address,type,signal\nspeed,holding:0,u16,constant 1480\n\
                   level,holding:1,f32,constant 12.5\nrun,coil:3,bool,constant 1\n";

const TAGS: &str = "[[device.tag]]\nname = \"speed\"\naddress = \"holding:0\"\ntype = \"u16\"\n\n\
                    [[device.tag]]\nname = \"level\"\naddress = \"holding:1\"\ntype = \"f32\"\n\n\
                    [[device.tag]]\nname = \"run\"\naddress = \"coil:3\"\ntype = \"bool\"\n\n\
                    [[device.tag]]\nname = \"none\"\naddress = \"holding:400\"\ntype = \"u16\"\n\n";

fn device(driver: &str, name: &str, address: &str, unit: u8) -> String {
    format!(
        "[[device]]\nname = \"{name}\"\ndriver = \"{driver}\"\naddress = \"{address}\"\nunit_id = {unit}\n\
         poll_interval = \"200ms\"\ntimeout = \"2s\"\n\n{TAGS}"
    )
}

/// Values, or what is wrong, by tag; nothing while a tag has not been read.
fn values(gateway: &Gateway) -> Option<BTreeMap<String, String>> {
    let tags = gateway.json(&["tags"]).ok()?;
    let rows = tags.as_array()?.iter().map(|row| {
        let shown = match row["quality"].as_str()? {
            "good" => row["value"].to_string(),
            _ => row["reason"].as_str()?.to_owned(),
        };
        Some((row["tag"].as_str()?.to_owned(), shown))
    });
    rows.collect()
}

fn frames(text: &[u8]) -> Result<Vec<Value>> {
    let text = std::str::from_utf8(text)?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Serves a tape; where it is found.
fn play(directory: &Path, args: &[&str]) -> Result<(Process, String)> {
    let log = directory.join("play.log");
    let mut command = Command::new(program()?);
    command
        .args(["tape", "play"])
        .args(args)
        .current_dir(directory);
    let mut process = Process::start(&mut command, &log)?;
    let ready = wait_for("a played tape", STEP, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let ready = said.lines().find_map(|line| line.strip_prefix("ready "));
        ready
            .map(str::to_owned)
            .or_else(|| (!process.is_running()).then_some(said))
    })?;
    ensure!(process.is_running(), "millrace tape play: {ready}");
    Ok((process, ready))
}

#[test]
fn recorded_device_is_read_again_from_its_tape() -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("map.csv"), MAP)?;
    let faults = ["--map", "map.csv", "--fault", "exception 4 every 9"];
    let mut sim = SimModbus::start(&faults, directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    let address = format!("127.0.0.1:{}", sim.port);
    gateway.configure(&device("modbus-tcp", "pump", &address, 1))?;
    gateway.start()?;

    let traced = gateway.cli(&["trace", "pump", "--count", "40", "--json"])?;
    ensure!(traced.status.success(), "{traced:?}");
    let traced = frames(&traced.stdout)?;
    assert_eq!(traced.len(), 40);
    let read = traced
        .iter()
        .find(|frame| frame["way"] == "received" && frame["range"]["table"] == "holding")
        .context("a reply with registers")?;
    assert_eq!(read["values"][0], 1480, "{read}");
    assert!(
        read["since_ms"].as_f64().is_some() && read["at"].is_string(),
        "{read}"
    );
    let refused = traced
        .iter()
        .find(|frame| frame["exception"]["code"] == 4)
        .context("the fault of the device")?;
    assert_eq!(
        refused["exception"]["name"], "server device failure",
        "{refused}"
    );

    let recorded = gateway.json(&["tape", "record", "pump", "pump.tape", "--for", "4s"])?;
    assert!(recorded["frames"].as_u64() > Some(20), "{recorded}");
    let again = gateway.cli(&["tape", "record", "pump", "pump.tape"])?;
    assert_eq!(again.status.code(), Some(2), "a file that is there stays");
    let expected = wait_for("values of the device", STEP, || {
        values(&gateway).filter(|values| {
            let all = ["12.5", "illegal-address", "true", "1480"];
            values.values().eq(all)
        })
    })?;
    assert_eq!(gateway.terminate()?.code(), Some(0));
    sim.kill();
    drop(sim);

    let (_played, ready) = play(directory.path(), &["pump.tape", "--listen", &address])?;
    assert_eq!(ready, format!("tcp://{address}/1"));
    gateway.start()?;
    let found = wait_for("the same values from the tape", STEP, || {
        values(&gateway).filter(|values| *values == expected)
    });
    found.with_context(|| format!("{expected:?}, not {:?}", values(&gateway)))?;
    // The fault of the device is on the tape, too.
    let status = gateway.cli(&["trace", "pump", "--count", "40", "--json"])?;
    let replayed = frames(&status.stdout)?;
    assert!(
        replayed.iter().any(|frame| frame["way"] == "received"),
        "{replayed:?}"
    );
    let nobody = gateway.cli(&["trace", "nobody"])?;
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(said.contains("there are: pump"), "{said}");
    Ok(())
}

#[test]
fn of_a_line_each_device_has_its_own_frames() -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("map.csv"), MAP)?;
    let (line, port) = SimModbus::start_line(
        &[
            "--map",
            "map.csv",
            "--units",
            "3,4",
            "--fault",
            "unit 4: crc every 5",
        ],
        directory.path(),
    )?;
    let mut gateway = Gateway::new(directory.path());
    let config = |port: &str| {
        format!(
            "[[line]]\nname = \"bus\"\nport = \"{port}\"\nbaud = 115200\n\n{}{}",
            device("modbus-rtu", "three", "bus", 3),
            device("modbus-rtu", "four", "bus", 4)
        )
    };
    gateway.configure(&config(&port))?;
    gateway.start()?;
    let frames_of = |name: &str| -> Result<Vec<Value>> {
        let traced = gateway.cli(&["trace", name, "--count", "60", "--json"])?;
        ensure!(traced.status.success(), "{traced:?}");
        frames(&traced.stdout)
    };
    let all = frames_of("bus")?;
    for unit in [3, 4] {
        assert!(all.iter().any(|frame| frame["unit"] == unit), "{unit}");
    }
    let four = frames_of("four")?;
    assert!(four.iter().all(|frame| frame["unit"] == 4), "{four:?}");
    let spoilt = four
        .iter()
        .find(|frame| frame["checksum"]["found"] != frame["checksum"]["right"])
        .context("a wrong checksum")?;
    assert!(
        spoilt["wrong"]
            .as_str()
            .is_some_and(|wrong| wrong.contains("would be right"))
    );

    let recorded = gateway.json(&["tape", "record", "bus", "bus.tape", "--for", "4s"])?;
    assert!(recorded["frames"].as_u64() > Some(20), "{recorded}");
    assert_eq!(recorded["missed"], 0, "{recorded}");
    let whole = |values: &BTreeMap<String, String>| {
        let none = values.iter().filter(|(name, _)| name.ends_with("none"));
        none.clone().count() == 2 && none.into_iter().all(|(_, v)| v == "illegal-address")
    };
    let right = wait_for("values of both units", STEP, || {
        values(&gateway).filter(|values| whole(values) && values["four/speed"] == "1480")
    })?;
    gateway.terminate()?;
    drop(line);

    let shown = gateway.cli(&["tape", "show", "bus.tape"])?;
    let text = String::from_utf8(shown.stdout)?;
    assert!(
        text.contains("unit 3: holding:0") && text.contains("CRC ok"),
        "{text}"
    );
    let (_played, port) = play(directory.path(), &["bus.tape"])?;
    gateway.configure(&config(&port))?;
    gateway.start()?;
    wait_for("the same values from the tape", STEP, || {
        values(&gateway).filter(|values| *values == right)
    })?;

    // One digit of the tape is changed: it is refused, with the place.
    let tape = std::fs::read_to_string(gateway.path("bus.tape"))?;
    let (head, record) = tape.split_at(tape.find("> 0").context("a request")? + 4);
    let other = if record.starts_with('3') { "4" } else { "3" };
    gateway.write("bad.tape", &format!("{head}{other}{}", &record[1..]))?;
    let refused = gateway.cli(&["tape", "play", "bad.tape"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("line 3 is damaged"), "{said}");
    Ok(())
}
