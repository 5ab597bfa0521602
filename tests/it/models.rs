//! Models at work: one that wants more than it may have, and versions that come, fail and go, while no window of the version that
//! counts is lost.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::bundle::Bundle;
use millrace_tests::checkout;
use millrace_tests::onnx::Graph;
use millrace_tests::received::Received;
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::plant;

/// From one window of the bundles of this file to the next.
const GRID_MS: i64 = 200;

/// A pump with two registers that stay as they are written.
fn pump(port: u16, poll_interval: &str) -> String {
    let tag = |name: &str, at: u16| {
        format!(
            "[[device.tag]]\nname = \"{name}\"\naddress = \"holding:{at}\"\ntype = \"u32\"\nwritable = true\n\n"
        )
    };
    format!(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"{poll_interval}\"\ntimeout = \"10s\"\n\n{}{}",
        tag("level", 0),
        tag("switch", 2)
    )
}

fn model(name: &str, bundle: &Path, roles: &[(&str, &str)], more: &str) -> String {
    let mut text = format!(
        "[[model]]\nname = \"{name}\"\nbundle = \"{}\"\n{more}[model.inputs]\n",
        bundle.display()
    );
    for (role, tag) in roles {
        text.push_str(&format!("{role} = \"pump/{tag}\"\n"));
    }
    text + "\n"
}

/// Takes a good deal of the processor for each window, ten of them a second.
fn burning(name: &str) -> String {
    let bundle = checkout().join("tests/models/burning");
    model(name, &bundle, &[("level", "level")], "")
}

fn count(model: &Value, key: &str) -> u64 {
    model[key].as_u64().unwrap_or(0)
}

/// Waits until the status is as wanted.
fn until(gateway: &Gateway, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let found = wait_for(what, 4 * STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        wanted(&status).then_some(status)
    });
    found.with_context(|| format!("{:?}\n{}", gateway.json(&["status"]), gateway.log()))
}

/// Times of the model's scores in the order in which they were numbered.
fn scored(received: &Received, name: &str) -> Vec<i64> {
    let scores = received.of_tag(name, "score");
    scores.map(|score| score.at_ms.round() as i64).collect()
}

/// Each window from the first one to the last one was told, once, in order.
pub(crate) fn assert_whole(received: &Received, name: &str) -> Result<usize> {
    let times = scored(received, name);
    for pair in times.windows(2) {
        ensure!(
            pair[1] - pair[0] == GRID_MS,
            "windows are missing, or there twice: {pair:?} of {times:?}"
        );
    }
    Ok(times.len())
}

#[test]
fn a_model_over_its_budget_sheds_counted_windows_and_no_poll_is_late_by_it() -> Result<()> {
    const SHED: u64 = 100;
    let (directory, beside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let sim = SimModbus::start(&["--tags", "10"], directory.path())?;
    // It may have a fiftieth of a core, and wants a third at least.
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&format!(
        "models_cpu_percent = 2\n\n{}{}{}",
        plant::uplink_config(broker.port),
        pump(sim.port, "200ms"),
        burning("watch")
    ))?;
    // The same polls without a model, at the same time on the same machine.
    let mut without = Gateway::new(beside.path());
    without.configure(&pump(sim.port, "200ms"))?;
    without.start()?;
    gateway.start()?;
    let watch = |status: &Value| status["models"][0].clone();
    let status = until(&gateway, "shed windows", |status| {
        count(&watch(status), "windows_shed_total") >= SHED
    })?;
    let before = watch(&status);
    let after = watch(&gateway.json(&["status"])?);
    let newest = count(&after, "windows_total");
    let last = until(&gateway, "one more window", |status| {
        count(&watch(status), "windows_total") > newest
    })?;
    ensure!(watch(&last)["state"] == "running", "{last}");
    ensure!(watch(&last)["at_normal_priority"].is_null(), "{last}");
    ensure!(count(&watch(&last), "samples_shed_total") == 0, "{last}");
    let text = String::from_utf8(gateway.cli(&["status"])?.stdout)?;
    ensure!(text.contains("SHED"), "{text}");

    // No poll is late by it: hardly more are left out than where there is no model.
    let polls = |status: &Value| {
        let device = &status["devices"][0];
        (
            count(device, "reads_total"),
            count(device, "overruns_total"),
        )
    };
    let (reads, overruns) = polls(&last);
    let (reads_without, overruns_without) = polls(&without.json(&["status"])?);
    ensure!(
        overruns <= overruns_without + reads / 20,
        "{overruns} of {reads} polls are left out; without a model {overruns_without} of {reads_without}"
    );
    gateway.terminate()?;
    without.terminate()?;

    // What is not scored is counted: the times of the scores say how many windows there were meanwhile.
    let times = scored(&subscriber.stop(), "watch");
    let skipped = |scored: u64| -> Result<u64> {
        let at = usize::try_from(scored)?.checked_sub(1);
        let at = at.and_then(|at| times.get(at)).context("a score")?;
        let windows = (at - times[0]) / 100 + 1;
        Ok(u64::try_from(windows)? - scored)
    };
    let (shed, shed_later) = (
        count(&before, "windows_shed_total"),
        count(&after, "windows_shed_total"),
    );
    ensure!(
        skipped(count(&before, "windows_total"))? <= shed_later && shed <= skipped(newest + 1)?,
        "{shed} to {shed_later} windows were shed by {before} and {after}; {times:?}"
    );
    ensure!(newest >= 1 && shed_later >= 5 * newest, "{after}");
    Ok(())
}

