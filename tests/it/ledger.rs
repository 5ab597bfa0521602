//! The ledger as the program prints it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use serde_json::Value;

/// One row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) acquired: u64,
    pub(crate) acked: u64,
    pub(crate) queued: u64,
    pub(crate) dropped: BTreeMap<String, u64>,
}

/// `millrace ledger --verify`: rows by device. Every row must balance.
pub(crate) fn verified(gateway: &Gateway) -> Result<BTreeMap<String, Row>> {
    let ledger = gateway.json(&["ledger", "--verify"])?;
    let devices = ledger["devices"]
        .as_object()
        .with_context(|| format!("no devices in {ledger}"))?;
    devices
        .iter()
        .map(|(name, row)| Ok((name.clone(), Row::read(name, row)?)))
        .collect()
}

impl Row {
    fn read(name: &str, row: &Value) -> Result<Row> {
        let number = |key: &str| {
            row[key]
                .as_u64()
                .with_context(|| format!("{key} of {name} in {row}"))
        };
        let dropped = row["dropped"]
            .as_object()
            .with_context(|| format!("dropped of {name} in {row}"))?;
        let row = Row {
            acquired: number("acquired")?,
            acked: number("acked")?,
            queued: number("queued")?,
            dropped: dropped
                .iter()
                .filter_map(|(reason, n)| Some((reason.clone(), n.as_u64()?)))
                .collect(),
        };
        ensure!(
            row.acquired == row.acked + row.queued + row.lost(),
            "{name} does not balance: {row:?}"
        );
        Ok(row)
    }

    /// Dropped for any reason.
    pub(crate) fn lost(&self) -> u64 {
        self.dropped.values().sum()
    }
}
