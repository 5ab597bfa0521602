//! `millrace tags` and `millrace read`: last values, and values fresh from the device.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::client::{Client, query};
use super::opcua::Login;
use super::table::Table;
use super::target::Target;
use super::{Global, once, output, show};
use crate::report::{ReadRequest, TagRow};

/// Last values with quality and age
#[derive(Debug, Args)]
pub(crate) struct TagsArgs {
    /// Only tags whose full name matches, for example 'boiler/*'
    #[arg(value_name = "PATTERN", default_value = "*", hide_default_value = true)]
    pattern: String,
    /// Go on printing values as they come
    #[arg(long, short)]
    follow: bool,
}

/// Read tags from their devices now
///
/// The running agent reads them on the session that it has. With --on no agent and no configuration is
/// needed: the addresses are read once from that device.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Full names or patterns of tags; with --on: addresses such as holding:0, 40001, 'ns=2;s=Level'
    #[arg(value_name = "TAG", required = true)]
    tags: Vec<String>,
    /// Read from this device: `tcp://HOST[:502][/UNIT]`, `rtu+tcp://HOST:PORT/UNIT`,
    /// `/dev/ttyUSB0,9600,8E1/3` or `opc.tcp://HOST:PORT[/PATH]`
    #[arg(long, value_name = "URL")]
    on: Option<String>,
    /// Type of the values [Modbus default: u16, or bool for coils and inputs]
    #[arg(long = "type", value_name = "TYPE", requires = "on")]
    value_type: Option<String>,
    /// Order of bytes and words: abcd, badc, cdab or dcba
    #[arg(long, value_name = "ORDER", requires = "on")]
    order: Option<String>,
    #[command(flatten)]
    login: Login,
    /// How long the device may take
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration, requires = "on")]
    timeout: Duration,
}

impl TagsArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global);
        let path = format!("/v1/tags?pattern={}", query(&self.pattern));
        if self.follow {
            client.follow(&format!("{path}&follow=1"), |row: TagRow| {
                if global.json {
                    output::json_line(&row)
                } else {
                    Ok(output::text(&line(&row))?)
                }
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<TagRow> = client.get(&path)?;
        if rows.is_empty() && !global.json {
            output::text(&format!("No tag matches {}.\n", self.pattern))?;
        } else {
            print(&rows, global)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ReadArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        self.login.only_with(self.on.as_deref())?;
        let rows = match &self.on {
            Some(url) => once::read(&Target::parse(url)?, &self.wanted(global))?,
            None => Client::new(global).post(
                "/v1/read",
                &ReadRequest {
                    tags: self.tags.clone(),
                },
            )?,
        };
        print(&rows, global)?;
        Ok(if rows.iter().all(|row| row.quality == "good") {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn wanted<'a>(&'a self, global: &'a Global) -> once::Wanted<'a> {
        once::Wanted {
            addresses: &self.tags,
            value_type: self.value_type.as_deref(),
            order: self.order.as_deref(),
            login: &self.login,
            timeout: self.timeout,
            global,
        }
    }
}

fn print(rows: &[TagRow], global: &Global) -> anyhow::Result<()> {
    if global.json {
        output::json(&rows)
    } else {
        Ok(output::text(&table(rows).render(""))?)
    }
}

/// One line a tag. A value never stands without its quality and its age.
pub(super) fn table(rows: &[TagRow]) -> Table {
    let mut table = Table::new(["TAG", ">VALUE", "UNIT", "QUALITY", ">AGE"]);
    for row in rows {
        table.row([
            row.tag.clone(),
            show::value(&row.value),
            row.unit.clone().unwrap_or_default(),
            quality(row),
            row.age_ms.map_or_else(|| "-".into(), show::millis),
        ]);
    }
    table
}

fn quality(row: &TagRow) -> String {
    match &row.reason {
        Some(reason) => format!("{}: {reason}", row.quality),
        None => row.quality.clone(),
    }
}

/// One line of a stream; the usual widths keep it aligned.
fn line(row: &TagRow) -> String {
    let when = row.t.map_or_else(|| "(clock not set)".into(), show::utc);
    let quality = match row.quality.as_str() {
        "good" => String::new(),
        _ => quality(row),
    };
    let unit = row.unit.as_deref().unwrap_or_default();
    let value = show::value(&row.value);
    let text = format!(
        "{when:<24}  {:<32}  {value:>14} {unit:<6} {quality}",
        row.tag
    );
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Vec<TagRow> {
        vec![
            TagRow {
                tag: "boiler/pressure".into(),
                value: json!(4.25),
                unit: Some("bar".into()),
                quality: "good".into(),
                reason: None,
                age_ms: Some(412.0),
                t: Some(1_763_690_000_123.0),
            },
            TagRow {
                tag: "boiler/run".into(),
                value: json!(null),
                quality: "bad".into(),
                reason: Some("timeout".into()),
                age_ms: Some(93_000.0),
                t: Some(1_763_690_000_123.0),
                ..TagRow::default()
            },
            TagRow {
                tag: "boiler/name".into(),
                value: json!("BLR-7"),
                quality: "uncertain".into(),
                reason: Some("status-0x40900000".into()),
                ..TagRow::default()
            },
        ]
    }

    #[test]
    fn values_have_quality_and_age() {
        insta::assert_snapshot!(table(&rows()).render(""));
    }

    #[test]
    fn a_stream_has_times() {
        let text: String = rows().iter().map(line).collect();
        insta::assert_snapshot!(text);
    }
}
