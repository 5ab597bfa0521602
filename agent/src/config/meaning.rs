//! What a tag's raw value means: states by name, scale by another register, a total of a counter that rolls over.

use std::sync::Arc;

use millrace_drivers::modbus::{
    Address, DataType, PointSpec, ScaleRegister, ScaleRule, States, Total,
};
use millrace_tags::ValueType;

use super::complaint::Complaint;
use super::section::Section;

/// What a raw value is taken for, beyond its type and scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TagMeaning {
    /// Itself.
    Plain,
    /// One of several states.
    States(Arc<States>),
    /// A counter that rolls over; see [`Total::new`].
    Total {
        rollover: Option<u64>,
        step: Option<u64>,
    },
}

impl TagMeaning {
    /// The type of the value that comes of a point, before the scale of the configuration.
    pub(crate) fn value_type(&self, spec: &PointSpec) -> ValueType {
        match self {
            TagMeaning::States(_) => ValueType::Text,
            TagMeaning::Plain | TagMeaning::Total { .. } => spec.value_type(),
        }
    }
}

/// Reads the keys of a Modbus tag; the point comes back with the register that scales it. `None` where there is a
/// problem, which is reported then.
pub(super) fn read(section: &Section<'_>, spec: PointSpec) -> Option<(PointSpec, TagMeaning)> {
    let spec = read_scale(section, spec);
    let total = section.bool("totaliser")?;
    let states = section.has("states");
    let excluded = ["scale_register", "totaliser"];
    if let Some(key) = excluded.into_iter().find(|key| states && section.has(key)) {
        section.complain(
            key,
            Complaint::new("a value with states is neither scaled nor counted").hint("remove one"),
        );
        return None;
    }
    if !total {
        for key in ["rollover", "rollover_step"] {
            without_effect(section, key, "totaliser = true");
        }
    }
    let meaning = match (states, total) {
        (true, _) => read_states(section, &spec?)?,
        (_, true) => read_total(section, &spec?)?,
        _ => TagMeaning::Plain,
    };
    Some((spec?, meaning))
}

fn without_effect(section: &Section<'_>, key: &str, owner: &str) {
    if section.has(key) {
        section.note(key, format!("{key} has no effect without {owner}"), None);
    }
}

fn read_states(section: &Section<'_>, spec: &PointSpec) -> Option<TagMeaning> {
    let states = section.form("states", |text| {
        let states: States =
            text.parse()
                .map_err(|error: millrace_drivers::modbus::StatesError| {
                    Complaint::said(&error).hint(error.hint())
                })?;
        states
            .check(spec)
            .map_err(|error| Complaint::said(&error).hint(error.hint()))?;
        Ok(states)
    });
    Some(TagMeaning::States(Arc::new(states?)))
}

/// The point, with the register that scales it where one is written.
fn read_scale(section: &Section<'_>, spec: PointSpec) -> Option<PointSpec> {
    if !section.has("scale_register") {
        for key in ["scale_register_type", "scale_rule"] {
            without_effect(section, key, "scale_register");
        }
        return Some(spec);
    }
    let address = section.form("scale_register", |text| {
        text.parse::<Address>()
            .map_err(|error| Complaint::said(&error).hint(error.hint()))
    });
    let rule = match section.choice("scale_rule")? {
        "factor" => ScaleRule::Factor,
        "divisor" => ScaleRule::Divisor,
        _ => ScaleRule::Exponent,
    };
    let data_type = match section.has("scale_register_type") {
        true => section.form("scale_register_type", |text| {
            text.parse::<DataType>()
                .map_err(|error| Complaint::said(&error).hint(error.hint()))
        }),
        false => Some(rule.default_type()),
    };
    let register = ScaleRegister::new(address?, data_type?, rule);
    let scaled = match register.and_then(|register| spec.scaled_by(register)) {
        Ok(scaled) => scaled,
        Err(error) => {
            section.complain("scale_register", Complaint::said(&error).hint(error.hint()));
            return None;
        }
    };
    if !scaled.scale_is_near() {
        let message = format!(
            "{} and {} do not fit into one request: they are read one after the other in each cycle, and a device \
             that changes both in between shows a wrong value once",
            scaled.address(),
            address?
        );
        section.note("scale_register", message, None);
    }
    Some(scaled)
}

fn read_total(section: &Section<'_>, spec: &PointSpec) -> Option<TagMeaning> {
    let whole = |key: &str| match section.has(key) {
        true => section.integer::<u64>(key).map(Some),
        false => Some(None),
    };
    let (rollover, step) = (whole("rollover"), whole("rollover_step"));
    let (rollover, step) = (rollover?, step?);
    if let Err(error) = Total::new(spec, rollover, step) {
        let key = match error {
            millrace_drivers::modbus::TotalError::Type { .. } => "totaliser",
            millrace_drivers::modbus::TotalError::Rollover { .. } => "rollover",
            millrace_drivers::modbus::TotalError::Step { .. } => "rollover_step",
        };
        section.complain(key, Complaint::said(&error).hint(error.hint()));
        return None;
    }
    if section.node("writable").and_then(|node| node.as_bool()) == Some(true) {
        section.complain(
            "writable",
            Complaint::new("a total is counted here, not in the device").hint(
                "remove it; a tag of its own for the address, without totaliser, can set the counter",
            ),
        );
        return None;
    }
    Some(TagMeaning::Total { rollover, step })
}
