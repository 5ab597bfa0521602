//! The uplink's session measured beside a bare publisher, against one mosquitto.
//!
//! The bare publisher is what there is to lose: a thread with a blocking socket that keeps as many QoS 1 messages under way, made
//! ahead of time, and only counts the PUBACKs. Both take turns, so that what else the machine does meets both.

mod bare;
mod session;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_tests::broker::Broker;
use millrace_tests::certificates::Certificates;

use crate::row::{Row, Target};
use crate::usage::cpu_time;

/// Messages that wait for their PUBACK, in both.
const INFLIGHT: usize = 100;

/// What one turn took.
#[derive(Debug, Clone, Copy)]
struct Turn {
    wall: Duration,
    /// Of this process.
    cpu: Duration,
}

impl Turn {
    fn of(work: impl FnOnce() -> Result<()>) -> Result<Turn> {
        let (began, cpu) = (Instant::now(), cpu_time());
        work()?;
        Ok(Turn {
            wall: began.elapsed(),
            cpu: cpu_time().saturating_sub(cpu),
        })
    }
}

/// Messages of one size.
#[derive(Debug, Clone, Copy)]
struct Load {
    name: &'static str,
    bytes: usize,
    messages: u64,
}

/// Runs the figures: `turns` of each publisher a size, `scale` times as many messages as a turn has by itself.
///
/// # Errors
/// When mosquitto or openssl is missing, or a connection fails.
pub fn uplink(turns: usize, scale: f64) -> Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path())?;
    let broker = Broker::start_tls(directory.path(), &certificates)?;
    let loads = [
        ("200 B", 200, 400_000.0),
        ("20 kB", 20_000, 50_000.0),
        ("100 kB", 100_000, 10_000.0),
    ];
    let mut rows = Vec::new();
    for (name, bytes, messages) in loads {
        let messages = (messages * scale).max(1_000.0) as u64;
        let load = Load {
            name,
            bytes,
            messages,
        };
        rows.extend(beside(&broker, load, turns)?);
    }
    rows.extend(tls(&broker, directory.path(), turns, scale)?);
    Ok(rows)
}

/// The session and the bare publisher in turns.
fn beside(broker: &Broker, load: Load, turns: usize) -> Result<Vec<Row>> {
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        bare.push(Turn::of(|| bare::publish(broker.port, load))?);
        ours.push(Turn::of(|| session::publish(&url, None, load))?);
    }
    let Load {
        name,
        bytes,
        messages,
    } = load;
    let count = messages as f64;
    let rate = |turn: &Turn| count / turn.wall.as_secs_f64() / 1e3;
    let cost = |turn: &Turn| turn.cpu.as_secs_f64() / count * 1e6;
    let ratios = bare.iter().zip(&ours);
    let ratio =
        median(ratios.map(|(bare, ours)| bare.wall.as_secs_f64() / ours.wall.as_secs_f64()));
    let mut rows = vec![
        Row::new(
            format!("{name}: message rate / the bare publisher's"),
            ratio,
        )
        .target(Target::AtLeast(0.9)),
        Row::new(
            format!("{name}: thousand messages a second, session"),
            median(ours.iter().map(rate)),
        ),
        Row::new(
            format!("{name}: the same, bare"),
            median(bare.iter().map(rate)),
        ),
    ];
    let ours_cost = median(ours.iter().map(cost));
    let bare_cost = median(bare.iter().map(cost));
    let gigabytes = count * bytes as f64 / 1e9;
    let per_gb = |turns: &[Turn]| median(turns.iter().map(|t| t.cpu.as_secs_f64() / gigabytes));
    match bytes {
        200 => rows.extend([
            Row::new(format!("{name}: CPU a message, us, session"), ours_cost)
                .target(Target::AtMost(3.0)),
            Row::new(format!("{name}: the same, bare"), bare_cost),
        ]),
        bytes => {
            let row = Row::new(format!("{name}: CPU-s a GB, session"), per_gb(&ours));
            rows.push(match bytes {
                20_000 => row.target(Target::AtMost(0.4)),
                _ => row,
            });
            rows.push(Row::new(format!("{name}: the same, bare"), per_gb(&bare)));
        }
    }
    Ok(rows)
}

/// The session over mutual TLS.
fn tls(broker: &Broker, files: &Path, turns: usize, scale: f64) -> Result<Vec<Row>> {
    let url = format!("mqtts://localhost:{}", broker.tls_port);
    let mut rows = Vec::new();
    for (name, bytes, messages) in [("200 B", 200, 400_000.0), ("20 kB", 20_000, 50_000.0)] {
        let messages = (messages * scale).max(1_000.0) as u64;
        let load = Load {
            name,
            bytes,
            messages,
        };
        let mut took = Vec::new();
        for _ in 0..turns {
            took.push(Turn::of(|| session::publish(&url, Some(files), load))?);
        }
        let count = messages as f64;
        let cpu = median(took.iter().map(|turn| turn.cpu.as_secs_f64()));
        rows.push(match bytes {
            200 => Row::new(
                format!("{name}, TLS: CPU a message, us, session"),
                cpu / count * 1e6,
            )
            .target(Target::AtMost(4.0)),
            bytes => Row::new(
                format!("{name}, TLS: CPU-s a GB, session"),
                cpu / (count * bytes as f64 / 1e9),
            ),
        });
    }
    Ok(rows)
}

/// How busy the machine is while nothing of ours runs: cores in use by others.
///
/// # Errors
/// When /proc cannot be read.
pub fn others() -> Result<f64> {
    let busy = || -> Result<(f64, f64)> {
        let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let idle: f64 = ticks.iter().skip(3).take(2).sum();
        Ok((ticks.iter().take(8).sum(), idle))
    };
    let (all, idle) = busy()?;
    std::thread::sleep(Duration::from_secs(2));
    let (all_later, idle_later) = busy()?;
    let cores = std::thread::available_parallelism()?.get() as f64;
    let share = 1.0 - (idle_later - idle) / (all_later - all).max(1.0);
    Ok(share * cores)
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
