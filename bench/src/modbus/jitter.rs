//! How evenly the agent polls.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;

use super::server::Manner;
use super::{Server, percentile};
use crate::{Row, Target};

pub(super) const INTERVAL: Duration = Duration::from_millis(100);

const TAGS: u16 = 1_000;

/// Connections and first pages are not what this is about.
pub(super) const WARM_UP: Duration = Duration::from_secs(5);

/// How far the polls of the agent are off their grid as the device sees it, and a thread of this process that only sleeps
/// is at the same time; milliseconds, all but one in a hundred.
///
/// # Errors
/// The agent cannot be started.
pub fn jitter(span: Duration) -> Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(Manner::Noting)?;
    let mut gateway = Gateway::new(directory.path());
    configure(&gateway, &server)?;
    gateway.start()?;
    thread::sleep(WARM_UP);
    server.asked.try_iter().for_each(drop);
    let sleeping = thread::spawn(move || sleep_evenly(span));
    thread::sleep(span);
    let asked = server.asked.try_iter().filter(|asked| asked.start == 0);
    let polls: Vec<Instant> = asked.map(|asked| asked.at).collect();
    gateway.terminate()?;
    let alone = sleeping.join().ok().context("the sleeper failed")?;
    anyhow::ensure!(polls.len() > 2, "the agent does not poll");
    let due = (span.as_secs_f64() / INTERVAL.as_secs_f64()) as usize;
    let missing = due.saturating_sub(polls.len()) as f64;
    Ok(vec![
        Row::new(
            "poll jitter, 1,000 tags each 100 ms, ms, p99",
            off_grid(&polls, 0.99),
        )
        .target(Target::AtMost(1.0)),
        Row::new("the same, median", off_grid(&polls, 0.5)),
        Row::new("polls that did not come", missing).target(Target::AtMost(1.0)),
        Row::new(
            "the jitter of a thread that only sleeps, p99",
            off_grid(&alone, 0.99),
        ),
    ])
}

fn configure(gateway: &Gateway, server: &Server) -> Result<()> {
    let mut tags = "name,address,type\n".to_owned();
    for i in 0..TAGS {
        tags += &format!("t{i},holding:{},u32\n", i * 2);
    }
    gateway.write("tags.csv", &tags)?;
    let (address, interval) = (server.address, INTERVAL.as_millis());
    gateway.configure(&format!(
        "[[device]]\nname = \"plc\"\ndriver = \"modbus-tcp\"\naddress = \"{address}\"\n\
         poll_interval = \"{interval}ms\"\ntags_file = \"tags.csv\"\n"
    ))
}

/// How far this share of the moments is off the grid that fits them, at most.
pub(super) fn off_grid(moments: &[Instant], share: f64) -> f64 {
    percentile(&mut offsets(moments), share)
}

/// How far each of the moments is off the grid that fits them, milliseconds.
pub(super) fn offsets(moments: &[Instant]) -> Vec<f64> {
    let Some(&first) = moments.first() else {
        return Vec::new();
    };
    let interval = INTERVAL.as_secs_f64() * 1e3;
    let since = |moment: &Instant| moment.duration_since(first).as_secs_f64() * 1e3;
    // From the first moment's place in the grid, half an interval to either side.
    let mut off: Vec<f64> = moments
        .iter()
        .map(|moment| (since(moment) + interval / 2.0) % interval - interval / 2.0)
        .collect();
    let middle = percentile(&mut off, 0.5);
    off.iter_mut().for_each(|off| *off = (*off - middle).abs());
    off
}

pub(super) fn sleep_evenly(span: Duration) -> Vec<Instant> {
    let begun = Instant::now();
    let mut moments = Vec::new();
    for nth in 1.. {
        let due = INTERVAL * nth;
        if due > span {
            break;
        }
        thread::sleep((begun + due).saturating_duration_since(Instant::now()));
        moments.push(Instant::now());
    }
    moments
}
