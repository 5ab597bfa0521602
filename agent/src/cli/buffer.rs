//! `millrace buffer`: the store.

use std::process::ExitCode;

use clap::Subcommand;

use super::client::Client;
use super::later::AnyArgs;
use super::table::Table;
use super::{Global, Later, output, show};
use crate::report::BufferStatus;

/// What can be done with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum BufferCommand {
    /// Bytes, epochs, what is queued, what opening found
    Status,
    /// Look at stored samples
    Peek(AnyArgs),
    /// Write stored samples as CSV or JSON lines
    Export(AnyArgs),
    /// Throw stored samples away
    Purge(AnyArgs),
    /// Messages that the core refuses
    #[command(subcommand)]
    Poison(PoisonCommand),
}

/// Messages that were set aside.
#[derive(Debug, Subcommand)]
pub(crate) enum PoisonCommand {
    /// Which
    List(AnyArgs),
    /// Send one again
    Retry(AnyArgs),
    /// Give one up
    Drop(AnyArgs),
}

impl BufferCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let follow = "`millrace tags --follow` prints values as they come";
        let set_aside = "no message is set aside: every one is sent again until it is acknowledged";
        match self {
            BufferCommand::Status => status(global),
            BufferCommand::Peek(_) => Later::new("buffer peek", follow).refuse(),
            BufferCommand::Export(_) => Later::new("buffer export", follow).refuse(),
            BufferCommand::Purge(_) => Later::new(
                "buffer purge",
                "stop the agent and remove DATA_DIR/buffer to lose what is queued",
            )
            .refuse(),
            BufferCommand::Poison(PoisonCommand::List(_)) => {
                Later::new("buffer poison list", set_aside).refuse()
            }
            BufferCommand::Poison(PoisonCommand::Retry(_)) => {
                Later::new("buffer poison retry", set_aside).refuse()
            }
            BufferCommand::Poison(PoisonCommand::Drop(_)) => {
                Later::new("buffer poison drop", set_aside).refuse()
            }
        }
    }
}

fn status(global: &Global) -> anyhow::Result<ExitCode> {
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
