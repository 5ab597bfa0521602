//! What models cost: polling beside models that want far more than they may have, and a hundred that are small.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::checkout;
use millrace_tests::wait::wait_for;
use serde_json::Value;

use super::jitter::{INTERVAL, WARM_UP, offsets, sleep_evenly};
use super::server::Manner;
use super::{Server, percentile};
use crate::usage::Usage;
use crate::{Row, Target};

/// Models that each take a third of a core at 10 Hz: together some ten times what all may have.
const BURNING: usize = 8;

/// Devices that are polled, so that a turn has many polls.
const DEVICES: usize = 8;

const SMALL: usize = 100;

const EXAMINED_MAX: Duration = Duration::from_secs(600);

/// How much further off its grid polling is beside models over their budget than without, turns of both following on
/// each other, fresh agents each. The polls of all turns count together: one in a hundred of few is chance.
///
/// # Errors
/// The agent cannot be started, or the models do not shed.
pub fn jitter_beside_models(span: Duration, turns: usize) -> Result<Vec<Row>> {
    let (mut without, mut with) = (Polls::default(), Polls::default());
    for turn in 0..turns {
        // Neither is always the first one.
        for beside in [turn % 2 == 1, turn % 2 == 0] {
            match beside {
                true => with.turn(&burning(), span)?,
                false => without.turn("", span)?,
            }
        }
    }
    ensure!(
        with.shed > with.scored,
        "{} windows were shed, {} scored",
        with.shed,
        with.scored
    );
    let p99 = [&mut without, &mut with].map(|polls| percentile(&mut polls.off, 0.99));
    let p50 = [&mut without, &mut with].map(|polls| percentile(&mut polls.off, 0.5));
    let times = |[without, with]: [f64; 2]| with / without;
    let cpu = with.cpu / turns as f64 * 100.0;
    Ok(vec![
        Row::new("poll jitter p50 without models, ms", p50[0]),
        Row::new(
            "poll jitter p50 beside models ten times over their budget, ms",
            p50[1],
        ),
        Row::new("poll jitter p99 without models, ms", p99[0]),
        Row::new(
            "poll jitter p99 beside models ten times over their budget, ms",
            p99[1],
        ),
        Row::new("the second p99 over the first", times(p99)).target(Target::AtMost(1.05)),
        Row::new("the second p50 over the first", times(p50)),
        Row::new(
            "a thread that only sleeps, p99, ms: without models",
            percentile(&mut without.alone, 0.99),
        ),
        Row::new("the same beside them", percentile(&mut with.alone, 0.99)),
        Row::new("polls without models", without.off.len() as f64),
        Row::new("polls beside them", with.off.len() as f64),
        Row::new(
            "windows shed for one that was scored",
            with.shed as f64 / with.scored as f64,
        ),
        Row::new("the agent's CPU beside those models, % of a core", cpu),
    ])
}

/// What all turns of a kind brought.
#[derive(Default)]
struct Polls {
    off: Vec<f64>,
    alone: Vec<f64>,
    scored: u64,
    shed: u64,
    cpu: f64,
}

impl Polls {
    fn turn(&mut self, models: &str, span: Duration) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let servers = (0..DEVICES).map(|_| Server::start(Manner::Noting));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let mut gateway = Gateway::new(directory.path());
        let interval = format!("{}ms", INTERVAL.as_millis());
        let devices = servers.iter().enumerate();
        let devices = devices.map(|(nth, server)| device(&format!("plc{nth}"), server, &interval));
        gateway.configure(&(devices.collect::<String>() + models))?;
        gateway.start()?;
        wait_until_all_score(&gateway)?;
        thread::sleep(WARM_UP);
        let pid = gateway.pid().context("the agent is gone")?;
        let (before, counted) = (Usage::of(pid)?, gateway.json(&["status"])?);
        for server in &servers {
            server.asked.try_iter().for_each(drop);
        }
        let sleeping = thread::spawn(move || sleep_evenly(span));
        thread::sleep(span);
        for server in &servers {
            let asked = server.asked.try_iter().filter(|asked| asked.start == 0);
            let polls: Vec<Instant> = asked.map(|asked| asked.at).collect();
            ensure!(polls.len() > 2, "the agent does not poll");
            self.off.extend(offsets(&polls));
        }
        self.cpu += (Usage::of(pid)?.cpu - before.cpu).as_secs_f64() / span.as_secs_f64();
        let alone = sleeping.join().ok().context("the sleeper failed")?;
        self.alone.extend(offsets(&alone));
        let status = gateway.json(&["status"])?;
        gateway.terminate()?;
        self.scored += sum(&status, "windows_total") - sum(&counted, "windows_total");
        self.shed += sum(&status, "windows_shed_total") - sum(&counted, "windows_shed_total");
        Ok(())
    }
}

