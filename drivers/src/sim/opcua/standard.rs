//! The standard nodes of the simulated server: what every OPC UA server shows in namespace 0.
//!
//! They are facts, and are held as data, `standard.csv` beside this file: nodes, attributes and references as
//! OPC 10000-5 (release 1.05) defines them, with the ids of OPC 10000-6, annex A; the reference types, built-in data
//! types and modelling rules come from OPC 10000-3, items with units and ranges from OPC 10000-8, conditions and alarms
//! from OPC 10000-9, the capabilities for history from OPC 10000-11. The standard has 5,000 nodes; here are those that
//! clients of a simulator look at:
//!
//! - Root, Objects, Types and Views, and the object Server with what its type demands; of the optional parts those that
//!   have a value here;
//! - all reference types, without which no browsing works;
//! - all data types that are neither structures nor enumerations, and of those two what variables, arguments and fields
//!   of the other rows have, and what clients read to learn types that they do not know; with their definitions;
//! - the types of variables and objects that instances here have, and what plants derive theirs from;
//! - the types of events down to alarms, with the fields that filters of events select: the server refuses a filter
//!   that names a field which no row has.
//!
//! Not there are descriptions, encodings as XML and JSON, PubSub, roles, files, programs and the server's configuration;
//! and references between states of conditions, and from methods to the events that they cause.
//!
//! One row is one node: its number, class and name, its parent and the reference by which that has it, then the type
//! definition, modelling rule, data type and value rank (none is a scalar). Flags are `a` abstract, `s` symmetric, `n`
//! notifies of events. The text is the inverse name of a reference type, the members of a data type
//! (`Name=1;…` of an enumeration or option set, `Name:type:rank;…` of a structure), the arguments of a method in the
//! same way, or the value of a property that never changes. A row of class `Reference` is one more parent of a node.

use std::collections::BTreeMap;

use opcua::types::{
    Argument, DataTypeDefinition, DataTypeId, DateTime, EnumDefinition, EnumField, EnumValueType,
    ExtensionObject, LocalizedText, NodeId, QualifiedName, ReferenceTypeId, StructureDefinition,
    StructureField, StructureType, Variant, WriteMask,
};
use opcua_server::address_space::{
    AddressSpace, DataType, EventNotifier, Method, NodeType, Object, ObjectType, ReferenceType,
    Variable, VariableType,
};
use serde::Deserialize;

/// The namespace of all these nodes.
pub(super) const NAMESPACE_URI: &str = "http://opcfoundation.org/UA/";

const ROWS: &str = include_str!("standard.csv");

/// A single value, no array.
const SCALAR: i32 = -1;

/// A list of any length.
const LIST: i32 = 1;

/// A bit of an option set that has no name.
const RESERVED: &str = "Reserved";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Class {
    Object,
    Variable,
    Method,
    ObjectType,
    VariableType,
    ReferenceType,
    DataType,
    Reference,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: u32,
    class: Class,
    name: String,
    parent: Option<u32>,
    by: Option<u32>,
    definition: Option<u32>,
    rule: Option<u32>,
    data: Option<u32>,
    rank: Option<i32>,
    flags: String,
    text: String,
}

/// A member of a structure, or an argument.
struct Field<'a> {
    name: &'a str,
    data_type: u32,
    rank: i32,
}

/// All rows. One that cannot be read is left out; the tests see to it that there is none.
fn rows() -> Vec<Row> {
    let mut reader = csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .from_reader(ROWS.as_bytes());
    reader.deserialize().filter_map(Result::ok).collect()
}

/// Adds the standard nodes.
pub(super) fn furnish(space: &mut AddressSpace) {
    space.add_namespace(NAMESPACE_URI, 0);
    let rows = rows();
    let texts: BTreeMap<u32, &str> = rows
        .iter()
        .filter(|row| row.class == Class::DataType)
        .map(|row| (row.id, row.text.as_str()))
        .collect();
    let encodings: BTreeMap<u32, u32> = rows
        .iter()
        .filter(|row| row.by == Some(ReferenceTypeId::HasEncoding as u32))
        .filter_map(|row| Some((row.parent?, row.id)))
        .collect();
    for row in &rows {
        if let Some(mut node) = row.node(&texts, &encodings) {
            node.as_mut_node().set_write_mask(WriteMask::empty());
            node.as_mut_node().set_user_write_mask(WriteMask::empty());
            space.insert::<NodeType, ReferenceTypeId>(node, None);
        }
        let id = standard(row.id);
        if let (Some(parent), Some(by)) = (row.parent, row.by) {
            space.insert_reference(&standard(parent), &id, standard(by));
        }
        if let Some(definition) = row.definition {
            let definition = standard(definition);
            space.insert_reference(&id, &definition, ReferenceTypeId::HasTypeDefinition);
        }
        if let Some(rule) = row.rule {
            space.insert_reference(&id, &standard(rule), ReferenceTypeId::HasModellingRule);
        }
    }
}

fn standard(id: u32) -> NodeId {
    NodeId::new(0, id)
}

