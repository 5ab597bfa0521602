//! `millrace buffer poison`: messages that a core refuses.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::client::Client;
use crate::cli::table::Table;
use crate::cli::{Failure, Global, output, show};
use crate::poison::{PoisonAction, PoisonDone, PoisonRequest, PoisonRow};

/// Messages that were set aside.
#[derive(Debug, Subcommand)]
pub(crate) enum PoisonCommand {
    /// Which, why, since when
    List,
    /// Send them again, for example after the core takes larger messages
    Retry(Which),
    /// Give them up: they are counted as dropped, and the core is told that nothing will come
    Drop(Which),
}

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Ids, as `list` shows them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<u64>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl PoisonCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            PoisonCommand::List => list(global),
            PoisonCommand::Retry(which) => resolve(global, which, PoisonAction::Retry),
            PoisonCommand::Drop(which) => resolve(global, which, PoisonAction::Drop),
        }
    }
}

fn list(global: &Global) -> anyhow::Result<ExitCode> {
    let rows: Vec<PoisonRow> = Client::new(global).get("/v1/buffer/poison")?;
    if global.json {
        output::json(&rows)?;
    } else {
        output::text(&render(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(rows: &[PoisonRow]) -> String {
    if rows.is_empty() {
        return "No message is set aside.\n".into();
    }
    let mut table = Table::new([
        ">ID", "UPLINK", "SOURCE", "NUMBERS", ">TRIES", "SINCE", "WHY",
    ]);
    for row in rows {
        let numbers = match row.first_seq == row.last_seq {
            true => row.first_seq.to_string(),
            false => format!("{}-{}", row.first_seq, row.last_seq),
        };
        table.row([
            row.id.to_string(),
            row.uplink.clone(),
            row.source.clone(),
            numbers,
            row.tries.to_string(),
            row.since_ms.map_or_else(|| "-".into(), show::utc),
            row.reason.clone(),
        ]);
    }
    table.render("")
}

fn resolve(global: &Global, which: Which, action: PoisonAction) -> anyhow::Result<ExitCode> {
    let request = PoisonRequest {
        action,
        ids: which.ids,
    };
    let done: PoisonDone = Client::new(global).post("/v1/buffer/poison", &request)?;
    if global.json {
        output::json(&done)?;
    } else {
        output::text(&told(&done, action))?;
    }
    if done.unknown.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let unknown: Vec<String> = done.unknown.iter().map(ToString::to_string).collect();
    Err(
        Failure::new(format!("nothing is set aside under {}", unknown.join(", ")))
            .hint("see `millrace buffer poison list`")
            .into(),
    )
}

fn told(done: &PoisonDone, action: PoisonAction) -> String {
    let count = done.done.len();
    let messages = if count == 1 { "message" } else { "messages" };
    match action {
        PoisonAction::Retry => format!("{count} {messages} will be sent again\n"),
        PoisonAction::Drop => {
            format!("{count} {messages} given up and counted as dropped (poison)\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside() {
        let row = PoisonRow {
            id: 7,
            uplink: "cloud".into(),
            source: "boiler".into(),
            log: "data".into(),
            first_seq: 1201,
            last_seq: 1201,
            records: 1,
            reason: "the broker closes the connection whenever it gets this message".into(),
            tries: 12,
            since_ms: Some(1_763_690_000_123.0),
            ..PoisonRow::default()
        };
        let events = PoisonRow {
            id: 12,
            first_seq: 4,
            last_seq: 9,
            since_ms: None,
            tries: 1,
            ..row.clone()
        };
        insta::assert_snapshot!(render(&[row, events]));
    }
}