/// Runs a command that must succeed.
fn run(gateway: &Gateway, args: &[&str]) -> Result<()> {
    let output = gateway.cli(args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {said}");
    Ok(())
}

const WINDOW: [u64; 3] = [1, 3, 2];

/// The sum of the window.
fn sum() -> Graph {
    Graph::default()
        .integers("axes", &[0, 1, 2])
        .integers("one", &[1])
        .node("ReduceSum", &["window", "axes"], "sum")
        .node("Reshape", &["sum", "one"], "level")
}

/// The sum, until somebody turns the switch on: what is bad then makes `bad` of `level`. No examination could see that, since
/// no window of it has such values.
fn good_until(bad: Graph) -> Vec<u8> {
    sum()
        .filled("limit", &[1], SWITCHED_ON as f32 / 2.0)
        .node("Greater", &["level", "limit"], "is_bad")
        .choice(
            "is_bad",
            bad.integers("single", &[1])
                .node("Reshape", &["bad", "single"], "then_branch"),
            Graph::default().node("Abs", &["level"], "else_branch"),
            "score",
        )
        .file(&WINDOW)
}

const SWITCHED_ON: u32 = 1_000_000;

/// Versions that only turn out to be bad at work, each with what is said of it then.
fn bad_at_work() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let nan = Graph::default()
        .node("Sub", &["level", "level"], "nothing")
        .node("Div", &["nothing", "nothing"], "bad");

    // Some ten times its budget, and far from what counts as endless.
    const PRODUCTS: usize = 24;
    let mut slow = Graph::default()
        .filled("left", &[1024, 1], 1.0 / 32.0)
        .filled("right", &[1, 1024], 1.0 / 32.0)
        .node("Div", &["level", "level"], "same")
        .node("Mul", &["right", "same"], "row")
        .node("MatMul", &["left", "row"], "p0");
    for step in 0..PRODUCTS {
        let (from, to) = (format!("p{step}"), format!("p{}", step + 1));
        slow = slow.node("MatMul", &[&from, "p0"], &to);
    }
    let slow = slow.node("ReduceMin", &[&format!("p{PRODUCTS}")], "bad");

    // The largest of fifty thousand numbers, four million times: minutes.
    let endless = Graph::default()
        .integers("long", &[1, 1, 4_000_000])
        .node("Expand", &["level", "long"], "row")
        .node_with("MaxPool", ("kernel_shape", &[50_000]), &["row"], "all")
        .node("ReduceMax", &["all"], "bad");
    vec![
        ("2.0.0", good_until(nan), "not a finite number"),
        ("3.0.0", good_until(slow), "took longer than window_budget"),
        ("4.0.0", good_until(endless), "does not end"),
    ]
}

/// A gateway with a model that gives the sum of its window, and those who look at it.
struct Works {
    gateway: Gateway,
    subscriber: Subscriber,
    directory: tempfile::TempDir,
    _broker: Broker,
    _sim: SimModbus,
}

impl Works {
    /// `more` comes into `[gateway]`, `others` are further models.
    fn start(more: &str, others: &str) -> Result<Works> {
        let directory = tempfile::tempdir()?;
        let broker = Broker::start(directory.path())?;
        let subscriber = Subscriber::start(broker.port)?;
        let sim = SimModbus::start(&["--tags", "10"], directory.path())?;
        let mut gateway = Gateway::new(directory.path());
        let bundle = patient(directory.path(), "1.0.0", &sum_scored())?;
        let roles = [("a", "level"), ("b", "switch")];
        let watch = model("watch", bundle.path(), &roles, "window_budget = \"50ms\"\n");
        // A slow poll, so that few samples wait for whoever does not come to an end.
        gateway.configure(&format!(
            "{more}\n\n{}{}{watch}{others}",
            plant::uplink_config(broker.port),
            pump(sim.port, "400ms")
        ))?;
        gateway.start()?;
        let works = Works {
            gateway,
            subscriber,
            directory,
            _broker: broker,
            _sim: sim,
        };
        works.switch(0)?;
        works.scores("1.0.0")?;
        Ok(works)
    }

    fn install(&self, version: &str, file: &[u8]) -> Result<()> {
        let bundle = patient(self.directory.path(), version, file)?;
        let tar = bundle.pack()?.display().to_string();
        run(
            &self.gateway,
            &["model", "install", &tar, "--model", "watch"],
        )
    }

