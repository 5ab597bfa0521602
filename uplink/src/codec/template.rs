//! The codec `template`: what the profile writes in the language of Jinja (minijinja), for cores with a format of
//! their own.
//!
//! Variables of `data`: `gateway`, `source`, `stream`, `lane`, `seq`, `last_seq`, `vars`, and of the time `t_ms`, `t_s`,
//! `t_ns`, `time` (ISO 8601, UTC). With `each = "sample"` also `tag`, `unit`, `value` (none where there is none),
//! `quality`, `reason`; with `each = "instant"` also `samples`, a list of these, and `values`, what is good and
//! uncertain by tag. `event` has `event`, the event as the profile `generic` writes it; `gap` has `gap` likewise; `status` has
//! `online` and `facts`.
//!
//! With `content = "json"`, which is the default, each variable is written as JSON by itself (a text with its quotes), and
//! what comes out is checked to be JSON. Integers are exact, bytes are base64 text, JSON is nested. A template has no way
//! to files or the network, and runs out of fuel rather than for ever.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tags::{Event, Gap, Parcel, Sample};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};

use super::json::records;
use super::pack::Packer;
use super::rows::{Row, rows, runs};
use super::{EncodeError, Piece, Room, Sheet};
use crate::topic::Names;

/// Steps that a template may take for one message: a loop over thousands of samples fits.
const FUEL: u64 = 1_000_000;

/// The texts of a profile's `[template]`, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TemplateTexts {
    pub(crate) data: String,
    pub(crate) event: Option<String>,
    pub(crate) gap: Option<String>,
    pub(crate) status: Option<String>,
    /// Samples of one time are one item.
    pub(crate) by_instant: bool,
    /// The output is JSON.
    pub(crate) json: bool,
    /// Records without a time are written, too.
    pub(crate) undated: bool,
    /// Before the first item, between two, after the last. `None`: one message an item.
    pub(crate) join: Option<(String, String, String)>,
}

/// The compiled templates.
pub(crate) struct Templates {
    texts: TemplateTexts,
    engine: Environment<'static>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.texts.fmt(f)
    }
}

impl Templates {
    pub(crate) fn compile(texts: TemplateTexts) -> Result<Self, String> {
        let mut engine = Environment::new();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        engine.set_fuel(Some(FUEL));
        let escape = match texts.json {
            true => AutoEscape::Json,
            false => AutoEscape::None,
        };
        engine.set_auto_escape_callback(move |_| escape);
        let sources = [
            ("data", Some(&texts.data)),
            ("event", texts.event.as_ref()),
            ("gap", texts.gap.as_ref()),
            ("status", texts.status.as_ref()),
        ];
        for (template, text) in sources {
            let Some(text) = text else { continue };
            engine
                .add_template_owned(template, text.clone())
                .map_err(|error| shown(&error))?;
        }
        Ok(Self { texts, engine })
    }

    /// Whether a text is a template.
    pub(crate) fn check(text: &str) -> Result<(), String> {
        Environment::new()
            .template_from_str(text)
            .map(|_| ())
            .map_err(|error| shown(&error))
    }

