//! A look into the store of a running agent and of a stopped one.

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::plant;

/// Runs a subcommand that must succeed; its output.
fn output(gateway: &Gateway, args: &[&str]) -> Result<String> {
    let output = gateway.cli(args)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "millrace {}: {errors}",
        args.join(" ")
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The numbers and values of `pump/t1` in CSV.
fn csv_rows(csv: &str) -> Result<Vec<(u64, u64)>> {
    let mut lines = csv.lines();
    let heading: Vec<&str> = lines.next().context("a heading")?.split(',').collect();
    let column = |name: &str| {
        let at = heading.iter().position(|column| *column == name);
        at.with_context(|| format!("no column {name} in {heading:?}"))
    };
    let (seq, n, v) = (column("seq")?, column("n")?, column("v")?);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            ensure!(cells[n] == "t1", "{line}");
            Ok((cells[seq].parse()?, cells[v].parse()?))
        })
        .collect()
}

#[test]
fn peek_and_export_beside_the_agent_and_after_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&plant::small_pump_config(port, &[0, 1]))?;
    gateway.start()?;
    let peeked = wait_for("stored samples", STEP, || {
        let rows = gateway
            .json(&["buffer", "peek", "pump/t1", "-n", "3"])
            .ok()?;
        (rows.as_array()?.len() == 3).then_some(rows)
    })?;
    ensure!(peeked[0]["source"] == "pump" && peeked[0]["n"] == "t1");
    let value = peeked[0]["v"].as_u64().context("a number")?;
    assert_eq!(value % 1000, 1, "{peeked}");
    let chunks = gateway.json(&["buffer", "peek", "--chunks"])?;
    ensure!(chunks[0]["records"].as_u64() > Some(0), "{chunks}");

    // Through the agent: the socket is known, the directory is not.
    let running = output(&gateway, &["buffer", "export", "--tag", "pump/t1"])?;
    let running = csv_rows(&running)?;
    ensure!(running.len() >= 3 && running.is_sorted());

    gateway.terminate()?;
    let config = gateway.config_path().display().to_string();
    let file = gateway.path("out.csv");
    let to_file = file.display().to_string();
    let args = [
        "buffer", "export", "--config", &config, "--tag", "pump/t1", "-o", &to_file,
    ];
    ensure!(output(&gateway, &args)?.is_empty());
    let stopped = csv_rows(&std::fs::read_to_string(&file)?)?;
    ensure!(stopped.len() >= running.len());
    assert_eq!(stopped[..running.len()], running);

    let data_dir = gateway.data_dir().display().to_string();
    let args = [
        "buffer",
        "export",
        "--data-dir",
        &data_dir,
        "--format",
        "jsonl",
    ];
    let lines = output(&gateway, &args)?;
    let rows: Vec<Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let numbers: Vec<u64> = rows.iter().filter_map(|row| row["seq"].as_u64()).collect();
    ensure!(
        numbers.iter().copied().eq(1..=rows.len() as u64),
        "{numbers:?}"
    );
    ensure!(rows.len() > stopped.len());

    let nowhere = gateway.cli(&["buffer", "peek", "--data-dir", "nowhere"])?;
    let errors = String::from_utf8_lossy(&nowhere.stderr);
    ensure!(nowhere.status.code() == Some(1) && errors.contains("there is no store"));
    Ok(())
}