    fn promote(&self, version: &str) -> Result<()> {
        let more = ["--allow-downgrade", "--model", "watch"];
        run(
            &self.gateway,
            &[&["model", "promote", version], &more[..]].concat(),
        )
    }

    fn switch(&self, to: u32) -> Result<()> {
        run(&self.gateway, &["write", "pump/switch", &to.to_string()])
    }

    fn watch(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let status = until(&self.gateway, what, |status| wanted(&status["models"][0]))?;
        Ok(status["models"][0].clone())
    }

    /// Waits until this version counts and has scored further windows.
    fn scores(&self, version: &str) -> Result<Value> {
        let is_it = |model: &Value| model["version"] == version && model["state"] == "running";
        let before = self.watch(&format!("version {version}"), is_it)?;
        let before = count(&before, "windows_total");
        self.watch(&format!("windows of {version}"), |model| {
            is_it(model) && count(model, "windows_total") > before + 3
        })
    }

    /// Ends the agent; all that it has told.
    fn end(mut self) -> Result<Received> {
        let told = self.watch("a score", |model| count(model, "windows_total") > 0)?;
        let windows = usize::try_from(count(&told, "windows_total"))?;
        self.gateway.terminate()?;
        self.subscriber.wait("all scores", STEP, |received| {
            scored(received, "watch").len() >= windows
        })?;
        let received = self.subscriber.stop();
        ensure!(received.violations.is_empty(), "{:?}", received.violations);
        Ok(received)
    }
}

fn sum_scored() -> Vec<u8> {
    sum().node("Abs", &["level"], "score").file(&WINDOW)
}

/// A bundle that bears a machine which is busy: values are held for long, and count.
fn patient(directory: &Path, version: &str, file: &[u8]) -> Result<Bundle> {
    let place: PathBuf = directory.join(format!("bundle-{version}"));
    let bundle = Bundle::write(&place, version, file)?;
    bundle.edit(
        "max_gap = \"2s\"",
        "max_gap = \"5m\"\nmin_good_share = 0.01",
    )?;
    Ok(bundle)
}

#[test]
fn versions_come_and_go_under_load_and_no_window_is_missing() -> Result<()> {
    // The other one takes all that it may have.
    let works = Works::start("models_cpu_percent = 40", &burning("other"))?;
    for version in ["1.1.0", "1.2.0"] {
        works.install(version, &sum_scored())?;
    }
    for round in 0..6 {
        let version = ["1.1.0", "1.2.0"][round % 2];
        works.promote(version)?;
        works.scores(version)?;
    }
    run(&works.gateway, &["model", "rollback", "--model", "watch"])?;
    works.scores("1.1.0")?;
    run(
        &works.gateway,
        &["model", "shadow", "1.2.0", "--model", "watch"],
    )?;
    let watch = works.watch("a shadow that is compared", |model| {
        count(&model["shadow"], "windows_compared") > 5
    })?;
    ensure!(watch["shadow"]["version"] == "1.2.0", "{watch}");
    ensure!(watch["shadow"]["score_difference_max"] == 0.0, "{watch}");
    works.promote("1.2.0")?;
    let watch = works.scores("1.2.0")?;
    ensure!(count(&watch, "windows_shed_total") == 0, "{watch}");
    let windows = assert_whole(&works.end()?, "watch")?;
    ensure!(windows > 30, "{windows}");
    Ok(())
}

#[test]
fn a_version_that_fails_at_work_is_taken_back_and_no_window_is_missing() -> Result<()> {
    let works = Works::start("models_cpu_percent = 400", "")?;
    for (version, file, said) in bad_at_work() {
        works.install(version, &file)?;
        works.promote(version)?;
        works.scores(version)?;
        works.switch(SWITCHED_ON)?;
        let watch = works.watch(&format!("the end of {version}"), |model| {
            model["taken_back"]["version"] == version
        })?;
        let reason = watch["taken_back"]["reason"].to_string();
        ensure!(reason.contains(said), "{version}: {reason}");
        works.scores("1.0.0")?;
        let status = works.gateway.json(&["status"])?;
        let problems = status["problems"].to_string();
        ensure!(problems.contains("was taken back"), "{status}");
        ensure!(status["devices"][0]["tags_good"] == 2, "{status}");
        works.switch(0)?;
        // The next version begins with the newest samples.
        works.watch("windows without the switch", |model| {
            model["score"].as_f64() < Some(f64::from(SWITCHED_ON) / 2.0)
        })?;
    }
    let audit = std::fs::read_to_string(works.gateway.data_dir().join("audit.log"))?;
    let told = audit.matches("a promoted version is taken back").count();
    ensure!(told == 3, "{audit}");
    let received = works.end()?;
    assert_whole(&received, "watch")?;
    let alarms = received.events_of("watch");
    let alarms = alarms.filter(|event| event.to_string().contains("is taken back"));
    ensure!(alarms.count() == 3, "{:?}", received.events);
    Ok(())
}
