//! An OPC UA device over restarts of the agent: what its server sent meanwhile is filled in or marked, once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::process::free_port;
use millrace_tests::wait::{STEP, wait_for};
use millrace_tests::{checkout, peer::python};
use serde_json::Value;

/// The foreign server of the recovery tests of `drivers`.
struct Plant {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Asyncua,
    NodeOpcua,
}

impl Plant {
    /// `None` where it is not installed.
    fn start(kind: Kind, directory: &Path, options: &[&str]) -> Result<Option<Plant>> {
        let peers = checkout().join("drivers/tests/peers");
        let mut command = match kind {
            Kind::Asyncua => {
                let mut command = Command::new(python()?);
                command.arg(peers.join("asyncua_plant.py"));
                command
            }
            Kind::NodeOpcua if peers.join("node/node_modules/node-opcua").is_dir() => {
                let mut command = Command::new("node");
                command.arg(peers.join("node/plant.js"));
                command
            }
            Kind::NodeOpcua => {
                eprintln!("skipped: node-opcua is not installed (tests/setup.sh)");
                return Ok(None);
            }
        };
        let port = free_port()?;
        let mut child = command
            .arg(port.to_string())
            .arg(directory)
            .arg("correct horse")
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let asks = child.stdin.take().context("stdin")?;
        let answers = BufReader::new(child.stdout.take().context("stdout")?);
        let mut plant = Plant {
            child,
            asks,
            answers,
            port,
        };
        let ready = plant.line()?;
        ensure!(ready == "ready", "{ready:?}");
        Ok(Some(plant))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn tell(&mut self, line: &str) -> Result<Value> {
        writeln!(self.asks, "{line}")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn ask(&mut self, what: &str) -> Result<u64> {
        let answer = self.tell(&format!("{{\"ask\":\"{what}\"}}"))?;
        answer.as_u64().with_context(|| what.to_owned())
    }

    /// The device's table, with these tags more.
    fn config(&self, directory: &Path, more: &str) -> String {
        format!(
            "[buffer]\ncommit_interval = \"200ms\"\n\n[[device]]\nname = \"press\"\ndriver = \"opcua\"\n\
             address = \"opc.tcp://127.0.0.1:{}/plant\"\nsecurity = \"Basic256Sha256\"\nserver_cert_file = \"{}\"\n\
             username = \"gateway\"\npassword_file = \"password\"\npublish_interval = \"100ms\"\n\
             sampling_interval = \"0s\"\nqueue_size = 5000\n\n{}{}{more}",
            self.port,
            directory.join("cert.der").display(),
            tag("Counter", "scale = 2.0\n"),
            tag("Fixed", ""),
        )
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tag(name: &str, more: &str) -> String {
    format!(
        "[[device.tag]]\nname = \"{name}\"\naddress = \"nsu=urn:millrace:plant;s={name}\"\n{more}\n"
    )
}

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
    /// It goes on with a tag more.
    Reload,
}

/// The counter as the agent shows it; its tag doubles it.
fn shown(gateway: &Gateway) -> Option<u64> {
    let rows = gateway.json(&["tags", "press/Counter"]).ok()?;
    Some(rows[0]["value"].as_f64()? as u64 / 2)
}

/// A stored sample of the counter: its source time and count, or a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Count(i64, u64),
    Lost,
}

/// What is stored of the tags, by the number of the sample.
fn stored(gateway: &Gateway) -> Result<BTreeMap<String, Vec<Stored>>> {
    let data_dir = gateway.data_dir();
    let data_dir = data_dir.to_str().context("a name")?;
    let exported = gateway.cli(&[
        "buffer",
        "export",
        "--format",
        "jsonl",
        "--data-dir",
        data_dir,
    ])?;
    ensure!(exported.status.success(), "{exported:?}");
    let mut samples: BTreeMap<(String, u64), Stored> = BTreeMap::new();
    for line in String::from_utf8(exported.stdout)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let name = row["n"].as_str().with_context(|| line.to_owned())?;
        let seq = row["seq"].as_u64().with_context(|| line.to_owned())?;
        let stored = match (row["r"].as_str(), row["st"].as_f64(), row["v"].as_f64()) {
            (Some("lost"), ..) => Stored::Lost,
            (None, Some(time), Some(value)) => {
                let halved = if name == "Counter" {
                    value / 2.0
                } else {
                    value
                };
                Stored::Count((time * 1000.0).round() as i64, halved as u64)
            }
            _ => continue,
        };
        samples.insert((name.to_owned(), seq), stored);
    }
    let mut by_tag: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for ((name, _), stored) in samples {
        by_tag.entry(name).or_default().push(stored);
    }
    Ok(by_tag)
}

fn journal(directory: &Path) -> Result<Vec<Stored>> {
    let text = std::fs::read_to_string(directory.join("journal"))?;
    let entry = |line: &str| {
        let (count, us) = line.split_once(' ')?;
        Some(Stored::Count(us.parse().ok()?, count.parse().ok()?))
    };
    Ok(text.lines().filter_map(entry).collect())
}

fn restarts(kind: Kind, history: bool, ends: &[End]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let options: &[&str] = if history { &[] } else { &["no-history"] };
    let Some(mut plant) = Plant::start(kind, directory.path(), options)? else {
        return Ok(());
    };
    let mut gateway = Gateway::new(directory.path());
    gateway.write("password", "correct horse")?;
    gateway.configure(&plant.config(directory.path(), ""))?;
    gateway.start()?;
    wait_for("a first value", STEP, || shown(&gateway))?;
    let mut more = String::new();
    for (nth, end) in ends.iter().enumerate() {
        let sought = plant.ask("counter")? + 30;
        plant.tell("{\"run\":true}")?;
        wait_for("counts", STEP, || {
            shown(&gateway).filter(|count| *count >= sought)
        })?;
        match end {
            End::Kill => gateway.kill(),
            End::Stop => {
                gateway.terminate()?;
                wait_for("no session", STEP, || {
                    (plant.ask("sessions").ok()? == 0).then_some(())
                })?;
            }
            End::Reload => {
                more += &tag("Array", "").replacen("Array", &format!("Array{nth}"), 1);
                gateway.configure(&plant.config(directory.path(), &more))?;
                gateway.signal("HUP")?;
                continue;
            }
        }
        // More than the server's queue is not needed: nobody is subscribed.
        std::thread::sleep(Duration::from_millis(500));
        gateway.start()?;
    }
    let sought = plant.ask("counter")? + 30;
    wait_for("counts", STEP, || {
        shown(&gateway).filter(|count| *count >= sought)
    })?;
    plant.tell("{\"run\":false}")?;
    let last = plant.ask("counter")?;
    wait_for("the last count", STEP, || {
        shown(&gateway).filter(|count| *count == last)
    })?;
    assert_eq!(shown_fixed(&gateway)?, 4.5);
    gateway.terminate()?;
    wait_for("no session", STEP, || {
        (plant.ask("sessions").ok()? == 0).then_some(())
    })?;
    assert_eq!(plant.ask("sessions_max")?, 1, "sessions at a time");

    let stored = stored(&gateway)?;
    // Before the first count the node shows 0, which is in no journal.
    let counter = &stored["Counter"];
    let counts = counter
        .iter()
        .copied()
        .filter(|one| !matches!(one, Stored::Count(_, 0)));
    let counts: Vec<Stored> = counts.collect();
    assert_eq!(stored["Fixed"].len(), 1, "{:?}", stored["Fixed"]);
    let journal = journal(directory.path())?;
    if history {
        let times = |one: &Stored| counts.iter().filter(|stored| *stored == one).count();
        let wrong: Vec<(&Stored, usize)> = (journal.iter().map(|one| (one, times(one))))
            .filter(|(_, times)| *times != 1)
            .collect();
        assert_eq!(wrong, [], "missing, or not once");
        assert_eq!(counts.len(), journal.len());
        println!("{kind:?}: {} values, each once", counts.len());
        return Ok(());
    }
    let mut marks = 0;
    let (mut before, mut marked) = (None, false);
    for one in &counts {
        match one {
            Stored::Lost => {
                (marks, marked) = (marks + 1, true);
            }
            Stored::Count(_, count) => {
                assert!(before < Some(*count), "{count} after {before:?}");
                let follows = before.is_none_or(|before| before + 1 == *count);
                assert!(follows || marked, "{count} after {before:?}");
                (before, marked) = (Some(*count), false);
            }
        }
    }
    assert_eq!(before, Some(last));
    println!("{kind:?}: {} values, {marks} marks", counts.len() - marks);
    assert!(marks >= ends.iter().filter(|end| **end != End::Reload).count());
    Ok(())
}

fn shown_fixed(gateway: &Gateway) -> Result<f64> {
    let rows = gateway.json(&["tags", "press/Fixed"])?;
    rows[0]["value"].as_f64().context("no value")
}

const ENDS: [End; 4] = [End::Kill, End::Stop, End::Reload, End::Kill];

#[test]
fn asyncua_with_history_misses_and_doubles_nothing() -> Result<()> {
    restarts(Kind::Asyncua, true, &ENDS)
}

#[test]
fn asyncua_without_history_has_each_hole_marked() -> Result<()> {
    restarts(Kind::Asyncua, false, &ENDS)
}

#[test]
fn node_opcua_with_history_misses_and_doubles_nothing() -> Result<()> {
    restarts(Kind::NodeOpcua, true, &ENDS)
}

#[test]
fn node_opcua_without_history_has_each_hole_marked() -> Result<()> {
    restarts(Kind::NodeOpcua, false, &ENDS)
}