    fn render(&self, template: &'static str, variables: Value) -> Result<String, String> {
        let ready = self.engine.get_template(template);
        let text = ready
            .and_then(|ready| ready.render(variables))
            .map_err(|error| shown(&error))?;
        // An empty text says that there is nothing to tell.
        if self.texts.json
            && !text.is_empty()
            && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text)
        {
            let shown: String = text.chars().take(120).collect();
            return Err(format!("what comes out is no JSON ({error}): {shown}"));
        }
        Ok(text)
    }

    /// The samples; without a join each item is a message, whose topic may name the tag.
    pub(crate) fn samples(
        &self,
        sheet: &Sheet<'_>,
        parcel: &Parcel,
        samples: &[Sample],
        room: Room,
    ) -> Result<Vec<Piece>, EncodeError> {
        let rows = rows(parcel, samples, sheet.time)?;
        if let Some(row) = rows.iter().find(|row| row.time.is_none())
            && !self.texts.undated
        {
            return Err(EncodeError::NoClock {
                source_name: parcel.source.to_string(),
                seq: row.seq,
            });
        }
        let runs = match self.texts.by_instant {
            true => runs(&rows, |one, other| one.time == other.time),
            false => rows.chunks(1).collect(),
        };
        let Some((open, separator, close)) = &self.texts.join else {
            return self.each_alone(sheet, parcel, &runs, room);
        };
        let topic = sheet.topic.of_parcel(parcel, None)?;
        let wrap = |items: &[u8], _: usize| [open.as_bytes(), items, close.as_bytes()].concat();
        let overhead = open.len() + close.len();
        let separator = separator.as_bytes();
        let mut packer = Packer::new(&parcel.source, topic, room, overhead, separator, &wrap);
        let failed = std::cell::RefCell::new(None);
        for run in runs {
            packer.push(run, &|rows, out| match self.item(sheet, parcel, rows) {
                Ok(item) => {
                    out.extend_from_slice(item.as_bytes());
                    usize::from(!item.is_empty())
                }
                Err(error) => {
                    failed.borrow_mut().get_or_insert(error);
                    0
                }
            })?;
        }
        match failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(packer.finish()),
        }
    }

    fn item(
        &self,
        sheet: &Sheet<'_>,
        parcel: &Parcel,
        run: &[Row<'_>],
    ) -> Result<String, EncodeError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(String::new());
        };
        let (samples, values): (Vec<Value>, BTreeMap<&str, Value>) = match self.texts.by_instant {
            true => (
                run.iter().map(of_row).collect(),
                run.iter()
                    .filter(|row| row.value.is_some())
                    .map(|row| (row.tag, value(row)))
                    .collect(),
            ),
            false => Default::default(),
        };
        let variables = context! {
            gateway => sheet.gateway,
            source => &*parcel.source,
            stream => parcel.stream.to_string(),
            lane => parcel.lane.name(),
            seq => first.seq,
            last_seq => last.seq,
            vars => sheet.vars,
            t_ms => first.time.map(|time| time.div_euclid(1_000_000)),
            t_s => first.time.map(|time| time as f64 / 1e9),
            t_ns => first.time,
            time => first.time.map(iso),
            tag => first.tag,
            unit => first.unit,
            value => value(first),
            quality => first.quality.severity(),
            reason => first.reason(),
            samples => samples,
            values => values,
        };
        self.render("data", variables)
            .map_err(|problem| EncodeError::Template {
                source_name: parcel.source.to_string(),
                seq: first.seq,
                template: "data",
                problem,
            })
    }

    fn each_alone(
        &self,
        sheet: &Sheet<'_>,
        parcel: &Parcel,
        runs: &[&[Row<'_>]],
        room: Room,
    ) -> Result<Vec<Piece>, EncodeError> {
        let mut pieces = Vec::with_capacity(runs.len());
        for run in runs {
            let item = self.item(sheet, parcel, run)?;
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let piece = Piece {
                topic: sheet
                    .topic
                    .of_parcel(parcel, Some((first.tag, first.seq)))?,
                payload: item.into_bytes(),
                range: (first.seq, last.seq),
            };
            if piece.payload.is_empty() {
                // The template has nothing to say about it.
                continue;
            }
            if piece.wire_bytes() > room.most {
                return Err(EncodeError::TooLarge {
                    source_name: parcel.source.to_string(),
                    seq: first.seq,
                    bytes: piece.wire_bytes(),
                    limit: room.most,
                });
            }
            pieces.push(piece);
        }
        Ok(pieces)
    }

    pub(crate) fn event(
        &self,
        sheet: &Sheet<'_>,
        parcel: &Parcel,
        seq: u64,
        event: &Event,
    ) -> Result<Option<Vec<u8>>, EncodeError> {
        if self.texts.event.is_none() {
            return Ok(None);
        }
        let json = records::event(sheet.gateway, parcel, seq, event);
        let at = parcel.timebase.utc(event.at).map(|at| at.0);
        let variables = context! {
            gateway => sheet.gateway,
            source => &*parcel.source,
            stream => parcel.stream.to_string(),
            seq => seq,
            vars => sheet.vars,
            t_ms => at.map(|time| time.div_euclid(1_000_000)),
            t_s => at.map(|time| time as f64 / 1e9),
            t_ns => at,
            time => at.map(iso),
            event => of_json(&json),
        };
        match self.render("event", variables) {
            Ok(text) => Ok(Some(text.into_bytes())),
            Err(problem) => Err(EncodeError::Template {
                source_name: parcel.source.to_string(),
                seq,
                template: "event",
                problem,
            }),
        }
    }

    /// Gaps that the template cannot tell are told to nobody; the log says so.
    pub(crate) fn gap(&self, sheet: &Sheet<'_>, gap: &Gap, limit: usize) -> Vec<Vec<u8>> {
        if self.texts.gap.is_none() {
            return Vec::new();
        }
        let mut payloads = Vec::new();
        for json in records::gap(sheet.gateway, gap, limit / 2) {
            let at = gap.at.map(|at| at.0);
            let variables = context! {
                gateway => sheet.gateway,
                vars => sheet.vars,
                t_ms => at.map(|time| time.div_euclid(1_000_000)),
                time => at.map(iso),
                gap => of_json(&json),
            };
            match self.render("gap", variables) {
                Ok(text) => payloads.push(text.into_bytes()),
                Err(problem) => tracing::error!(problem, "the profile's template `gap` fails"),
            }
        }
        payloads
    }

    /// A message of the greeting; it is the template `data`.
    pub(crate) fn greeting(
        &self,
        gateway: &str,
        source: &str,
        vars: &BTreeMap<String, String>,
        names: Names,
    ) -> Result<String, String> {
        let variables = context! {
            gateway,
            source,
            gateway_in_topic => names.clean(gateway),
            source_in_topic => names.clean(source),
            vars,
        };
        self.render("data", variables)
    }

    pub(crate) fn status(
        &self,
        gateway: &str,
        vars: &BTreeMap<String, String>,
        online: bool,
        facts: &serde_json::Map<String, serde_json::Value>,
    ) -> Option<Vec<u8>> {
        self.texts.status.as_ref()?;
        let variables = context! {
            gateway => gateway,
            vars => vars,
            online => online,
            facts => facts,
        };
        match self.render("status", variables) {
            Ok(text) => Some(text.into_bytes()),
            Err(problem) => {
                tracing::error!(problem, "the profile's template `status` fails");
                None
            }
        }
    }
}

/// The engine's error with its place.
fn shown(error: &minijinja::Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{}: {detail} (line {line})", error.kind()),
        (Some(detail), None) => format!("{}: {detail}", error.kind()),
        (None, Some(line)) => format!("{} (line {line})", error.kind()),
        (None, None) => error.kind().to_string(),
    }
}

