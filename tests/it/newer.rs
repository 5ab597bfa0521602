//! A downgrade: what a newer version of the program wrote is named with the way back, does not keep the agent from its work,
//! and is on the disk as it was when the newer version comes back. The store is the affair of `store.rs`, shelves of models of the
//! agent's own tests.

use anyhow::{Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};

use crate::ledger;

/// Files of a later form: where they are, what they hold, what is said of them.
const LATER: [(&str, &str, &str); 3] = [
    (
        "commands.journal",
        "{\"millrace_commands\":99}\n{\"later\":1}\n",
        "form 99",
    ),
    (
        "totals",
        "millrace-totals 99\n{\"later\":1}\n",
        "a newer version of millrace wrote the totals",
    ),
    (
        "secrets/enrolment.json",
        "{\"format\":\"millrace-enrolment\",\"version\":99,\"active\":[\"later\"]}",
        "enrolment.json is of a newer version of millrace; install that one again",
    ),
];

const CONFIG: &str = r#"
[bootstrap]
provider = "hmac-claim"
url = "https://127.0.0.1:9/claim"
external_id = "gw-1"
external_key_file = "env:HOME"

[[device]]
name = "meter"
driver = "modbus-tcp"
address = "127.0.0.1:PORT"
unit_id = 1
poll_interval = "20ms"
tags_file = "meter.csv"
"#;

#[test]
fn what_a_newer_version_wrote_waits_for_it_and_is_said() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    let sim = SimModbus::start(&["--tags", "2"], directory.path())?;
    gateway.write(
        "meter.csv",
        "name,address,type,totaliser\nenergy,holding:0,u32,true\nflow,holding:2,u32,\n",
    )?;
    for (path, text, _) in LATER {
        let path = gateway.data_dir().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        std::fs::write(path, text)?;
    }
    gateway.configure(&CONFIG.replace("PORT", &sim.port.to_string()))?;

    gateway.start()?;
    wait_for("samples all the same", STEP, || {
        let rows = ledger::verified(&gateway).ok()?;
        rows.get("meter").filter(|row| row.acquired > 10).map(drop)
    })?;
    for (path, _, named) in LATER {
        wait_for(path, STEP, || gateway.log().contains(named).then_some(()))
            .map_err(|error| error.context(gateway.log()))?;
    }
    let status = String::from_utf8(gateway.cli(&["bootstrap", "status"])?.stdout)?;
    ensure!(status.contains("newer version of millrace"), "{status}");

    gateway.terminate()?;
    for (path, text, _) in LATER {
        let kept = std::fs::read_to_string(gateway.data_dir().join(path))?;
        ensure!(kept == text, "{path} was changed: {kept}");
    }
    Ok(())
}
