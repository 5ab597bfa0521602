//! An OPC UA device over restarts of the agent: what its server sent meanwhile is filled in or marked, once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::ports::free_port;
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
        let mut arguments = vec![directory.to_str().context("a name")?, "correct horse"];
        arguments.extend(options);
        match kind {
            Kind::Asyncua => {
                let script = checkout().join("drivers/tests/peers/asyncua_plant.py");
                let mut command = Command::new(python()?);
                command.arg(script);
                Plant::run(command, free_port()?, &arguments).map(Some)
            }
            Kind::NodeOpcua => Plant::start_node("plant.js", &arguments),
        }
    }

    /// A script of node-opcua; `None` where that is not installed.
    fn start_node(script: &str, arguments: &[&str]) -> Result<Option<Plant>> {
        let node = checkout().join("drivers/tests/peers/node");
        if !node.join("node_modules/node-opcua").is_dir() {
            eprintln!("skipped: node-opcua is not installed (tests/setup.sh)");
            return Ok(None);
        }
        let mut command = Command::new("node");
        command.arg(node.join(script));
        Plant::run(command, free_port()?, arguments).map(Some)
    }

    fn run(mut command: Command, port: u16, arguments: &[&str]) -> Result<Plant> {
        let mut child = command
            .arg(port.to_string())
            .args(arguments)
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
        Ok(plant)
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

/// What is in the store of a stopped agent.
fn export(gateway: &Gateway, log: &str) -> Result<Vec<Value>> {
    let data_dir = gateway.data_dir();
    let data_dir = data_dir.to_str().context("a name")?;
    let mut args = vec!["buffer", "export", "--format", "jsonl"];
    args.extend(["--log", log, "--data-dir", data_dir]);
    let exported = gateway.cli(&args)?;
    ensure!(exported.status.success(), "{exported:?}");
    let text = String::from_utf8(exported.stdout)?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// What is stored of the tags, by the number of the sample.
fn stored(gateway: &Gateway) -> Result<BTreeMap<String, Vec<Stored>>> {
    let mut samples: BTreeMap<(String, u64), Stored> = BTreeMap::new();
    for row in export(gateway, "data")? {
        let name = row["n"].as_str().context("a name")?;
        let seq = row["seq"].as_u64().context("a number")?;
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

/// The alarms in the store: state, start, and when each was told.
fn alarms(gateway: &Gateway) -> Result<Vec<(String, f64)>> {
    let rows = export(gateway, "alarm")?;
    let alarms = rows.iter().filter(|row| row["kind"] == "alarm");
    let alarm = |row: &Value| {
        let state = row["state"].as_str().context("a state")?;
        Ok((state.to_owned(), row["start"].as_f64().context("a start")?))
    };
    alarms.map(alarm).collect()
}

#[test]
fn alarms_that_ended_meanwhile_end_and_others_do_not_begin_again() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(mut server) = Plant::start_node("alarms.js", &[])? else {
        return Ok(());
    };
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&format!(
        "[buffer]\ncommit_interval = \"200ms\"\n\n[[device]]\nname = \"press\"\ndriver = \"opcua\"\n\
         address = \"opc.tcp://127.0.0.1:{}\"\nsecurity = \"None\"\nevents = [\"i=2253\"]\n\
         publish_interval = \"100ms\"\n\n[[device.tag]]\nname = \"level\"\n\
         address = \"nsu=urn:millrace:alarms;s=Level\"\n",
        server.port
    ))?;
    // A shown level says that what was told before it has arrived, and half a second that it is committed.
    let level = |gateway: &Gateway, level: f64| -> Result<()> {
        wait_for("the level", STEP, || {
            let rows = gateway.json(&["tags", "press/level"]).ok()?;
            (rows[0]["value"].as_f64() == Some(level)).then_some(())
        })?;
        std::thread::sleep(Duration::from_millis(700));
        Ok(())
    };
    gateway.start()?;
    level(&gateway, 0.0)?;
    server.tell("60")?;
    level(&gateway, 60.0)?;
    // Begun; ended while nobody listened.
    gateway.kill();
    server.tell("0")?;
    gateway.start()?;
    level(&gateway, 0.0)?;
    // Begun again; still active after a stop and a kill.
    server.tell("70")?;
    level(&gateway, 70.0)?;
    gateway.terminate()?;
    gateway.start()?;
    level(&gateway, 70.0)?;
    gateway.kill();
    gateway.start()?;
    level(&gateway, 70.0)?;
    server.tell("0")?;
    level(&gateway, 0.0)?;
    gateway.terminate()?;
    let told = alarms(&gateway)?;
    let told: Vec<(&str, f64)> = (told.iter())
        .filter(|(state, _)| state != "update")
        .map(|(state, start)| (state.as_str(), *start))
        .collect();
    let states: Vec<&str> = told.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, ["begin", "end", "begin", "end"], "{told:?}");
    // Each process ties the moments of a boot to UTC by itself.
    assert!((told[0].1 - told[1].1).abs() < 1.0, "{told:?}");
    assert!((told[2].1 - told[3].1).abs() < 1.0, "{told:?}");
    Ok(())
}

/// 10,000 with `MILLRACE_OPCUA_FULL`, as the issue has it.
#[test]
fn refused_nodes_are_named_on_the_screen() -> Result<()> {
    let full = std::env::var_os("MILLRACE_OPCUA_FULL").is_some();
    let (good, bad) = if full { (9_950, 50) } else { (1_990, 50) };
    let directory = tempfile::tempdir()?;
    let spare = format!("spare={good}");
    let Some(plant) = Plant::start(Kind::Asyncua, directory.path(), &[&spare])? else {
        return Ok(());
    };
    let mut gateway = Gateway::new(directory.path());
    let spare = (0..good).map(|nth| format!("Spare{nth}"));
    let nowhere = (0..bad).map(|nth| format!("Nowhere{nth}"));
    let mut tags = "name,address\n".to_owned();
    for name in spare.chain(nowhere) {
        tags += &format!("{name},nsu=urn:millrace:plant;s={name}\n");
    }
    gateway.write("tags.csv", &tags)?;
    gateway.configure(&format!(
        "[[device]]\nname = \"press\"\ndriver = \"opcua\"\naddress = \"opc.tcp://127.0.0.1:{}/plant\"\n\
         security = \"None\"\ntimeout = \"60s\"\ntags_file = \"tags.csv\"\n",
        plant.port
    ))?;
    gateway.start()?;
    let status = wait_for("good values", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["devices"][0]["tags_good"] == good).then_some(status)
    })?;
    let excluded = status["devices"][0]["excluded"].as_array();
    let excluded = excluded.context("excluded nodes")?;
    assert_eq!(excluded.len(), bad);
    for (nth, node) in excluded.iter().enumerate() {
        assert_eq!(
            node["addresses"],
            format!("nsu=urn:millrace:plant;s=Nowhere{nth}")
        );
        assert_eq!(node["cause"], "BadNodeIdUnknown");
    }
    let screen = gateway.cli(&["status"])?;
    let screen = String::from_utf8(screen.stdout)?;
    let screen: String = screen.split_whitespace().collect::<Vec<&str>>().join(" ");
    let total = good + bad;
    let first = format!(
        "{bad} of {total} tags are not good (illegal-address {bad}): the server does not give \
         nsu=urn:millrace:plant;s=Nowhere0 (BadNodeIdUnknown), "
    );
    assert!(screen.contains(&first), "{screen}");
    assert!(screen.contains("and 45 nodes more"), "{screen}");
    let listed = gateway.cli(&["device", "list"])?;
    let listed = String::from_utf8(listed.stdout)?;
    let named = |nth: &usize| listed.contains(&format!("s=Nowhere{nth} "));
    assert_eq!((0..bad).filter(named).count(), bad, "{listed}");
    Ok(())
}

#[test]
fn a_changed_password_file_ends_the_pause_of_a_refused_device() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(mut plant) = Plant::start(Kind::Asyncua, directory.path(), &[])? else {
        return Ok(());
    };
    let mut gateway = Gateway::new(directory.path());
    gateway.write("password", "wrong horse")?;
    gateway.configure(&plant.config(directory.path(), ""))?;
    gateway.start()?;
    let device = || Some(gateway.json(&["status"]).ok()?["devices"][0].clone());
    wait_for("a refusal", STEP, || {
        let device = device()?;
        device["error"]
            .as_str()?
            .contains("password_file")
            .then_some(())
    })?;
    let logins = plant.ask("logins")?;
    // A wrong password is not hammered.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(plant.ask("logins")?, logins);
    gateway.write("password", "correct horse")?;
    let written = std::time::Instant::now();
    wait_for("a session", STEP, || {
        (device()?["state"] == "online").then_some(())
    })?;
    // The pause after a refusal is half a minute at least.
    assert!(
        written.elapsed() < Duration::from_secs(20),
        "{:?}",
        written.elapsed()
    );
    assert_eq!(plant.ask("logins")?, logins + 1);
    Ok(())
}