fn of_row(row: &Row<'_>) -> Value {
    context! {
        seq => row.seq,
        tag => row.tag,
        unit => row.unit,
        value => value(row),
        quality => row.quality.severity(),
        reason => row.reason(),
    }
}

fn value(row: &Row<'_>) -> Value {
    use millrace_tags::Value as Of;
    match row.value {
        None => Value::from(()),
        Some(Of::Bool(flag)) => Value::from(*flag),
        Some(Of::I64(number)) => Value::from(*number),
        Some(Of::U64(number)) => Value::from(*number),
        // The digits of the f32, not those of the f64 it would widen to.
        Some(Of::F32(number)) => {
            Value::from(number.to_string().parse().unwrap_or(f64::from(*number)))
        }
        Some(Of::F64(number)) => Value::from(*number),
        Some(Of::Text(text)) => Value::from(&**text),
        Some(Of::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        Some(Of::Json(json)) => of_json(json.as_bytes()),
    }
}

fn of_json(json: &[u8]) -> Value {
    // It was checked, or written by us.
    let parsed: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    Value::from_serialize(parsed)
}

/// The time as ISO 8601 in UTC, with milliseconds.
pub(crate) fn iso(nanos: i64) -> String {
    let millis = nanos.div_euclid(1_000_000);
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year + era * 400 + carry;
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_763_690_000_123, "2025-11-21T01:53:20.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(iso(millis * 1_000_000), expected);
        }
    }

    #[test]
    fn a_template_that_never_ends_runs_out_of_fuel() {
        let texts = TemplateTexts {
            data: "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}".into(),
            ..TemplateTexts::default()
        };
        let templates = Templates::compile(texts).unwrap();
        let error = templates.render("data", context! {}).unwrap_err();
        assert!(error.contains("fuel"), "{error}");
    }

    #[test]
    fn what_is_no_template_and_no_json_is_named() {
        let texts = |data: &str| TemplateTexts {
            data: data.into(),
            json: true,
            ..TemplateTexts::default()
        };
        let error = Templates::compile(texts("{{ a ")).unwrap_err();
        assert!(error.contains("line 1"), "{error}");
        let templates = Templates::compile(texts("{\"a\": {{ a }}, }")).unwrap();
        let error = templates.render("data", context! { a => 1 }).unwrap_err();
        assert!(error.contains("no JSON"), "{error}");
        let error = templates.render("data", context! {}).unwrap_err();
        assert!(error.contains("undefined"), "{error}");
    }
}
