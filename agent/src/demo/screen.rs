//! What a spectator of the demonstration sees: a picture that redraws itself, or plain lines.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use super::timeline::{Phase, Span, Timeline};
use crate::cli::{show, status_state};
use crate::report::{DeviceState, Status, TagRow};

/// Columns of the score's bar: the threshold stands in its middle.
const BAR_COLUMNS: usize = 40;

/// One moment of the demonstration.
pub(super) struct View<'a> {
    pub(super) at: Duration,
    pub(super) timeline: &'a Timeline,
    /// What goes on, as a headline.
    pub(super) headline: &'a str,
    pub(super) status: &'a Status,
    /// The pump's sensors.
    pub(super) pump: &'a [TagRow],
    /// Values that the devices have served.
    pub(super) served: u64,
}

/// Where it is shown.
pub(super) enum Screen {
    /// A terminal: how many lines of it are ours.
    Terminal { lines: usize },
    /// A pipe or a file: the second that the last line is about. There is one line a second.
    Lines { last: Option<u64> },
    /// Nowhere: only the verdict counts.
    Silent,
}

impl Screen {
    /// Stdout as it is; nothing where only the verdict is wanted.
    pub(super) fn new(json: bool) -> Self {
        if json {
            Screen::Silent
        } else if std::io::stdout().is_terminal() {
            Screen::Terminal { lines: 0 }
        } else {
            Screen::Lines { last: None }
        }
    }

    /// Whether there is nobody to show anything to.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self, Screen::Silent)
    }

    /// Shows the moment.
    pub(super) fn show(&mut self, view: &View<'_>) -> std::io::Result<()> {
        match self {
            Screen::Silent => Ok(()),
            Screen::Terminal { lines } => {
                let picture = picture(view);
                let mut text = String::new();
                if *lines > 0 {
                    // Back to the first line of the last picture, and away with it.
                    let _ = write!(text, "\x1b[{lines}A\x1b[J");
                }
                text.push_str(&picture);
                *lines = picture.lines().count();
                print(&text)
            }
            Screen::Lines { last } => {
                let second = view.at.as_secs();
                if last.replace(second) == Some(second) {
                    return Ok(());
                }
                print(&line(view))
            }
        }
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The whole picture, at most 80 columns and 24 lines.
fn picture(view: &View<'_>) -> String {
    let mut text = format!(
        "millrace demo, second {} of {}\n{}\n\n",
        view.at.as_secs(),
        view.timeline.end.as_secs(),
        view.headline
    );
    for device in &view.status.devices {
        let _ = writeln!(
            text,
            "{:<13} {:<10} {:<8}  {:>2} of {} tags good  {:>7} reads",
            device.name,
            device.driver,
            status_state(device.state),
            device.tags_good,
            device.tags,
            show::count(device.reads_total),
        );
    }
    text.push('\n');
    for row in view.pump {
        let name = row.tag.rsplit('/').next().unwrap_or_default();
        let unit = row.unit.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "  {name:<14} {:>8} {unit:<5} {}",
            number(row),
            age(row)
        );
    }
    text.push('\n');
    text.push_str(&score_lines(view));
    text.push_str(&delivery_lines(view));
    text
}

fn number(row: &TagRow) -> String {
    match row.value.as_f64() {
        Some(number) => format!("{number:.2}"),
        None => show::value(&row.value),
    }
}

/// Quality and age: a value never stands alone.
fn age(row: &TagRow) -> String {
    let reason = row.reason.as_deref().unwrap_or(&row.quality);
    let age = row.age_ms.map_or_else(|| "-".into(), show::millis);
    format!("{reason:<12} {age:>9} old")
}

fn score_lines(view: &View<'_>) -> String {
    let mut text = String::new();
    for model in &view.status.models {
        let verdict = match (model.anomaly, model.state.as_str()) {
            (true, _) => "ANOMALY",
            (false, "running") => "normal",
            (false, other) => other,
        };
        let _ = writeln!(
            text,
            "{:<13} score {:>6}  {}  {verdict}",
            model.name,
            show::decimal(model.score),
            bar(model.ratio.unwrap_or(0.0)),
        );
    }
    text
}

/// The score over its threshold; the threshold is the mark in the middle.
fn bar(ratio: f64) -> String {
    let half = BAR_COLUMNS / 2;
    let filled = (ratio.max(0.0) * half as f64)
        .round()
        .min(BAR_COLUMNS as f64) as usize;
    let mut bar = String::from("[");
    for column in 0..BAR_COLUMNS {
        if column == half {
            bar.push('|');
        }
        bar.push(if column < filled { '#' } else { ' ' });
    }
    bar.push(']');
    bar
}

fn delivery_lines(view: &View<'_>) -> String {
    let status = view.status;
    let mut text = format!(
        "devices       served {:>9} values\n",
        show::count(view.served)
    );
    let _ = writeln!(
        text,
        "buffer        queued {:>9} samples, {} on disk",
        show::count(status.buffer.queued.values().sum()),
        show::bytes(status.buffer.bytes)
    );
    for uplink in &status.uplinks {
        let _ = writeln!(
            text,
            "uplink        {:<10} {:>5} samples and events acknowledged",
            uplink.state,
            show::count(uplink.records_acked_total)
        );
    }
    text
}

/// The moment in one line.
fn line(view: &View<'_>) -> String {
    let status = view.status;
    let devices: Vec<String> = status
        .devices
        .iter()
        .map(|device| match device.state {
            DeviceState::Online => format!("{} {}/{}", device.name, device.tags_good, device.tags),
            state => format!("{} {}", device.name, status_state(state)),
        })
        .collect();
    let model = status.models.first();
    let score = show::decimal(model.and_then(|model| model.score));
    let anomaly = if model.is_some_and(|model| model.anomaly) {
        " ANOMALY"
    } else {
        ""
    };
    let uplink = status.uplinks.first();
    format!(
        "{:>4} s  {}  score {score}{anomaly}  uplink {}  queued {}  {}\n",
        view.at.as_secs(),
        devices.join("  "),
        uplink.map_or("-", |uplink| uplink.state.as_str()),
        status.buffer.queued.values().sum::<u64>(),
        view.headline
    )
}

/// What a run is going to be, said before it begins.
pub(super) fn announcement(timeline: &Timeline) -> String {
    let span = |span: &Span| format!("{} to {} s", span.begin.as_secs(), span.end.as_secs());
    let spans = |spans: &[Span]| {
        let first: Vec<String> = spans.iter().take(3).map(span).collect();
        let more = if spans.len() > 3 { ", …" } else { "" };
        format!("{}{more}", first.join(", "))
    };
    format!(
        "A simulated pump station (Modbus TCP) and tank farm (OPC UA), the agent, and a\nbroker, all in \
         this process. The pump is sick from {}; the broker is\noff from {}.\n\n",
        spans(&timeline.faults),
        spans(&timeline.cuts)
    )
}

/// The headline of a phase.
pub(super) fn headline(phase: Phase) -> &'static str {
    phase.text()
}

#[cfg(test)]
mod tests;
