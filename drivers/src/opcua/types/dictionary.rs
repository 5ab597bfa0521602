//! Type dictionaries: the XML in which servers before OPC UA 1.04 describe their structures (Part 3, annex C).
//!
//! Read is what the standard's own encoding can hold: fields of known types, arrays with a length field, optional fields
//! behind bits, unions behind a switch. A structure with anything else stays unknown.

use std::collections::HashMap;
use std::sync::Arc;

use opcua::types::{NodeId, VariantScalarTypeId};
use roxmltree::{Document, Node};

use super::{Field, Form, Names, Rank, Shape, Structure, TypeId};

/// The types of one dictionary.
#[derive(Default)]
pub(super) struct Dictionary {
    pub(super) shapes: HashMap<TypeId, Shape>,
}

impl Dictionary {
    /// What can be read of it: nothing where it is no XML.
    pub(super) fn parse(id: &NodeId, text: &[u8]) -> Self {
        let mut dictionary = Self::default();
        let Ok(text) = std::str::from_utf8(text) else {
            return dictionary;
        };
        // Some servers end the text with a NUL.
        let text = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
        let Ok(document) = Document::parse(text) else {
            return dictionary;
        };
        for node in document.root_element().children() {
            let Some(name) = node.attribute("Name") else {
                continue;
            };
            let shape = match node.tag_name().name() {
                "StructuredType" => match structure(id, node) {
                    Some(structure) => Shape::Structure(Arc::new(structure)),
                    None => Shape::Unknown,
                },
                "EnumeratedType" if node.attribute("LengthInBits") == Some("32") => {
                    Shape::Enumeration(Arc::new(names(node)))
                }
                "OpaqueType" => Shape::Unknown,
                _ => continue,
            };
            dictionary.shapes.insert(named(id, name), shape);
        }
        for kind in 1..=25u32 {
            if let Ok(kind) = VariantScalarTypeId::try_from(kind) {
                let shape = Shape::BuiltIn(kind);
                dictionary
                    .shapes
                    .insert(TypeId::Node(standard(kind)), shape);
            }
        }
        dictionary
    }
}

fn named(dictionary: &NodeId, name: &str) -> TypeId {
    TypeId::Named {
        dictionary: dictionary.clone(),
        name: name.to_owned(),
    }
}

fn standard(kind: VariantScalarTypeId) -> NodeId {
    NodeId::new(0, kind as u32)
}

fn names(node: Node<'_, '_>) -> Names {
    let values = node.children().filter_map(|value| {
        let number = value.attribute("Value")?.parse().ok()?;
        Some((number, value.attribute("Name")?.to_owned()))
    });
    Names(values.collect())
}

/// `None` where a field is none that the standard's encoding has.
fn structure(dictionary: &NodeId, node: Node<'_, '_>) -> Option<Structure> {
    let written: Vec<Node<'_, '_>> = node
        .children()
        .filter(|child| child.tag_name().name() == "Field")
        .collect();
    let lengths: Vec<&str> = written
        .iter()
        .filter_map(|field| field.attribute("LengthField"))
        .collect();
    let switches: Vec<&str> = written
        .iter()
        .filter_map(|field| field.attribute("SwitchField"))
        .collect();
    let is_union = written.iter().any(|f| f.attribute("SwitchValue").is_some());
    let (mut bits, mut fields) = (0, Vec::new());
    for field in written {
        let name = field.attribute("Name")?;
        let (prefix, type_name) = field.attribute("TypeName")?.split_once(':')?;
        let is_optional = field.attribute("SwitchField").is_some();
        if type_name == "Bit" {
            bits += field
                .attribute("Length")
                .map_or(Some(1), |n| n.parse().ok())?;
            continue;
        }
        if lengths.contains(&name) || is_union && switches.contains(&name) {
            continue;
        }
        // Of a length in bytes, or up to a terminator: nothing that the standard's own encoding has.
        if field.attribute("Length").is_some() || field.attribute("Terminator").is_some() {
            return None;
        }
        fields.push(Field {
            name: name.to_owned(),
            data_type: data_type(dictionary, field, prefix, type_name)?,
            rank: match field.attribute("LengthField") {
                Some(_) => Rank::Array,
                None => Rank::Scalar,
            },
            optional: is_optional && !is_union,
            subtyped: false,
        });
    }
    let has_mask = fields.iter().any(|field| field.optional);
    let form = match (is_union, has_mask, bits) {
        (true, ..) => Form::Union,
        (false, true, 32) => Form::WithOptional,
        (false, false, 0) => Form::Plain,
        _ => return None,
    };
    Some(Structure { form, fields })
}

fn data_type(dictionary: &NodeId, field: Node<'_, '_>, prefix: &str, name: &str) -> Option<TypeId> {
    let own = field
        .ancestors()
        .find_map(|node| node.attribute("TargetNamespace"));
    if field.lookup_namespace_uri(Some(prefix)) == own {
        // The standard's dictionary describes the built-in types, too.
        if let Some(kind) = built_in(name) {
            return Some(TypeId::Node(standard(kind)));
        }
        return Some(named(dictionary, name));
    }
    Some(TypeId::Node(standard(built_in(name)?)))
}

fn built_in(name: &str) -> Option<VariantScalarTypeId> {
    Some(match name {
        "Boolean" => VariantScalarTypeId::Boolean,
        "SByte" => VariantScalarTypeId::SByte,
        "Byte" => VariantScalarTypeId::Byte,
        "Int16" => VariantScalarTypeId::Int16,
        "UInt16" => VariantScalarTypeId::UInt16,
        "Int32" => VariantScalarTypeId::Int32,
        "UInt32" => VariantScalarTypeId::UInt32,
        "Int64" => VariantScalarTypeId::Int64,
        "UInt64" => VariantScalarTypeId::UInt64,
        "Float" => VariantScalarTypeId::Float,
        "Double" => VariantScalarTypeId::Double,
        "String" | "CharArray" => VariantScalarTypeId::String,
        "DateTime" => VariantScalarTypeId::DateTime,
        "Guid" => VariantScalarTypeId::Guid,
        "ByteString" => VariantScalarTypeId::ByteString,
        "XmlElement" => VariantScalarTypeId::XmlElement,
        "NodeId" => VariantScalarTypeId::NodeId,
        "ExpandedNodeId" => VariantScalarTypeId::ExpandedNodeId,
        "StatusCode" => VariantScalarTypeId::StatusCode,
        "QualifiedName" => VariantScalarTypeId::QualifiedName,
        "LocalizedText" => VariantScalarTypeId::LocalizedText,
        "ExtensionObject" => VariantScalarTypeId::ExtensionObject,
        "DataValue" => VariantScalarTypeId::DataValue,
        "Variant" => VariantScalarTypeId::Variant,
        "DiagnosticInfo" => VariantScalarTypeId::DiagnosticInfo,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
