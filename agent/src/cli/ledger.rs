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

#[derive(Debug, Default, Deserialize)]
struct Ledger {
    #[serde(default)]
    devices: BTreeMap<String, Row>,
    #[serde(default)]
    uplinks: BTreeMap<String, UplinkLedger>,
}

#[derive(Debug, Default, Deserialize)]
struct UplinkLedger {
    #[serde(default)]
    devices: BTreeMap<String, Row>,
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
        Ok(if ledger.rows().all(|(_, _, row)| row.balances()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl Ledger {
    /// Every row with its uplink, which is empty for the row of the uplink that is furthest behind.
    fn rows(&self) -> impl Iterator<Item = (&str, &str, &Row)> {
        let devices = self.devices.iter().map(|(name, row)| ("", &**name, row));
        let uplinks = self.uplinks.iter().flat_map(|(uplink, ledger)| {
            let devices = ledger.devices.iter();
            devices.map(move |(name, row)| (&**uplink, &**name, row))
        });
        devices.chain(uplinks)
    }
}

fn render(ledger: &Ledger) -> String {
    if ledger.devices.is_empty() {
        return "Nothing was acquired yet.\n".into();
    }
    // One uplink has the very rows of `devices`; only several differ from them.
    let several = ledger.uplinks.len() > 1;
    let mut table = Table::new([
        "SOURCE",
        "UPLINK",
        ">ACQUIRED",
        ">ACKED",
        ">QUEUED",
        ">DROPPED",
        "WHY",
    ]);
    for (uplink, name, row) in ledger.rows() {
        if !several && !uplink.is_empty() {
            continue;
        }
        let mut why: Vec<String> = row
            .dropped
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{reason} {}", show::count(*count)))
            .collect();
        if !row.balances() {
            why.push("DOES NOT BALANCE".into());
        }
        table.row([
            name.into(),
            if uplink.is_empty() { "(all)" } else { uplink }.into(),
            show::count(row.acquired),
            show::count(row.acked),
            show::count(row.queued),
            show::count(row.dropped_total()),
            why.join(", "),
        ]);
    }
    table.render("")
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
            "uplinks": {"cloud": {"devices": {"boiler": row}}}
        })));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_wrong_sum_is_said() {
        let wrong = ledger(json!({
            "devices": {"boiler": {"acquired": 10, "acked": 3, "queued": 3, "dropped": {}}}
        }));
        assert!(render(&wrong).contains("DOES NOT BALANCE"));
    }

    #[test]
    fn an_empty_store() {
        assert_eq!(render(&Ledger::default()), "Nothing was acquired yet.\n");
    }
}