/// What a hundred models of five inputs and 20 rows cost, each once a second.
///
/// # Errors
/// The agent cannot be started, or windows are missing.
pub fn hundred_models(span: Duration) -> Result<Vec<Row>> {
    let (rss_without, cpu_without, _) = models_turn(0, span)?;
    let (rss, cpu, windows) = models_turn(SMALL, span)?;
    let due = span.as_secs_f64() * SMALL as f64;
    Ok(vec![
        Row::new(
            "CPU of 100 models at 1 Hz, % of a core",
            (cpu - cpu_without) * 100.0,
        )
        .target(Target::AtMost(5.0)),
        Row::new("RSS of one of them, MB", (rss - rss_without) / SMALL as f64)
            .target(Target::AtMost(3.0)),
        Row::new(
            "of their windows were scored, %",
            windows as f64 / due * 100.0,
        )
        .target(Target::AtLeast(97.0)),
    ])
}

/// Resident set in MB, part of a core, windows scored.
fn models_turn(count: usize, span: Duration) -> Result<(f64, f64, u64)> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(Manner::Prompt)?;
    let mut gateway = Gateway::new(directory.path());
    let source = checkout().join("models/pump-anomaly");
    std::fs::create_dir(gateway.path("pump"))?;
    for name in ["model.onnx", "golden.json"] {
        std::fs::copy(source.join(name), gateway.path("pump").join(name))?;
    }
    let manifest = std::fs::read_to_string(source.join("model.toml"))?;
    gateway.write("pump/model.toml", &manifest.replace("\"250ms\"", "\"1s\""))?;
    let mut config = device("plc0", &server, "1s");
    // Registers are worth their addresses, which are in the ranges of the roles.
    let inputs = [
        "pressure",
        "flow",
        "motor_current",
        "vibration",
        "bearing_temp",
    ];
    for nth in 0..count {
        let _ = write!(
            config,
            "[[model]]\nname = \"m{nth}\"\nbundle = \"pump\"\n[model.inputs]\n"
        );
        for (role, tag) in inputs.iter().zip([5, 60, 20, 3, 50]) {
            let _ = writeln!(config, "{role} = \"plc0/t{tag}\"");
        }
    }
    gateway.configure(&config)?;
    gateway.start()?;
    wait_until_all_score(&gateway)?;
    thread::sleep(WARM_UP);
    let pid = gateway.pid().context("the agent is gone")?;
    let scored = |gateway: &Gateway| anyhow::Ok(sum(&gateway.json(&["status"])?, "windows_total"));
    let (before, windows) = (Usage::of(pid)?, scored(&gateway)?);
    thread::sleep(span);
    let (after, windows) = (Usage::of(pid)?, scored(&gateway)? - windows);
    gateway.terminate()?;
    let cpu = (after.cpu - before.cpu).as_secs_f64() / span.as_secs_f64();
    Ok((after.rss as f64 / 1e6, cpu, windows))
}

/// Bundles are examined one after the other, and windows fill then.
fn wait_until_all_score(gateway: &Gateway) -> Result<()> {
    let scoring = wait_for("scores of all models", EXAMINED_MAX, || {
        let status = gateway.json(&["status"]).ok()?;
        let models = status["models"].as_array()?;
        let all = models.iter().all(|model| model["state"] == "running");
        all.then_some(())
    });
    scoring.with_context(|| gateway.log())
}

fn device(name: &str, server: &Server, interval: &str) -> String {
    let mut config = format!(
        "[[device]]\nname = \"{name}\"\ndriver = \"modbus-tcp\"\naddress = \"{}\"\npoll_interval = \"{interval}\"\n\n",
        server.address
    );
    for nth in 0..100 {
        let _ = write!(
            config,
            "[[device.tag]]\nname = \"t{nth}\"\naddress = \"holding:{nth}\"\ntype = \"u16\"\n\n"
        );
    }
    config
}

fn burning() -> String {
    let bundle = checkout().join("tests/models/burning");
    (0..BURNING)
        .map(|nth| {
            format!(
                "[[model]]\nname = \"burning{nth}\"\nbundle = \"{}\"\n[model.inputs]\nlevel = \"plc0/t7\"\n\n",
                bundle.display()
            )
        })
        .collect()
}

fn sum(status: &Value, key: &str) -> u64 {
    let models = status["models"].as_array().into_iter().flatten();
    models.filter_map(|model| model[key].as_u64()).sum()
}
