//! What models cost: polling beside models that want far more than they may have, and a hundred that are small.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::checkout;
use serde_json::Value;

use super::jitter::{INTERVAL, WARM_UP, off_grid, sleep_evenly};
use super::server::Manner;
use super::{Server, percentile};
use crate::usage::Usage;
use crate::{Row, Target};

/// Models that each take a third of a core at 10 Hz: together some ten times what all may have.
const BURNING: usize = 8;

const SMALL: usize = 100;

/// How much further off its grid polling is beside models over their budget than without, turns of both following on
/// each other, fresh agents each.
///
/// # Errors
/// The agent cannot be started, or the models do not shed.
pub fn jitter_beside_models(span: Duration, turns: usize) -> Result<Vec<Row>> {
    let (mut without, mut with, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    let (mut scored, mut shed, mut cpu) = (0, 0, 0.0);
    for _ in 0..turns {
        without.push(jitter_turn("", span)?.p99);
        let turn = jitter_turn(&burning(), span)?;
        with.push(turn.p99);
        alone.push(turn.alone);
        scored += turn.scored;
        shed += turn.shed;
        cpu += turn.cpu / turns as f64;
    }
    ensure!(shed > scored, "{shed} windows were shed, {scored} scored");
    let (without, with) = (percentile(&mut without, 0.5), percentile(&mut with, 0.5));
    Ok(vec![
        Row::new("poll jitter p99 without models, ms", without),
        Row::new(
            "poll jitter p99 beside models ten times over their budget, ms",
            with,
        ),
        Row::new("the second over the first", with / without).target(Target::AtMost(1.05)),
        Row::new(
            "a thread that only sleeps meanwhile, p99, ms",
            percentile(&mut alone, 0.5),
        ),
        Row::new(
            "windows shed for one that was scored",
            shed as f64 / scored as f64,
        ),
        Row::new(
            "the agent's CPU beside those models, % of a core",
            cpu * 100.0,
        ),
    ])
}

struct Turn {
    p99: f64,
    alone: f64,
    scored: u64,
    shed: u64,
    cpu: f64,
}

fn jitter_turn(models: &str, span: Duration) -> Result<Turn> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(Manner::Noting)?;
    let mut gateway = Gateway::new(directory.path());
    let interval = INTERVAL.as_millis();
    gateway.configure(&format!(
        "{}{models}",
        device(&server, &format!("{interval}ms"))
    ))?;
    gateway.start()?;
    thread::sleep(WARM_UP);
    server.asked.try_iter().for_each(drop);
    let pid = gateway.pid().context("the agent is gone")?;
    let before = Usage::of(pid)?;
    let sleeping = thread::spawn(move || sleep_evenly(span));
    thread::sleep(span);
    let asked = server.asked.try_iter().filter(|asked| asked.start == 0);
    let polls: Vec<Instant> = asked.map(|asked| asked.at).collect();
    let cpu = (Usage::of(pid)?.cpu - before.cpu).as_secs_f64() / span.as_secs_f64();
    let alone = sleeping.join().ok().context("the sleeper failed")?;
    let status = gateway.json(&["status"])?;
    gateway.terminate()?;
    ensure!(polls.len() > 2, "the agent does not poll");
    Ok(Turn {
        p99: off_grid(&polls, 0.99),
        alone: off_grid(&alone, 0.99),
        scored: sum(&status, "windows_total"),
        shed: sum(&status, "windows_shed_total"),
        cpu,
    })
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
    let mut config = device(&server, "1s");
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
            let _ = writeln!(config, "{role} = \"plc/t{tag}\"");
        }
    }
    gateway.configure(&config)?;
    gateway.start()?;
    // Windows fill in 20 s.
    thread::sleep(WARM_UP + Duration::from_secs(25));
    let pid = gateway.pid().context("the agent is gone")?;
    let scored = |gateway: &Gateway| anyhow::Ok(sum(&gateway.json(&["status"])?, "windows_total"));
    let (before, windows) = (Usage::of(pid)?, scored(&gateway)?);
    thread::sleep(span);
    let (after, windows) = (Usage::of(pid)?, scored(&gateway)? - windows);
    gateway.terminate()?;
    let cpu = (after.cpu - before.cpu).as_secs_f64() / span.as_secs_f64();
    Ok((after.rss as f64 / 1e6, cpu, windows))
}

fn device(server: &Server, interval: &str) -> String {
    let mut config = format!(
        "[[device]]\nname = \"plc\"\ndriver = \"modbus-tcp\"\naddress = \"{}\"\npoll_interval = \"{interval}\"\n\n",
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
                "[[model]]\nname = \"burning{nth}\"\nbundle = \"{}\"\n[model.inputs]\nlevel = \"plc/t7\"\n\n",
                bundle.display()
            )
        })
        .collect()
}

fn sum(status: &Value, key: &str) -> u64 {
    let models = status["models"].as_array().into_iter().flatten();
    models.filter_map(|model| model[key].as_u64()).sum()
}
