//! The file is sound, and the type tree made of it knows what the server asks it for.

use std::collections::BTreeSet;

use opcua::types::{NodeClass, ObjectTypeId};
use opcua_server::address_space::{DefaultTypeTree, TypeTree};

use super::*;

const ROOT: u32 = 84;

/// What modelling rules are: with Root the only nodes without a parent.
const MODELLING_RULE: u32 = ObjectTypeId::ModellingRuleType as u32;

fn ids(rows: &[Row], classes: &[Class]) -> BTreeSet<u32> {
    let of_class = rows.iter().filter(|row| classes.contains(&row.class));
    of_class.map(|row| row.id).collect()
}

fn type_tree() -> DefaultTypeTree {
    let mut space = AddressSpace::new();
    furnish(&mut space);
    let mut types = DefaultTypeTree::new();
    space.load_into_type_tree(&mut types);
    types
}

#[test]
fn each_row_is_sound() {
    let rows = rows();
    let lines = ROWS.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(rows.len(), lines.count() - 1, "every line is a row");
    let nodes: Vec<&Row> = rows
        .iter()
        .filter(|row| row.class != Class::Reference)
        .collect();
    let known: BTreeSet<u32> = nodes.iter().map(|row| row.id).collect();
    assert_eq!(known.len(), nodes.len(), "no id is there twice");
    let references = ids(&rows, &[Class::ReferenceType]);
    let definitions = ids(&rows, &[Class::ObjectType, Class::VariableType]);
    let data_types = ids(&rows, &[Class::DataType]);
    let objects = ids(&rows, &[Class::Object]);
    for row in &rows {
        let there = |id: Option<u32>, among: &BTreeSet<u32>, what: &str| {
            assert!(
                id.is_none_or(|id| among.contains(&id)),
                "{what} of {row:?} is not there"
            );
        };
        there(Some(row.id), &known, "the node");
        there(row.parent, &known, "the parent");
        there(row.by, &references, "the reference type");
        there(row.definition, &definitions, "the type definition");
        there(row.rule, &objects, "the modelling rule");
        there(row.data, &data_types, "the data type");
        let alone = row.id == ROOT || row.definition == Some(MODELLING_RULE);
        assert_eq!(row.parent.is_none(), alone, "{row:?}");
        assert_eq!(row.parent.is_none(), row.by.is_none(), "{row:?}");
        let typed = matches!(row.class, Class::Object | Class::Variable);
        assert_eq!(row.definition.is_some(), typed, "{row:?}");
        let holds = matches!(row.class, Class::Variable | Class::VariableType);
        assert_eq!(row.data.is_some(), holds, "{row:?}");
        assert!(
            row.flags.chars().all(|flag| "asn".contains(flag)),
            "{row:?}"
        );
        for field in fields(&row.text) {
            there(Some(field.data_type), &data_types, "a field");
        }
        let members = row.text.split(';').count();
        let read = fields(&row.text).count() + options(&row.text).count();
        if row.class == Class::DataType && !row.text.is_empty() {
            assert_eq!(read, members, "{row:?}");
        }
    }
}

#[test]
fn every_node_is_reached_from_one_without_a_parent() {
    let rows = rows();
    let alone = rows.iter().filter(|row| row.parent.is_none());
    let mut reached: BTreeSet<u32> = alone.map(|row| row.id).collect();
    loop {
        let below = rows
            .iter()
            .filter(|row| row.parent.is_some_and(|parent| reached.contains(&parent)));
        let more: BTreeSet<u32> = below.map(|row| row.id).collect();
        let before = reached.len();
        reached.extend(more);
        if reached.len() == before {
            break;
        }
    }
    for row in &rows {
        assert!(reached.contains(&row.id), "{row:?}");
    }
}

#[test]
fn the_type_tree_knows_the_references_that_make_a_hierarchy() {
    let types = type_tree();
    let top: NodeId = ReferenceTypeId::HierarchicalReferences.into();
    for reference in [
        ReferenceTypeId::Organizes,
        ReferenceTypeId::HasComponent,
        ReferenceTypeId::HasOrderedComponent,
        ReferenceTypeId::HasProperty,
        ReferenceTypeId::HasSubtype,
        ReferenceTypeId::HasEventSource,
        ReferenceTypeId::HasNotifier,
    ] {
        assert!(
            types.is_subtype_of(&reference.into(), &top),
            "{reference:?}"
        );
    }
    for reference in [
        ReferenceTypeId::HasTypeDefinition,
        ReferenceTypeId::HasModellingRule,
        ReferenceTypeId::HasEncoding,
    ] {
        assert!(
            !types.is_subtype_of(&reference.into(), &top),
            "{reference:?}"
        );
    }
    let integer = DataTypeId::Integer.into();
    assert!(types.is_subtype_of(&DataTypeId::Int16.into(), &integer));
    assert!(!types.is_subtype_of(&DataTypeId::UInt16.into(), &integer));
}

#[test]
fn the_type_tree_knows_the_fields_that_filters_of_events_select() {
    let types = type_tree();
    let selected: [(ObjectTypeId, &[&str]); 6] = [
        (ObjectTypeId::BaseEventType, &["EventId"]),
        (ObjectTypeId::BaseEventType, &["Severity"]),
        (ObjectTypeId::ConditionType, &["Retain"]),
        (
            ObjectTypeId::AcknowledgeableConditionType,
            &["AckedState", "Id"],
        ),
        (ObjectTypeId::AlarmConditionType, &["ActiveState", "Id"]),
        (ObjectTypeId::LimitAlarmType, &["HighLimit"]),
    ];
    for (kind, path) in selected {
        let path: Vec<QualifiedName> = path
            .iter()
            .map(|name| QualifiedName::new(0, *name))
            .collect();
        let found = types.find_type_prop_by_browse_path(&kind.into(), &path);
        let class = found.map(|field| field.node_class);
        assert_eq!(class, Some(NodeClass::Variable), "{path:?}");
    }
}

#[test]
fn bits_without_a_name_are_reserved() {
    let names = ["Low", RESERVED, "High"].map(LocalizedText::from);
    assert_eq!(bits("Low=0;High=2"), Variant::from(names.to_vec()));
}
