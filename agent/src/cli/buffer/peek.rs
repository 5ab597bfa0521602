//! `millrace buffer peek`: a look at the newest or oldest of what is stored.

use std::process::ExitCode;

use clap::Args;
use millrace_tags::LogKind;
use serde_json::Value;

use super::super::table::Table;
use super::super::{Failure, Global, output, show};
use super::{Log, note_outcome, store};
use crate::stored::{COUNT_MAX, ChunksRequest, Format, Request};

/// Look at the newest of what is stored, or the oldest
///
/// Only what is committed is there: what came in the last second may be missing.
#[derive(Debug, Args)]
pub(crate) struct PeekArgs {
    /// Only tags whose full name matches, for example 'boiler/*'; of events: only these sources
    #[arg(value_name = "PATTERN")]
    pattern: Option<String>,
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    count: usize,
    /// The oldest instead of the newest
    #[arg(long)]
    oldest: bool,
    /// Samples, or events
    #[arg(long, value_enum, default_value_t = Log::Data)]
    log: Log,
    /// Show how records lie on the disk: chunk by chunk
    #[arg(long, conflicts_with = "pattern")]
    chunks: bool,
}

impl PeekArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if self.count > COUNT_MAX {
            return Err(Failure::usage(format!(
                "at most {COUNT_MAX} records can be shown at once"
            ))
            .hint("`millrace buffer export` writes any number")
            .into());
        }
        let log = LogKind::from(self.log);
        let mut lines = Vec::new();
        let outcome = if self.chunks {
            let request = ChunksRequest {
                log,
                count: self.count,
                newest: !self.oldest,
            };
            store::chunks(global, &request, &mut lines)?
        } else {
            let events = log == LogKind::Alarm;
            let request = Request {
                log,
                format: Format::Jsonl,
                source: self.pattern.clone().filter(|_| events),
                tag: self.pattern.clone().filter(|_| !events),
                from: None,
                to: None,
                count: Some(self.count),
                newest: !self.oldest,
            };
            store::records(global, &request, &mut lines, |_| {})?
        };
        let rows: Vec<Value> = serde_json::Deserializer::from_slice(&lines)
            .into_iter()
            .collect::<Result<_, _>>()?;
        if global.json {
            output::json(&rows)?;
        } else if rows.is_empty() {
            output::text("Nothing of that is stored.\n")?;
        } else {
            let table = match (self.chunks, log) {
                (true, _) => chunk_table(&rows),
                (false, LogKind::Data) => sample_table(&rows),
                (false, LogKind::Alarm) => event_table(&rows),
            };
            output::text(&table.render(""))?;
        }
        note_outcome(outcome);
        Ok(ExitCode::SUCCESS)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A time of a record: UTC, or the time since boot where the clock was never set.
fn time(row: &Value, member: &str) -> String {
    let Some(ms) = row[member].as_f64() else {
        return "-".to_owned();
    };
    match row["clock"] == "unset" {
        true => format!("boot + {}", show::millis(ms)),
        false => show::utc(ms),
    }
}

fn sample_table(rows: &[Value]) -> Table {
    let mut table = Table::new(["TIME", "TAG", ">VALUE", "QUALITY", ">NUMBER"]);
    for row in rows {
        let value = match row["x"].as_str() {
            Some(base64) => base64.to_owned(),
            None => show::value(&row["v"]),
        };
        let quality = match row["q"].as_str() {
            Some(severity) => format!("{severity}: {}", text(&row["r"])),
            None => "good".to_owned(),
        };
        table.row([
            time(row, "t"),
            format!("{}/{}", text(&row["source"]), text(&row["n"])),
            value,
            quality,
            row["seq"].to_string(),
        ]);
    }
    table
}

fn event_table(rows: &[Value]) -> Table {
    let mut table = Table::new(["TIME", "SOURCE", "KIND", "STATE", ">NUMBER", "MESSAGE"]);
    for row in rows {
        table.row([
            time(row, "at"),
            text(&row["source"]),
            text(&row["kind"]),
            text(&row["state"]),
            row["seq"].to_string(),
            text(&row["message"]),
        ]);
    }
    table
}

fn chunk_table(rows: &[Value]) -> Table {
    let mut table = Table::new([
        ">CHUNK", ">TO", ">RECORDS", ">VOIDS", ">SOURCES", ">BYTES", "NEWEST", "CLOCK", "EPOCH",
    ]);
    for row in rows {
        let newest = row["newest"].as_i64();
        table.row([
            row["chunk"].to_string(),
            row["last_chunk"].to_string(),
            row["records"].to_string(),
            row["voids"].to_string(),
            row["sources"].to_string(),
            row["bytes"].to_string(),
            newest.map_or_else(|| "-".into(), |ns| show::utc(ns as f64 / 1e6)),
            if row["clock_set"] == true {
                "set"
            } else {
                "unset"
            }
            .into(),
            text(&row["epoch"]),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables() {
        let samples = [
            json!({"source": "boiler", "seq": 1200, "n": "pressure", "t": 1_763_690_000_123.5, "v": 1.25}),
            json!({"source": "boiler", "seq": 1201, "n": "run", "t": 1_763_690_000_124.0, "v": null,
                   "q": "bad", "r": "timeout"}),
            json!({"source": "plc/2", "seq": 3, "n": "raw", "t": 812.0, "x": "AP8=", "clock": "unset"}),
        ];
        let events = [
            json!({"source": "boiler", "seq": 7, "kind": "comms", "state": "begin",
                             "at": 1_763_690_000_000.0, "message": "no reply"}),
        ];
        let chunks = [
            json!({"chunk": 41, "last_chunk": 60, "records": 31_200, "voids": 256,
                             "sources": 3, "bytes": 29_113, "newest": 1_763_690_000_000_000_000_i64,
                             "clock_set": true, "epoch": "0000000000000029.ep"}),
        ];
        insta::assert_snapshot!(format!(
            "{}\n{}\n{}",
            sample_table(&samples).render(""),
            event_table(&events).render(""),
            chunk_table(&chunks).render("")
        ));
    }
}
