//! `millrace events`: anomalies, lost and regained devices, alarms.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::{Global, output, show};
use crate::report::EventRow;

/// Anomalies, lost and regained devices, alarms; oldest first
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on printing as they come
    #[arg(long, short)]
    follow: bool,
    /// Who changed what instead: writes, commands, configurations
    #[arg(long, conflicts_with = "follow")]
    audit: bool,
}

impl EventsArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global);
        if self.audit {
            let lines: Vec<Value> = client.get("/v1/audit")?;
            match global.json {
                true => output::json(&lines)?,
                false => output::text(&lines.iter().map(audited).collect::<String>())?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        if self.follow {
            client.follow("/v1/events?follow=1", |event: EventRow| {
                if global.json {
                    output::json_line(&event)
                } else {
                    Ok(output::text(&line(&event))?)
                }
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let events: Vec<EventRow> = client.get("/v1/events")?;
        if global.json {
            output::json(&events)?;
        } else if events.is_empty() {
            output::text("No events.\n")?;
        } else {
            let lines: String = events.iter().map(line).collect();
            output::text(&lines)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// When, where, what, in one line; a stream of them stays aligned.
fn line(event: &EventRow) -> String {
    let when = match event.state.as_str() {
        "end" => event.end.or(event.start),
        _ => event.start,
    };
    let when = when.map_or_else(|| "(clock not set)".into(), show::utc);
    let text = format!(
        "{when:<24}  {:<7}  {:<6}  {:<20}  {}",
        event.kind,
        event.state,
        event.source,
        detail(event)
    );
    format!("{}\n", text.trim_end())
}

/// When, what, and everything else that is known, in one line.
fn audited(line: &Value) -> String {
    let when = line["t"].as_f64();
    let when = when.map_or_else(|| "(clock not set)".into(), show::utc);
    let what = line["what"].as_str().unwrap_or_default();
    let mut text = format!("{when:<24}  {what}");
    for (key, value) in line.as_object().into_iter().flatten() {
        if !["t", "what", "level"].contains(&key.as_str()) {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!("  {key}={value}"));
        }
    }
    text.push('\n');
    text
}

fn detail(event: &EventRow) -> String {
    let detail = &event.detail;
    if let Some(message) = detail.get("message").and_then(Value::as_str) {
        return message.to_owned();
    }
    let mut parts = Vec::new();
    for name in ["score", "peak", "threshold"] {
        if let Some(number) = detail.get(name).and_then(Value::as_f64) {
            parts.push(format!("{name} {number:.3}"));
        }
    }
    let top = detail.get("top").and_then(Value::as_array);
    let top: Vec<String> = top
        .into_iter()
        .flatten()
        .filter_map(|share| {
            let role = share.get("role")?.as_str()?;
            let percent = share.get("share")?.as_f64()? * 100.0;
            Some(format!("{role} {percent:.0} %"))
        })
        .collect();
    if !top.is_empty() {
        parts.push(top.join(", "));
    }
    if let (Some(start), Some(end)) = (event.start, event.end) {
        parts.push(format!("lasted {}", show::millis(end - start)));
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_align() {
        let start = Some(1_763_690_000_000.0);
        let events = [
            EventRow {
                source: "boiler".into(),
                kind: "comms".into(),
                state: "begin".into(),
                start,
                end: None,
                detail: json!({"message": "lost the connection to boiler: broken pipe"}),
            },
            EventRow {
                source: "pump-anomaly".into(),
                kind: "anomaly".into(),
                state: "end".into(),
                start,
                end: start.map(|t| t + 95_500.0),
                detail: json!({"score": 0.4, "peak": 7.25, "threshold": 1.0,
                    "top": [{"role": "vibration", "share": 0.61}, {"role": "flow", "share": 0.2}]}),
            },
            EventRow {
                source: "x".into(),
                kind: "alarm".into(),
                state: "begin".into(),
                ..EventRow::default()
            },
        ];
        let text: String = events.iter().map(line).collect();
        insta::assert_snapshot!(text);
    }
}
