//! `millrace buffer replay`: delivered data once more.

use std::process::ExitCode;

use clap::Args;
use millrace_buffer::{Replayed, Span};

use super::super::client::Client;
use super::super::{Global, output, show};
use super::export::time;
use crate::replay::ReplayRequest;

/// Ranges that are shown of each kind.
const SPANS_SHOWN: usize = 20;

/// Send again what was delivered and is still kept
///
/// The broker acknowledged it and lost it: what is still on disk goes out again beside live data, under its
/// old numbers.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Everything that is not older: 2026-11-21T08:00:00Z, Unix milliseconds, or a duration such as 2h
    #[arg(long, value_name = "TIME", value_parser = time, required_unless_present = "source")]
    since: Option<i64>,
    /// Numbers of this device or model
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "since",
        requires_all = ["stream", "first", "last"]
    )]
    source: Option<String>,
    /// The stream that they belong to, as messages name it
    #[arg(long, value_name = "ID", requires = "source")]
    stream: Option<String>,
    /// The first number
    #[arg(long, value_name = "N", requires = "source")]
    first: Option<u64>,
    /// The last number
    #[arg(long, value_name = "N", requires = "source")]
    last: Option<u64>,
    /// Only to this uplink
    #[arg(long, value_name = "NAME")]
    uplink: Option<String>,
}

impl ReplayArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let request = ReplayRequest {
            uplink: self.uplink.clone(),
            source: self.source.clone(),
            stream: self.stream.clone(),
            first_seq: self.first,
            last_seq: self.last,
            since: self
                .since
                .map(|nanoseconds| (nanoseconds / 1_000_000).into()),
        };
        let replayed: Replayed = Client::new(global).post("/v1/buffer/replay", &request)?;
        if global.json {
            output::json(&replayed)?;
        } else {
            output::text(&render(&replayed))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(replayed: &Replayed) -> String {
    let mut text = String::new();
    for (uplink, to) in &replayed.uplinks {
        let records = show::count(to.records);
        text.push_str(&format!("{uplink}: {records} records are sent again\n"));
        for (what, spans) in [
            ("again", &to.again),
            ("waits", &to.waiting),
            ("not there", &to.missing),
        ] {
            for Span {
                source,
                first_seq,
                last_seq,
                ..
            } in spans.iter().take(SPANS_SHOWN)
            {
                text.push_str(&format!(
                    "  {what:<9}  {source} {first_seq} to {last_seq}\n"
                ));
            }
            if spans.len() > SPANS_SHOWN {
                let more = spans.len() - SPANS_SHOWN;
                text.push_str(&format!(
                    "  {what:<9}  {more} ranges more (--json has all)\n"
                ));
            }
        }
    }
    if text.is_empty() {
        text.push_str("There is no uplink.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millrace_buffer::ReplayedTo;

    use super::*;

    #[test]
    fn what_comes_again_and_what_does_not() {
        let span = |first_seq, last_seq| Span {
            source: "boiler".into(),
            stream: "6f0c".into(),
            first_seq,
            last_seq,
        };
        let to = ReplayedTo {
            records: 12_000,
            again: (0..22)
                .map(|i| span(i * 1000 + 1, i * 1000 + 545))
                .collect(),
            waiting: vec![span(22_001, 22_500)],
            missing: vec![span(900_000, 1_000_000)],
        };
        let text = render(&Replayed {
            uplinks: BTreeMap::from([("cloud".to_owned(), to)]),
            oldest: None,
        });
        insta::assert_snapshot!(text);
    }
}