impl Row {
    fn is(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    fn data_type(&self) -> NodeId {
        standard(self.data.unwrap_or(DataTypeId::BaseDataType as u32))
    }

    fn rank(&self) -> i32 {
        self.rank.unwrap_or(SCALAR)
    }

    /// The node, unless the row is none. `texts` are those of the data types.
    fn node(
        &self,
        texts: &BTreeMap<u32, &str>,
        encodings: &BTreeMap<u32, u32>,
    ) -> Option<NodeType> {
        let id = standard(self.id);
        let browse_name = QualifiedName::new(0, self.name.as_str());
        let name = LocalizedText::from(self.name.as_str());
        let is_abstract = self.is('a');
        Some(match self.class {
            Class::Object => {
                let notifies = match self.is('n') {
                    true => EventNotifier::SUBSCRIBE_TO_EVENTS,
                    false => EventNotifier::empty(),
                };
                Object::new(&id, browse_name, name, notifies).into()
            }
            Class::Variable => {
                let members = self.parent.and_then(|parent| texts.get(&parent));
                let value = self.value(members.copied()).unwrap_or_default();
                let dimensions = (self.rank() == LIST).then_some(0);
                let data_type = self.data_type();
                let rank = Some(self.rank());
                Variable::new_data_value(&id, browse_name, name, data_type, rank, dimensions, value)
                    .into()
            }
            Class::Method => Method::new(&id, browse_name, name, true, true).into(),
            Class::ObjectType => ObjectType::new(&id, browse_name, name, is_abstract).into(),
            Class::VariableType => {
                let data_type = self.data_type();
                VariableType::new(&id, browse_name, name, data_type, is_abstract, self.rank())
                    .into()
            }
            Class::ReferenceType => {
                let inverse = (!self.text.is_empty()).then(|| self.text.as_str().into());
                let symmetric = self.is('s');
                ReferenceType::new(&id, browse_name, name, inverse, symmetric, is_abstract).into()
            }
            Class::DataType => {
                let mut node = DataType::new(&id, browse_name, name, is_abstract);
                node.set_data_type_definition(self.type_definition(encodings));
                node.into()
            }
            Class::Reference => return None,
        })
    }

    /// What a data type consists of, where it has members.
    fn type_definition(&self, encodings: &BTreeMap<u32, u32>) -> Option<DataTypeDefinition> {
        let options = options(&self.text).map(|(name, value)| EnumField {
            value,
            name: name.into(),
            display_name: name.into(),
            ..EnumField::default()
        });
        let options: Vec<EnumField> = options.collect();
        if !options.is_empty() {
            let fields = Some(options);
            return Some(DataTypeDefinition::Enum(EnumDefinition { fields }));
        }
        let fields = fields(&self.text).map(|field| StructureField {
            name: field.name.into(),
            data_type: standard(field.data_type),
            value_rank: field.rank,
            ..StructureField::default()
        });
        let fields: Vec<StructureField> = fields.collect();
        if fields.is_empty() {
            return None;
        }
        let encoding = encodings.get(&self.id);
        Some(DataTypeDefinition::Structure(StructureDefinition {
            default_encoding_id: encoding.map_or_else(NodeId::null, |id| standard(*id)),
            base_data_type: self.parent.map_or_else(NodeId::null, standard),
            structure_type: StructureType::Structure,
            fields: Some(fields),
        }))
    }

    /// The value of a property that never changes; `members` are those of the data type that has it.
    fn value(&self, members: Option<&str>) -> Option<Variant> {
        match (self.name.as_str(), members) {
            ("EnumStrings", Some(members)) => {
                let names = options(members).map(|(name, _)| LocalizedText::from(name));
                return Some(Variant::from(names.collect::<Vec<_>>()));
            }
            ("OptionSetValues", Some(members)) => return Some(bits(members)),
            ("EnumValues", Some(members)) => {
                let values = options(members).map(|(name, value)| {
                    ExtensionObject::from_message(EnumValueType {
                        value,
                        display_name: name.into(),
                        description: LocalizedText::null(),
                    })
                });
                return Some(Variant::from(values.collect::<Vec<_>>()));
            }
            _ if self.text.is_empty() => return None,
            _ => {}
        }
        let text = self.text.as_str();
        match DataTypeId::try_from(self.data?).ok()? {
            DataTypeId::Argument => {
                let arguments = fields(text).map(|field| {
                    ExtensionObject::from_message(Argument {
                        name: field.name.into(),
                        data_type: standard(field.data_type),
                        value_rank: field.rank,
                        // The library writes no list without them.
                        array_dimensions: (field.rank == LIST).then(|| vec![0]),
                        description: LocalizedText::null(),
                    })
                });
                Some(Variant::from(arguments.collect::<Vec<_>>()))
            }
            DataTypeId::Boolean => text.parse::<bool>().ok().map(Variant::from),
            DataTypeId::DateTime => {
                let time = DateTime::parse_from_rfc3339(text);
                time.ok().map(Variant::from)
            }
            DataTypeId::LocalizedText => Some(LocalizedText::from(text).into()),
            DataTypeId::String | DataTypeId::SemanticVersionString => Some(text.into()),
            DataTypeId::UInt32 => text.parse::<u32>().ok().map(Variant::from),
            _ => None,
        }
    }
}

/// `Name=1;…`
fn options(text: &str) -> impl Iterator<Item = (&str, i64)> {
    text.split(';').filter_map(|option| {
        let (name, value) = option.split_once('=')?;
        Some((name, value.parse().ok()?))
    })
}

/// `Name:type:rank;…`
fn fields(text: &str) -> impl Iterator<Item = Field<'_>> {
    text.split(';').filter_map(|field| {
        let (name, kind) = field.split_once(':')?;
        let (data_type, rank) = kind.split_once(':')?;
        Some(Field {
            name,
            data_type: data_type.parse().ok()?,
            rank: rank.parse().ok()?,
        })
    })
}

/// The names of an option set's bits, from the lowest on.
fn bits(members: &str) -> Variant {
    let mut names: Vec<LocalizedText> = Vec::new();
    for (name, bit) in options(members) {
        let bit = usize::try_from(bit).unwrap_or_default();
        names.resize(names.len().max(bit), RESERVED.into());
        names.push(name.into());
    }
    Variant::from(names)
}

#[cfg(test)]
mod tests;
