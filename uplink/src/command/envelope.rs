//! Arguments by themselves, or in an envelope with what the core's format has no place for.
//!
//! An object of which each member is one of `id`, `op`, `args`, `expires` and `sig`, and one at least is there, is an envelope;
//! everything else is arguments. No operation has an argument of these names.

use millrace_tags::Command;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{CommandError, checked_id, checked_op, signed};

/// As written: signatures are over the text as it came.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    op: Option<&'a RawValue>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    expires: Option<&'a RawValue>,
    #[serde(borrow, default)]
    sig: Option<&'a RawValue>,
}

/// Members that are not ours are no mistake in `json`: a core may say more than we read.
#[derive(Deserialize)]
pub(super) struct Open<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) op: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) expires: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) sig: Option<&'a RawValue>,
}

impl<'a> From<Open<'a>> for Envelope<'a> {
    fn from(open: Open<'a>) -> Self {
        let Open {
            id,
            op,
            args,
            expires,
            sig,
        } = open;
        Self {
            id,
            op,
            args,
            expires,
            sig,
        }
    }
}

impl<'a> Envelope<'a> {
    /// The envelope, or the whole as arguments.
    pub(super) fn read(text: &'a RawValue) -> Self {
        let is_object = text.get().trim_start().starts_with('{');
        match serde_json::from_str::<Envelope<'a>>(text.get()) {
            Ok(envelope) if is_object && envelope.is_one() => envelope,
            _ => Self {
                args: Some(text),
                ..Self::default()
            },
        }
    }

    fn is_one(&self) -> bool {
        let members = [self.id, self.op, self.args, self.expires, self.sig];
        members.iter().any(Option::is_some)
    }

    /// The id of its own, where it has one.
    ///
    /// # Errors
    /// Where that is no id.
    pub(super) fn own_id(&self) -> Result<Option<String>, CommandError> {
        self.id.map(|id| text_id("id", id)).transpose()
    }

    /// The command of this id. `op` is what the core's format says, where it has a place for it.
    ///
    /// # Errors
    /// Names the member that does not fit.
    pub(super) fn command(&self, id: &str, op: Option<&str>) -> Result<Command, CommandError> {
        let wrong = |member, value: Option<&RawValue>, expected| CommandError::Member {
            id: id.to_owned(),
            member,
            found: kind(value),
            expected,
        };
        let own_op = match (op, self.op) {
            (Some(op), _) => op.to_owned(),
            (None, Some(raw)) => serde_json::from_str::<String>(raw.get())
                .map_err(|_| wrong("op", self.op, "the name of an operation"))?,
            (None, None) => return Err(wrong("op", None, "the name of an operation")),
        };
        let name =
            checked_op(&own_op).ok_or_else(|| wrong("op", self.op, "the name of an operation"))?;
        let expires = match present(self.expires) {
            None => None,
            Some(raw) => Some(
                whole(raw).ok_or_else(|| wrong("expires", self.expires, "Unix milliseconds"))?,
            ),
        };
        let sig = match present(self.sig) {
            None => None,
            Some(raw) => Some(
                serde_json::from_str::<String>(raw.get())
                    .map_err(|_| wrong("sig", self.sig, "hex digits in a string"))?,
            ),
        };
        let args = match self.args {
            None => serde_json::Value::Null,
            Some(raw) => serde_json::from_str(raw.get()).unwrap_or_default(),
        };
        let raw_args = self.args.map_or("", RawValue::get);
        let raw_expires = present(self.expires).map_or("", RawValue::get);
        let mut command = Command {
            id: id.to_owned(),
            op: name,
            args,
            expires,
            ..Command::default()
        };
        command.proof.sig = sig;
        command.proof.signed = signed(id, &own_op, raw_args, raw_expires);
        Ok(command)
    }
}

/// An id as a string.
pub(super) fn text_id(member: &'static str, raw: &RawValue) -> Result<String, CommandError> {
    let id: String = serde_json::from_str(raw.get()).map_err(|_| CommandError::Id {
        member,
        problem: match raw.get() {
            "null" => "is missing",
            _ => "is no string",
        },
    })?;
    checked_id(member, &id)?;
    Ok(id)
}

fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

/// Some cores write every number as a float.
fn whole(raw: &RawValue) -> Option<i64> {
    let value: serde_json::Value = serde_json::from_str(raw.get()).ok()?;
    if let Some(whole) = value.as_i64() {
        return Some(whole);
    }
    let number = value.as_f64()?;
    // Below 2^53 the conversion is exact.
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

fn kind(raw: Option<&RawValue>) -> &'static str {
    match raw.and_then(|raw| raw.get().chars().next()) {
        None | Some('n') => "missing",
        Some('t' | 'f') => "a boolean",
        Some('"') => "a string of another kind",
        Some('[') => "an array",
        Some('{') => "an object",
        Some(_) => "a number of another kind",
    }
}
