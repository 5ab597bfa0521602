//! `millrace demo`: the main job in one process, with a verdict counted outside the agent.
//!
//! A simulated plant ([`plant`]) is read by a real agent with a real configuration file, buffer, model
//! and uplink; an embedded broker takes what it sends. The pump becomes sick, the broker is cut off and
//! healed ([`timeline`]); at the end, what the devices say they served is held against what the broker
//! took custody of ([`tally`], [`verdict`]). Everything lives in a temporary directory and on free
//! loopback ports, and is gone afterwards.

mod key;
mod plant;
mod pump;
mod screen;
mod site;
mod tally;
mod timeline;
mod verdict;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::cli::{init_logs, interrupted, output};
use screen::Screen;
use site::Site;
use timeline::{SECONDS_MAX, SECONDS_MIN, Timeline};
use verdict::Verdict;

/// The agent on two threads, the plant and the broker beside it.
const WORKER_THREADS: usize = 2;
/// Between two pictures: a redraw that the eye takes for motion.
const PICTURE_EVERY: Duration = Duration::from_millis(250);

/// Show the main job on simulated devices: no network, no root, nothing left behind
///
/// A simulated pump station and tank farm, the agent with a bundled model, and an embedded broker run in
/// one process. The pump gets a fault, the broker is cut off for some seconds, and the verdict is counted
/// outside the agent: served by the devices, delivered at the broker. Exit 0 when nothing is missing and
/// the model saw the fault.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How long it takes
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(SECONDS_MIN..=SECONDS_MAX)
    )]
    seconds: u64,
}

/// Runs the demonstration; with `json` only the verdict is printed.
pub(crate) fn run(args: &DemoArgs, json: bool) -> anyhow::Result<ExitCode> {
    // An outage is part of the story and no news; what is printed is the picture.
    init_logs("error");
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(play(Timeline::new(args.seconds), json))
}

async fn play(timeline: Timeline, json: bool) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted()?);
    // Dropping it removes it, however this function is left.
    let directory = tempfile::Builder::new()
        .prefix("millrace-demo-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    let mut screen = Screen::new(json);
    if !json {
        output::text(&screen::announcement(&timeline))?;
    }
    let mut site = tokio::select! {
        site = Site::open(directory.path(), timeline) => site?,
        () = &mut interrupted => return Ok(stopped_early()),
    };
    let told = tokio::select! {
        told = tell(&mut site, &mut screen) => Some(told),
        () = &mut interrupted => None,
    };
    // However the story ended: the agent must not write into the directory any more.
    let verdict = site.close().await;
    directory
        .close()
        .context("cannot remove the temporary directory")?;
    match told {
        None => Ok(stopped_early()),
        Some(told) => {
            told?;
            pronounce(&verdict?, json)
        }
    }
}

/// The story from the first poll to the last acknowledgement.
async fn tell(site: &mut Site, screen: &mut Screen) -> anyhow::Result<()> {
    let mut pictures = tokio::time::interval(PICTURE_EVERY);
    pictures.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while site.at() < site.timeline.stop {
        pictures.tick().await;
        site.follow_timeline().await;
        site.show(screen, None)?;
    }
    site.stop_devices().await;
    while !site.is_drained() {
        pictures.tick().await;
        site.show(screen, Some("devices stopped: the buffer drains"))?;
    }
    site.show(screen, Some("devices stopped, buffer drained"))
}

fn pronounce(verdict: &Verdict, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        output::json(verdict)?;
    } else {
        output::text(&verdict.text())?;
    }
    Ok(if verdict.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn stopped_early() -> ExitCode {
    eprintln!("stopped before the end: no verdict, and nothing is left behind");
    ExitCode::SUCCESS
}
