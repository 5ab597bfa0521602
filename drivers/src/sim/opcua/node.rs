//! A simulated node, and lists of them.

use std::io::Read;

use opcua::types::{DataTypeId, NodeId, Variant};

use super::structure;
use crate::sim::signal::{Generator, Signal, SignalError};

/// A variable of the simulated server.
#[derive(Debug, Clone)]
pub struct SimNode {
    /// Its name and its identifier: `nsu=urn:millrace:sim;s=<name>`.
    pub name: String,
    /// The type of its values.
    pub kind: SimType,
    /// The course of its value.
    pub signal: Signal,
}

/// The type of a simulated variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum SimType {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    Text,
    /// `PumpState {Running: Boolean, Speed: Double, Starts: UInt32}`; the signal is the speed.
    Structure,
}

const TYPES: [(&str, SimType, DataTypeId); 13] = [
    ("bool", SimType::Bool, DataTypeId::Boolean),
    ("i8", SimType::I8, DataTypeId::SByte),
    ("u8", SimType::U8, DataTypeId::Byte),
    ("i16", SimType::I16, DataTypeId::Int16),
    ("u16", SimType::U16, DataTypeId::UInt16),
    ("i32", SimType::I32, DataTypeId::Int32),
    ("u32", SimType::U32, DataTypeId::UInt32),
    ("i64", SimType::I64, DataTypeId::Int64),
    ("u64", SimType::U64, DataTypeId::UInt64),
    ("f32", SimType::F32, DataTypeId::Float),
    ("f64", SimType::F64, DataTypeId::Double),
    ("string", SimType::Text, DataTypeId::String),
    ("structure", SimType::Structure, DataTypeId::Structure),
];

impl SimType {
    /// The node of the type, where our namespace has this index.
    pub(super) fn data_type(self, namespace: u16) -> NodeId {
        if self == SimType::Structure {
            return structure::type_id(namespace);
        }
        let found = TYPES.iter().find(|(_, kind, _)| *kind == self);
        found
            .map_or(DataTypeId::BaseDataType, |(_, _, id)| *id)
            .into()
    }

    /// The signal's value in this type; numbers that do not fit are clamped, as `as` does it.
    pub(super) fn value(
        self,
        generator: &mut Generator,
        elapsed: std::time::Duration,
        namespace: u16,
    ) -> Variant {
        let number = generator.number(elapsed);
        match self {
            SimType::Bool => Variant::Boolean(number != 0.0),
            SimType::I8 => Variant::SByte(number as i8),
            SimType::U8 => Variant::Byte(number as u8),
            SimType::I16 => Variant::Int16(number as i16),
            SimType::U16 => Variant::UInt16(number as u16),
            SimType::I32 => Variant::Int32(number as i32),
            SimType::U32 => Variant::UInt32(number as u32),
            SimType::I64 => Variant::Int64(number as i64),
            SimType::U64 => Variant::UInt64(number as u64),
            SimType::F32 => Variant::Float(number as f32),
            SimType::F64 => Variant::Double(number),
            SimType::Text => match generator.text() {
                Some(text) => Variant::from(text),
                None => Variant::from(number.to_string()),
            },
            SimType::Structure => structure::value(number, namespace),
        }
    }
}

/// Why a list of nodes cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The text is no CSV.
    #[error("the list of nodes is no CSV with columns name, type, signal")]
    Csv(#[source] csv::Error),
    /// A line has a type that is none.
    #[error(
        "line {line}: type is \"{found}\"; expected bool, i8 to u64, f32, f64, string or structure"
    )]
    Type {
        /// The line, counted from 1.
        line: u64,
        /// What stands there.
        found: String,
    },
    /// A line has a signal that is none.
    #[error("line {line}: the signal cannot be used; {}", .source.hint())]
    Signal {
        /// The line, counted from 1.
        line: u64,
        /// Why.
        #[source]
        source: SignalError,
    },
}

/// Nodes from CSV with the columns `name`, `type` and `signal`.
///
/// # Errors
/// At the first line that cannot be used.
pub fn nodes_from_csv(text: impl Read) -> Result<Vec<SimNode>, NodeError> {
    #[derive(serde::Deserialize)]
    struct Row {
        name: String,
        r#type: String,
        signal: String,
    }
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text);
    let headers = reader.headers().map_err(NodeError::Csv)?.clone();
    let mut nodes = Vec::new();
    for record in reader.records() {
        let record = record.map_err(NodeError::Csv)?;
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(NodeError::Csv)?;
        let kind = TYPES
            .iter()
            .find(|(name, _, _)| *name == row.r#type)
            .map(|(_, kind, _)| *kind)
            .ok_or(NodeError::Type {
                line,
                found: row.r#type,
            })?;
        let signal = row
            .signal
            .parse()
            .map_err(|source| NodeError::Signal { line, source })?;
        nodes.push(SimNode {
            name: row.name,
            kind,
            signal,
        });
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn csv_names_its_nodes() {
        let text =
            "name,type,signal\n# comment\nTank.Level, f64, constant 4.5\nPump,string,text P-1\n";
        let nodes = nodes_from_csv(text.as_bytes()).expect("two nodes");
        assert_eq!(nodes.len(), 2);
        assert_eq!(
            (nodes[0].name.as_str(), nodes[0].kind),
            ("Tank.Level", SimType::F64)
        );
        let mut generator = Generator::new(nodes[1].signal.clone(), 1);
        let value = nodes[1].kind.value(&mut generator, Duration::ZERO, 0);
        assert_eq!(value, Variant::from("P-1"));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, said) in [
            (
                "name,type,signal\na,f99,counter\n",
                "line 2: type is \"f99\"",
            ),
            (
                "name,type,signal\na,f64,counter\nb,f64,sinus\n",
                "line 3: the signal",
            ),
            ("name,signal\na,counter\n", "columns name, type, signal"),
        ] {
            let error = nodes_from_csv(text.as_bytes()).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
