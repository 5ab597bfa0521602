//! `millrace buffer status`: how much there is, and how long it will last.

use std::process::ExitCode;

use super::super::client::Client;
use super::super::table::Table;
use super::super::{Global, output, show};
use crate::report::BufferStatus;

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
    if let Some(error) = &buffer.commit_error {
        text.push_str(&show::bullet("! commits fail: ", error));
    }
    for finding in &buffer.recovery {
        text.push_str(&show::bullet("- ", finding));
    }
    let mut queued = Table::new(["UPLINK", ">QUEUED"]);
    for (uplink, count) in &buffer.queued {
        queued.row([uplink.clone(), show::count(*count)]);
    }
    if !queued.is_empty() {
        text.push('\n');
        text.push_str(&queued.render(""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_full_disk() {
        let text = render(&BufferStatus {
            dir: "/var/lib/millrace/buffer".into(),
            bytes: 4_000_000_000,
            max_bytes: 4 << 30,
            epochs: 63,
            queued: BTreeMap::from([("cloud".into(), 81_000_000), ("plant".into(), 12)]),
            commit_age_s: Some(75.0),
            commit_error: Some("no space left on device".into()),
            recovery: vec!["epoch data-000041 was salvaged: 812 of 815 chunks".into()],
        });
        insta::assert_snapshot!(text);
    }
}
