//! `millrace ledger`: where every sample went.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::client::Client;
use super::table::Table;
use super::{Failure, Global, output, show};

/// Where every sample went: acquired = acked + queued + dropped, for each device and model
#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    /// Recount what is queued from the chunks on disk; exit 1 where the counts differ
    #[arg(long)]
    verify: bool,
}

/// The rows of the uplink that is furthest behind, and those of each.
#[derive(Debug, Default, Deserialize)]
struct Ledger {
    #[serde(flatten)]
    furthest: Rows,
    #[serde(default)]
    uplinks: BTreeMap<String, Rows>,
}

/// Rows by source.
#[derive(Debug, Default, Deserialize)]
struct Rows {
    /// Samples.
    #[serde(default)]
    devices: BTreeMap<String, Row>,
    /// Events, in a log of their own.
    #[serde(default)]
    events: BTreeMap<String, Row>,
}

#[derive(Debug, Default, Deserialize)]
struct Row {
    acquired: u64,
    acked: u64,
    queued: u64,
    #[serde(default)]
    dropped: BTreeMap<String, u64>,
}

impl Row {
    fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    fn balances(&self) -> bool {
        self.acquired == self.acked + self.queued + self.dropped_total()
    }

    /// What was dropped and why; and whether the row is wrong in itself.
    fn why(&self) -> String {
        let mut why: Vec<String> = self
            .dropped
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{reason} {}", show::count(*count)))
            .collect();
        if !self.balances() {
            why.push("DOES NOT BALANCE".into());
        }
        why.join(", ")
    }
}

impl LedgerArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let path = if self.verify {
            "/v1/ledger?verify=1"
        } else {
            "/v1/ledger"
        };
        let answer: Value = Client::new(global).get(path)?;
        let ledger: Ledger = serde_json::from_value(answer.clone())
            .map_err(|e| Failure::new("the agent's ledger cannot be read").because(e))?;
        if global.json {
            output::json(&answer)?;
        } else {
            output::text(&render(&ledger))?;
        }
        Ok(if ledger.balances() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl Rows {
    /// Every row with what it counts and its source.
    fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &Row)> {
        let samples = self
            .devices
            .iter()
            .map(|(name, row)| ("samples", name, row));
        let events = self.events.iter().map(|(name, row)| ("events", name, row));
        samples
            .chain(events)
            .map(|(what, name, row)| (what, name.as_str(), row))
    }
}

impl Ledger {
    fn balances(&self) -> bool {
        let mut parts = self.uplinks.values().chain([&self.furthest]);
        parts.all(|rows| rows.iter().all(|(_, _, row)| row.balances()))
    }
}

fn render(ledger: &Ledger) -> String {
    let mut table = Table::new([
        "SOURCE",
        "OF",
        "UPLINK",
        ">ACQUIRED",
        ">ACKED",
        ">QUEUED",
        ">DROPPED",
        "WHY",
    ]);
    add(&mut table, "(all)", &ledger.furthest);
    // A single uplink has the very rows that stand above; only several differ from them.
    if ledger.uplinks.len() > 1 {
        for (uplink, rows) in &ledger.uplinks {
            add(&mut table, uplink, rows);
        }
    }
    if table.is_empty() {
        "Nothing was acquired yet.\n".into()
    } else {
        table.render("")
    }
}

fn add(table: &mut Table, uplink: &str, rows: &Rows) {
    for (what, name, row) in rows.iter() {
        table.row([
            name.into(),
            what.into(),
            uplink.into(),
            show::count(row.acquired),
            show::count(row.acked),
            show::count(row.queued),
            show::count(row.dropped_total()),
            row.why(),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ledger(value: Value) -> Ledger {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn one_uplink() {
        let row =
            json!({"acquired": 10_000, "acked": 9_000, "queued": 900, "dropped": {"crash": 100}});
        let text = render(&ledger(json!({
            "devices": {"boiler": row},
            "events": {"pump-anomaly": {"acquired": 2, "acked": 2, "queued": 0, "dropped": {}}},
            "uplinks": {"cloud": {"devices": {"boiler": row}}}
        })));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn several_uplinks_have_rows_of_their_own() {
        let row = |acked: u64| json!({"acquired": 10, "acked": acked, "queued": 10 - acked});
        let text = render(&ledger(json!({
            "devices": {"boiler": row(3)},
            "uplinks": {"cloud": {"devices": {"boiler": row(10)}}, "plant": {"devices": {"boiler": row(3)}}}
        })));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_wrong_sum_is_said() {
        let wrong = ledger(json!({
            "devices": {"boiler": {"acquired": 10, "acked": 3, "queued": 3, "dropped": {}}}
        }));
        assert!(!wrong.balances());
        assert!(render(&wrong).contains("DOES NOT BALANCE"));
    }

    #[test]
    fn an_empty_store() {
        assert_eq!(render(&Ledger::default()), "Nothing was acquired yet.\n");
    }
}
