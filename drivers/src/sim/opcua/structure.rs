//! The structure that nodes of the type `structure` hold, with its definition in the address space, as a client needs
//! it to read a type that it has never heard of.

use opcua::types::{
    ByteString, ByteStringBody, DataTypeDefinition, DataTypeId, ExtensionObject, NodeId,
    ObjectTypeId, QualifiedName, ReferenceTypeId, StructureDefinition, StructureField,
    StructureType, Variant,
};
use opcua_server::address_space::AddressSpace;
use opcua_server::address_space::{DataTypeBuilder, ObjectBuilder, ReferenceDirection};

/// The name of the type.
const NAME: &str = "PumpState";

/// A single value, no array.
const SCALAR: i32 = -1;

pub(super) fn type_id(namespace: u16) -> NodeId {
    NodeId::new(namespace, NAME)
}

fn encoding_id(namespace: u16) -> NodeId {
    NodeId::new(namespace, format!("{NAME}.Binary"))
}

/// `{Running: Boolean, Speed: Double, Starts: UInt32}`: a pump at this speed, which runs unless that is zero.
pub(super) fn value(speed: f64, namespace: u16) -> Variant {
    let mut bytes = vec![u8::from(speed != 0.0)];
    bytes.extend(speed.to_le_bytes());
    bytes.extend((speed as u32).to_le_bytes());
    let body = ByteStringBody::new(ByteString::from(bytes), encoding_id(namespace));
    Variant::from(ExtensionObject::new(body))
}

/// Adds the type and its encoding.
pub(super) fn furnish(space: &mut AddressSpace, namespace: u16) {
    let id = type_id(namespace);
    let field = |name: &str, data_type: DataTypeId| StructureField {
        name: name.into(),
        data_type: data_type.into(),
        value_rank: SCALAR,
        ..StructureField::default()
    };
    let definition = StructureDefinition {
        default_encoding_id: encoding_id(namespace),
        base_data_type: DataTypeId::Structure.into(),
        structure_type: StructureType::Structure,
        fields: Some(vec![
            field("Running", DataTypeId::Boolean),
            field("Speed", DataTypeId::Double),
            field("Starts", DataTypeId::UInt32),
        ]),
    };
    DataTypeBuilder::new(&id, QualifiedName::new(namespace, NAME), NAME)
        .data_type_definition(DataTypeDefinition::Structure(definition))
        .subtype_of(DataTypeId::Structure)
        .insert(space);
    ObjectBuilder::new(
        &encoding_id(namespace),
        QualifiedName::new(0, "Default Binary"),
        "Default Binary",
    )
    .has_type_definition(ObjectTypeId::DataTypeEncodingType)
    .reference(
        id,
        ReferenceTypeId::HasEncoding,
        ReferenceDirection::Inverse,
    )
    .insert(space);
}
