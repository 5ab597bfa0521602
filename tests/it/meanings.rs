//! What raw values mean, from end to end: states by name, scale by another register, totals over restarts.

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

const MAP: &str = "name,address,type,signal\n\
                   mode,holding:0,u16,constant 1\n\
                   watts,holding:1,i16,constant 1234\n\
                   watts_sf,holding:40,i16,constant -1\n\
                   energy,holding:41,u16,meter 0 200 1000\n";

const TAGS: &str = "name,address,type,states,scale_register,totaliser,rollover,scale,unit,writable\n\
                    mode,holding:0,u16,\"0=off, 1=running, 2=fault\",,,,,,true\n\
                    power,holding:1,i16,,holding:40,,,0.001,kW,true\n\
                    energy,holding:41,u16,,,true,1000,,Wh,\n";

fn value(gateway: &Gateway, tag: &str) -> Option<Value> {
    let rows = gateway.json(&["tags", tag]).ok()?;
    (rows[0]["quality"] == "good").then(|| rows[0]["value"].clone())
}

/// The total, once it is above this.
fn energy_above(gateway: &Gateway, least: u64) -> Result<u64> {
    wait_for("the total", STEP, || {
        let energy = value(gateway, "meter/energy")?.as_u64()?;
        (energy > least).then_some(energy)
    })
}

#[test]
fn states_scales_and_totals_are_read_written_exported_and_kept() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let map = directory.path().join("map.csv");
    std::fs::write(&map, MAP)?;
    let map = map.display().to_string();
    let sim = SimModbus::start(&["--map", &map], directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&format!(
        "[[device]]\nname = \"meter\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{}\"\nunit_id = 1\n\
         poll_interval = \"100ms\"\ntags_file = \"meter.csv\"\n",
        sim.port
    ))?;
    gateway.write("meter.csv", TAGS)?;
    gateway.start()?;

    // Over the top of its three digits.
    let before = energy_above(&gateway, 1_000)?;
    assert_eq!(value(&gateway, "meter/mode"), Some(json!("running")));
    assert_eq!(value(&gateway, "meter/power"), Some(json!(0.1234)));
    let read = gateway.json(&["read", "meter/mode"])?;
    assert_eq!(read[0]["value"], "running", "{read}");

    let written = gateway.json(&["write", "meter/mode", "fault"])?;
    assert_eq!(written["old"], "running", "{written}");
    assert_eq!(written["read_back"], "fault", "{written}");
    let written = gateway.json(&["write", "meter/power", "0.05"])?;
    assert_eq!(written["read_back"], 0.05, "{written}");
    let refused = gateway.cli(&["write", "meter/mode", "on"])?;
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.contains("0=off, 1=running, 2=fault"), "{refused}");

    gateway.terminate()?;
    gateway.start()?;
    let after = energy_above(&gateway, 0)?;
    ensure!(after >= before, "{before}, then {after}");

    let exported = gateway.cli(&["buffer", "export", "--tag", "meter/mode"])?;
    let exported = String::from_utf8_lossy(&exported.stdout).into_owned();
    let first = exported.lines().nth(1).context("no row")?;
    ensure!(first.contains("running"), "{exported}");
    Ok(())
}
