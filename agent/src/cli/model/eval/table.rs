//! Files with one row a time: which column is what, and the way of the rows through a run.

use millrace_inference::eval::{LabelledRow, Run};
use millrace_tags::Moment;

use super::super::super::Failure;
use super::file::{CsvFile, Place};
use super::{Wanted, sample};

/// Names of a column of times, where none is named.
const TIME_NAMES: [&str; 7] = ["t", "ts", "time", "timestamp", "date", "datetime", "epoch"];

/// What was fed.
#[derive(Debug, Default)]
pub(super) struct Fed {
    /// Rows.
    pub(super) rows: u64,
    /// Rows with their labels, where there are labels.
    pub(super) labels: Vec<LabelledRow>,
}

/// Indexes of columns.
struct Columns {
    time: Option<usize>,
    labels: Option<usize>,
    /// One for each input, in order.
    inputs: Vec<usize>,
}

impl Columns {
    fn of(place: &Place, wanted: &Wanted) -> Result<Self, Failure> {
        let mut inputs = Vec::new();
        let mut missing = Vec::new();
        for role in &wanted.roles {
            let name = wanted.mapped(role).unwrap_or(role);
            match place.column(name) {
                Some(column) => inputs.push(column),
                None => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let missing = missing.join(", ");
            let failure = Failure::usage(format!(
                "{} has no column {missing}",
                place.path().display()
            ));
            return Err(failure.hint(format!(
                "its columns are {}; --map ROLE=COLUMN says which one an input is in",
                place.columns()
            )));
        }
        let named = |name: &Option<String>| name.as_deref().map(|n| place.named(n)).transpose();
        let usual = || TIME_NAMES.iter().find_map(|name| place.column(name));
        let time = match wanted.every {
            Some(_) => None,
            None => named(&wanted.time)?.or_else(usual),
        };
        Ok(Self {
            time,
            labels: named(&wanted.labels)?,
            inputs,
        })
    }
}

/// Feeds every row: the values of one time, then the end of a poll cycle.
pub(super) fn feed(file: CsvFile, wanted: &Wanted, run: &mut Run) -> Result<Fed, Failure> {
    let columns = Columns::of(&file.place, wanted)?;
    let every = wanted.every.unwrap_or(wanted.untimed);
    let (place, records) = file.records();
    let mut fed = Fed::default();
    let mut last = Moment(i64::MIN);
    for record in records {
        let (line, record) = record?;
        let at = match columns.time {
            Some(column) => place.time(line, column, &record)?,
            None => Moment(0) + every.saturating_mul(u32::try_from(fed.rows).unwrap_or(u32::MAX)),
        };
        if at < last {
            let wrong = place.wrong(
                line,
                columns.time.unwrap_or(0),
                "is earlier than the line before",
            );
            return Err(
                wrong.hint("sort the file by its time; --every 1s takes its rows for so far apart")
            );
        }
        last = at;
        for (input, column) in columns.inputs.iter().enumerate() {
            run.feed(input, &sample(place.number(line, *column, &record)?, at));
        }
        run.end_scan(at);
        if let Some(column) = columns.labels {
            let Some(label) = place.number(line, column, &record)? else {
                return Err(place
                    .wrong(line, column, "there is no label")
                    .hint("expected 0 for a normal row, 1 for an anomalous one"));
            };
            let anomalous = label != 0.0;
            fed.labels.push(LabelledRow { at, anomalous });
        }
        fed.rows += 1;
    }
    match fed.rows {
        0 => Err(Failure::usage(format!(
            "{} has no line after its heading",
            place.path().display()
        ))),
        _ => Ok(fed),
    }
}
