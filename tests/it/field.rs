//! What a field engineer does before there is a configuration, and beside an agent that holds the port.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::process::Process;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::json;

/// Three units on a serial port whose settings nobody has written down: 38400 8O1.
fn start_line(directory: &Path) -> Result<(Process, String)> {
    let map = "unit,name,address,type\n2,a,holding:0,u16\n17,b,holding:0,f32\n200,c,input:0,u16\n";
    std::fs::write(directory.join("line.csv"), map)?;
    let log = directory.join("line.log");
    let mut command = Command::new(program()?);
    command
        .args(["sim", "modbus", "--transport", "rtu", "--line", "38400,8O1"])
        .args(["--map", "line.csv"])
        .current_dir(directory);
    let mut process = Process::start(&mut command, &log)?;
    let port = wait_for("a simulated line", STEP, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let ready = said.lines().find_map(|line| line.strip_prefix("ready "));
        ready.map(str::to_owned).or_else(|| {
            let dead = !process.is_running();
            dead.then(String::new)
        })
    })?;
    ensure!(!port.is_empty(), "millrace sim modbus ended");
    Ok((process, port))
}

#[test]
fn scanned_line_runs_as_printed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_line, port) = start_line(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    // The machine of the test may be slow: few silent units, and time for each.
    let mut scan = vec!["scan", "serial", &port, "--timeout", "300ms"];
    scan.extend(["--baud", "9600,38400", "--frame", "8N1,8O1"]);
    scan.extend(["--units", "1-4,15-18,199-201"]);
    let found = gateway.cli(&scan)?;
    ensure!(found.status.success(), "{found:?}");
    let printed = String::from_utf8(found.stdout)?;
    for part in [
        "baud = 38400",
        "parity = \"odd\"",
        "unit_id = 2\n",
        "unit_id = 17\n",
        "unit_id = 200\n",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    gateway.configure(&printed)?;
    gateway.start()?;
    let tags = wait_for("good tags of all units", STEP, || {
        let tags = gateway.json(&["tags"]).ok()?;
        let rows = tags.as_array()?;
        let good = rows.iter().filter(|row| row["quality"] == "good").count();
        (good == 3).then_some(tags)
    })?;
    assert_eq!(tags.as_array().map(Vec::len), Some(3), "{tags}");

    // The agent holds the port now: tools go through its line.
    let found = gateway.json(&[
        "scan",
        "serial",
        "line-1",
        "--units",
        "1-3,17",
        "--timeout",
        "1s",
    ])?;
    assert_eq!(found["line"], "line-1");
    assert_eq!(
        found["units"]
            .as_array()
            .map(|units| units.iter().map(|unit| unit["unit"].clone()).collect()),
        Some(vec![json!(2), json!(17)]),
        "{found}"
    );
    let refused = gateway.cli(&["scan", "serial", &port, "--baud", "9600"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("the agent holds"),
        "{said}"
    );
    let refused = gateway.cli(&["read", "--on", &format!("{port},9600,8N1/2"), "holding:0"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("at 38400 8O1"), "{said}");

    let who = gateway.json(&["identify", "unit-17"])?;
    assert_eq!(who["objects"]["vendor"], "Millrace");
    let on = format!("{port},38400,8O1/2");
    let written = gateway.json(&["write", "--on", &on, "holding:0", "4711"])?;
    assert_eq!(written["read_back"], 4711, "{written}");
    let read = gateway.json(&["read", "--on", &on, "holding:0"])?;
    assert_eq!(read[0]["value"], 4711, "{read}");
    let probed = gateway.json(&[
        "probe-value",
        "--on",
        "unit-2",
        "--near",
        "holding:0",
        "471.1",
    ])?;
    assert_eq!(probed["fits"][0]["type"], "u16", "{probed}");
    assert_eq!(probed["fits"][0]["scale"], 0.1, "{probed}");
    let unfit = gateway.cli(&["write", "--on", &on, "holding:0", "70000"])?;
    let said = String::from_utf8_lossy(&unfit.stderr).into_owned();
    assert!(said.contains("0 to 65535"), "{said}");
    assert!(gateway.log().contains("a tool writes"), "{}", gateway.log());
    Ok(())
}

#[test]
fn scanned_host_shows_what_can_be_read() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let sim = SimModbus::start(&["--fault", "hole holding:30+3"], directory.path())?;
    let gateway = Gateway::new(directory.path());
    let host = format!("127.0.0.1:{}", sim.port);
    let found = gateway.json(&["scan", "modbus", &host, "--addresses", "0-499"])?;
    assert_eq!(found["any_unit"], true, "{found}");
    let units = found["units"].as_array().context("units")?;
    assert_eq!(units.len(), 1, "{found}");
    let holding = &units[0]["tables"][0];
    assert_eq!(holding["ranges"], json!([[0, 29], [33, 199]]), "{found}");
    assert_eq!(units[0]["tables"][2]["ranges"], json!([]), "{found}");
    let nobody = gateway.cli(&["scan", "modbus", "127.0.0.1:1", "--units", "1"])?;
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(
        !nobody.status.success() && said.contains("hint: "),
        "{said}"
    );
    Ok(())
}
