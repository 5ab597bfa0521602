//! `millrace buffer status`: how much there is, and how long it will last.

use std::process::ExitCode;

use super::super::client::Client;
use super::super::table::Table;
use super::super::{Global, output, show};
use crate::report::{BufferStatus, about_duration};

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let buffer: BufferStatus = Client::new(global).get("/v1/buffer")?;
    if global.json {
        output::json(&buffer)?;
    } else {
        output::text(&render(&buffer))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(buffer: &BufferStatus) -> String {
    let share = if buffer.max_bytes == 0 {
        0.0
    } else {
        100.0 * buffer.bytes as f64 / buffer.max_bytes as f64
    };
    let mut text = format!(
        "place    {}\nbytes    {} of {} ({share:.1} %)\nepochs   {}\n",
        buffer.dir,
        show::bytes(buffer.bytes),
        show::bytes(buffer.max_bytes),
        buffer.epochs
    );
    let commit = buffer.commit_age_s.map_or_else(
        || "none yet".into(),
        |age| format!("{} ago", show::millis(age * 1000.0)),
    );
    text.push_str(&format!("commit   {commit}\n"));
    if let Some(free) = buffer.free_bytes {
        let reserve = show::bytes(buffer.reserve_bytes);
        let free = show::bytes(free);
        text.push_str(&format!(
            "disk     {free} free, {reserve} of them stay so\n"
        ));
    }
    text.push_str(&format!(
        "runway   {}\n",
        match buffer.runway_s {
            Some(left) => format!("full in about {} without an uplink", about_duration(left)),
            None => "not known yet, or nothing is stored".to_owned(),
        }
    ));
    if let Some(error) = &buffer.commit_error {
        text.push_str(&show::bullet("! commits fail: ", error));
    }
    for store in buffer.unread.iter().chain(&buffer.set_aside) {
        text.push_str(&show::bullet("! ", store));
    }
    for finding in &buffer.recovery {
        text.push_str(&show::bullet("- ", finding));
    }
    let mut logs = Table::new([
        "LOG",
        ">BYTES",
        ">LIMIT",
        ">KEPT",
        ">EPOCHS",
        ">CHUNKS",
        ">PER HOUR",
        ">FULL IN",
        "OLDEST",
    ]);
    for (name, log) in &buffer.logs {
        let full_in = match (log.full, log.runway_s) {
            (true, _) => "FULL".to_owned(),
            (false, left) => runway(left),
        };
        logs.row([
            name.clone(),
            show::bytes(log.bytes),
            show::bytes(log.max_bytes),
            show::bytes(log.kept_bytes),
            show::count(log.epochs),
            show::count(log.chunks),
            log.bytes_per_hour.map_or_else(|| "-".into(), show::bytes),
            full_in,
            log.oldest.map_or_else(|| "-".into(), show::utc),
        ]);
    }
    let mut lanes = Table::new([
        "UPLINK", ">QUEUED", ">ALARM", ">LIVE", ">BACKLOG", ">POISON",
    ]);
    for (uplink, count) in &buffer.queued {
        let of_uplink = buffer.lanes.get(uplink).copied().unwrap_or_default();
        let poison = buffer.poison.get(uplink).copied().unwrap_or(0);
        lanes.row([
            uplink.clone(),
            show::count(*count),
            show::count(of_uplink.alarm),
            show::count(of_uplink.live),
            show::count(of_uplink.backlog),
            show::count(poison),
        ]);
    }
    for table in [logs, lanes].iter().filter(|table| !table.is_empty()) {
        text.push('\n');
        text.push_str(&table.render(""));
    }
    text
}

fn runway(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".into(), about_duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Lanes, LogStatus};
    use std::collections::BTreeMap;

    #[test]
    fn a_full_disk() {
        let text = render(&BufferStatus {
            dir: "/var/lib/millrace/buffer".into(),
            bytes: 4_000_000_000,
            max_bytes: 4 << 30,
            epochs: 63,
            queued: BTreeMap::from([("cloud".into(), 81_000_000), ("plant".into(), 12)]),
            lanes: BTreeMap::from([(
                "cloud".into(),
                Lanes {
                    alarm: 3,
                    live: 512,
                    backlog: 80_999_485,
                },
            )]),
            poison: BTreeMap::from([("cloud".into(), 2)]),
            logs: BTreeMap::from([
                (
                    "data".into(),
                    LogStatus {
                        bytes: 3_990_000_000,
                        max_bytes: 4_100_000_000,
                        kept_bytes: 120_000_000,
                        epochs: 62,
                        chunks: 310_000,
                        bytes_per_hour: Some(9_100_000),
                        runway_s: Some(90_000),
                        oldest: Some(1_763_690_000_000.0),
                        ..LogStatus::default()
                    },
                ),
                (
                    "alarm".into(),
                    LogStatus {
                        full: true,
                        epochs: 1,
                        ..LogStatus::default()
                    },
                ),
            ]),
            runway_s: Some(90_000),
            free_bytes: Some(700_000_000),
            reserve_bytes: 64_000_000,
            uncommitted: 12,
            commit_age_s: Some(75.0),
            commit_error: Some("no space left on device".into()),
            recovery: vec!["epoch data-000041 was salvaged: 812 of 815 chunks".into()],
            ..BufferStatus::default()
        });
        insta::assert_snapshot!(text);
    }
}
