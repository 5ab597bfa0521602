//! `millrace status`: the agent in one screen, problems first.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::client::Client;
use super::table::Table;
use super::{Global, output, show};
use crate::report::{
    BootstrapStatus, BufferStatus, ClockStatus, ConfigStatus, CoreStatus, DeviceState,
    DeviceStatus, MeteredStatus, Status, TroubleReport, UplinkStatus, about_duration,
};

/// Asks the agent and prints.
pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let status = fetch(global)?;
    if global.json {
        output::json(&status)?;
    } else {
        output::text(&render(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The agent's status.
pub(super) fn fetch(global: &Global) -> anyhow::Result<Status> {
    Client::new(global).get("/v1/status")
}

/// The whole screen.
fn render(status: &Status) -> String {
    let mut text = format!(
        "{}  millrace {}  up {}  configuration: {}\n",
        status.gateway,
        status.version,
        show::seconds(status.uptime_s),
        status.config.source
    );
    text.push_str(&problems(status));
    section(&mut text, "DEVICES", &devices(&status.devices));
    section(
        &mut text,
        "UPLINKS",
        &uplinks(&status.uplinks, &status.buffer),
    );
    for uplink in &status.uplinks {
        if let Some(core) = &uplink.core {
            text.push_str(&core_line(&uplink.name, core));
        }
        if let Some(metered) = &uplink.metered {
            text.push_str(&metered_line(&uplink.name, metered));
        }
    }
    section(&mut text, "MODELS", &models::table(&status.models));
    for model in &status.models {
        text.push_str(&models::lines(model));
    }
    text.push('\n');
    text.push_str(&buffer_line(&status.buffer));
    text.push_str(&clock_line(&status.clock));
    if let Some(bootstrap) = &status.bootstrap {
        text.push_str(&bootstrap_line(bootstrap));
    }
    text
}

fn section(text: &mut String, name: &str, table: &Table) {
    if table.is_empty() {
        let _ = write!(text, "\n{name}: none\n");
    } else {
        let _ = write!(text, "\n{name}\n{}", table.render("  "));
    }
}

fn problems(status: &Status) -> String {
    let ConfigStatus {
        problems, notes, ..
    } = &status.config;
    let mut text = String::new();
    if status.problems.is_empty() && problems.is_empty() {
        text.push_str("No problems.\n");
    } else {
        text.push_str("\nPROBLEMS\n");
    }
    for problem in &status.problems {
        text.push_str(&show::bullet("  ! ", problem));
    }
    for problem in problems {
        text.push_str(&show::bullet("  ! configuration: ", problem));
    }
    for note in notes {
        text.push_str(&show::bullet("  - ", note));
    }
    if let Some(change) = &status.config.last_change {
        let line = match &change.error {
            Some(error) => format!("the last change ({}) was taken back: {error}", change.who),
            None => format!("the last change ({}): {}", change.who, change.state),
        };
        text.push_str(&show::bullet("  - configuration: ", &line));
    }
    text
}

/// `online`, `offline`, …
pub(crate) fn state_name(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Starting => "starting",
        DeviceState::Online => "online",
        DeviceState::Offline => "offline",
        DeviceState::Paused => "paused",
    }
}

/// One line a device.
pub(super) fn devices(devices: &[DeviceStatus]) -> Table {
    let mut table = Table::new([
        "NAME", "STATE", ">GOOD", ">READ", ">READS", ">ERRORS", ">LATE", "ADDRESS", "FAULTS",
    ]);
    for device in devices {
        let read = if device.reads_total == 0 {
            "-".into()
        } else {
            show::millis(device.read_ms)
        };
        table.row([
            device.name.clone(),
            state_name(device.state).into(),
            format!("{}/{}", device.tags_good, device.tags),
            read,
            show::count(device.reads_total),
            show::count(device.read_errors_total),
            show::count(device.overruns_total),
            device.address.clone(),
            (device.trouble.as_ref()).map_or_else(String::new, TroubleReport::counted),
        ]);
    }
    table
}

/// One line an uplink, with what is queued for it.
pub(super) fn uplinks(uplinks: &[UplinkStatus], buffer: &BufferStatus) -> Table {
    let mut table = Table::new(["NAME", "STATE", "PROFILE", ">ACKED", ">QUEUED", "URL"]);
    for uplink in uplinks {
        let queued = buffer.queued.get(&uplink.name);
        table.row([
            uplink.name.clone(),
            uplink.state.clone(),
            uplink.profile.clone(),
            show::count(uplink.records_acked_total),
            queued.map_or_else(|| "-".into(), |n| show::count(*n)),
            uplink.url.clone(),
        ]);
    }
    table
}

/// What a core that settles by itself has acknowledged.
fn core_line(name: &str, core: &CoreStatus) -> String {
    show::bullet("  core: ", &format!("{name}: {}", core_words(core)))
}

/// The same, as part of a sentence.
pub(super) fn core_words(core: &CoreStatus) -> String {
    let last = match core.last_ack_s {
        Some(ago) => format!("its last ack was {} ago", show::seconds(ago)),
        None => "it has sent no ack yet".to_owned(),
    };
    let (waiting, again) = (
        show::count(core.waiting),
        show::count(core.sent_again_total),
    );
    format!("{waiting} samples and events wait for its ack, {again} were sent again; {last}")
}

/// What a metered link has used.
fn metered_line(name: &str, metered: &MeteredStatus) -> String {
    let used = show::bytes(metered.used_today);
    let of = metered
        .bytes_per_day
        .map_or_else(String::new, |all| format!(" of {}", show::bytes(all)));
    let next = match metered.next_batch_s {
        Some(left) => format!(", next samples in {}", show::seconds(left)),
        None => format!(", sends {}", metered.sends),
    };
    show::bullet(
        "  metered: ",
        &format!("{name} used {used}{of} today{next}"),
    )
}

fn buffer_line(buffer: &BufferStatus) -> String {
    let commit = match (&buffer.commit_error, buffer.commit_age_s) {
        (Some(error), _) => format!("COMMITS FAIL: {error}"),
        (None, Some(age)) => format!("committed {} ago", show::millis(age * 1000.0)),
        (None, None) => "nothing committed yet".into(),
    };
    let runway = buffer.runway_s.map_or_else(String::new, |left| {
        format!(", full in about {} without an uplink", about_duration(left))
    });
    show::bullet(
        "BUFFER  ",
        &format!(
            "{} of {} in {} epochs, {commit}{runway}",
            show::bytes(buffer.bytes),
            show::bytes(buffer.max_bytes),
            buffer.epochs
        ),
    )
}

fn clock_line(clock: &ClockStatus) -> String {
    match (clock.set, &clock.utc) {
        (true, Some(utc)) => format!("CLOCK   {utc}\n"),
        (true, None) => "CLOCK   set\n".into(),
        (false, _) => "CLOCK   not set: samples are kept with monotonic time until it is\n".into(),
    }
}

/// State of the first contact.
pub(super) fn bootstrap_line(bootstrap: &BootstrapStatus) -> String {
    let mut sentence = format!("{}: {}", bootstrap.provider, bootstrap.state);
    if let Some(message) = &bootstrap.message {
        let _ = write!(sentence, "; {message}");
    }
    if let Some(claim) = &bootstrap.claim {
        let _ = write!(sentence, "; {claim}");
    }
    show::bullet("ENROLMENT  ", &sentence)
}

mod models;
#[cfg(test)]
mod tests;
