//! Asking the server for its types.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use opcua::types::{
    AttributeId, BrowseDirection, DataValue, EnumDefinition, EnumValueType, NodeId,
    ReferenceDescription, ReferenceTypeId, StructureDefinition, Variant, VariantScalarTypeId,
};

use super::dictionary::Dictionary;
use super::{Names, Shape, Structure, TypeId, Types};
use crate::SessionError;
use crate::opcua::channel::Channel;
use crate::opcua::references::{query, references};
use crate::opcua::server::attributes;

/// Values in values: what the innermost ones need is known after at most as many rounds.
const ROUNDS_MAX: usize = 4;

/// Supertypes of a type; a server with a loop in its type tree does not catch us.
const SUPERTYPES_MAX: usize = 32;

/// The standard's abstract types that decide how their subtypes are encoded.
const STRUCTURE: u32 = 22;
const ENUMERATION: u32 = 29;

/// How a type without a definition is to be understood.
enum Origin {
    /// As the built-in type that it is a subtype of.
    Shape(Shape),
    Enumeration,
    Structure,
}

impl Types {
    /// Learns what is needed to understand these values: nothing is asked twice, and of plain values nothing at all.
    /// `node` is the node of an item whose numbers may have names.
    pub(in crate::opcua) async fn learn<'v>(
        &self,
        channel: &Channel,
        values: impl Iterator<Item = (usize, &'v DataValue)> + Clone,
        node: impl Fn(usize) -> Option<NodeId>,
    ) -> Result<(), SessionError> {
        for _ in 0..ROUNDS_MAX {
            let named = |place| node(place).is_some();
            let wanted = self.wanted(values.clone(), named, channel.context());
            if wanted.is_empty() {
                return Ok(());
            }
            self.learn_encodings(channel, wanted.encodings).await?;
            let items = wanted.items.into_iter();
            let items = items.filter_map(|place| Some((place, node(place)?)));
            self.learn_items(channel, items.collect()).await?;
        }
        Ok(())
    }

    /// The type of these encodings, and what the types need.
    async fn learn_encodings(
        &self,
        channel: &Channel,
        mut encodings: Vec<NodeId>,
    ) -> Result<(), SessionError> {
        let mut seen = HashSet::new();
        encodings.retain(|id| seen.insert(id.clone()));
        if encodings.is_empty() {
            return Ok(());
        }
        let owners = neighbours(
            channel,
            &encodings,
            BrowseDirection::Inverse,
            ReferenceTypeId::HasEncoding,
        )
        .await?;
        let mut types = Vec::new();
        for (encoding, owner) in encodings.into_iter().zip(owners) {
            let owner = owner.into_iter().next().map(|r| r.node_id.node_id);
            types.extend(owner.clone());
            self.change(|known| known.encodings.insert(encoding, owner.map(TypeId::Node)));
        }
        self.load(channel, types).await
    }

    /// The data types of these items, as far as they have names.
    async fn learn_items(
        &self,
        channel: &Channel,
        items: Vec<(usize, NodeId)>,
    ) -> Result<(), SessionError> {
        let asked = items.iter();
        let asked = asked.map(|(_, node)| (node.clone(), AttributeId::DataType));
        let read = attributes(channel, asked.collect()).await?;
        let types: Vec<Option<NodeId>> = read.into_iter().map(node_id).collect();
        self.load(channel, types.iter().flatten().cloned().collect())
            .await?;
        self.change(|known| {
            for ((place, _), data_type) in items.into_iter().zip(types) {
                let shape = data_type.and_then(|id| known.shapes.get(&TypeId::Node(id)));
                let names = match shape {
                    Some(Shape::Enumeration(names)) => Some(names.clone()),
                    _ => None,
                };
                known.items.insert(place, names);
            }
        });
        Ok(())
    }

    /// How values of this data type are encoded.
    pub(in crate::opcua) async fn shape(
        &self,
        channel: &Channel,
        data_type: &NodeId,
    ) -> Result<Shape, SessionError> {
        self.load(channel, vec![data_type.clone()]).await?;
        let known = self.read();
        let shape = known.shapes.get(&TypeId::Node(data_type.clone()));
        Ok(shape.cloned().unwrap_or(Shape::Unknown))
    }

    /// Learns these types and those of their fields.
    async fn load(&self, channel: &Channel, types: Vec<NodeId>) -> Result<(), SessionError> {
        let mut next = types;
        while !next.is_empty() {
            let mut asked: Vec<NodeId> = Vec::new();
            self.change(|known| {
                for id in next.drain(..) {
                    let type_id = TypeId::Node(id.clone());
                    if known.shapes.contains_key(&type_id) || asked.contains(&id) {
                        continue;
                    }
                    match Shape::of_standard(&id) {
                        Some(shape) => {
                            known.shapes.insert(type_id, shape);
                        }
                        None => asked.push(id),
                    }
                }
            });
            if asked.is_empty() {
                return Ok(());
            }
            let wanted = asked.iter();
            let wanted = wanted.map(|id| (id.clone(), AttributeId::DataTypeDefinition));
            let definitions = attributes(channel, wanted.collect()).await?;
            let mut undefined = Vec::new();
            for (id, definition) in asked.into_iter().zip(definitions) {
                match defined(definition) {
                    Some(shape) => {
                        next.extend(field_types(&shape));
                        self.know(id, shape);
                    }
                    None => undefined.push(id),
                }
            }
            self.trace(channel, undefined).await?;
        }
        Ok(())
    }

    fn know(&self, id: NodeId, shape: Shape) {
        self.change(|known| known.shapes.insert(TypeId::Node(id), shape));
    }

    /// Types without a definition, by what they derive from.
    async fn trace(&self, channel: &Channel, types: Vec<NodeId>) -> Result<(), SessionError> {
        let origins = origins(channel, &types).await?;
        let (mut named, mut structured) = (Vec::new(), Vec::new());
        for (id, origin) in types.into_iter().zip(origins) {
            match origin {
                Some(Origin::Shape(shape)) => self.know(id, shape),
                Some(Origin::Enumeration) => named.push(id),
                Some(Origin::Structure) => structured.push(id),
                None => self.know(id, Shape::Unknown),
            }
        }
        for (id, names) in named.iter().zip(listed_names(channel, &named).await?) {
            let shape = match names {
                Some(names) => Shape::Enumeration(Arc::new(names)),
                None => Shape::BuiltIn(VariantScalarTypeId::Int32),
            };
            self.know(id.clone(), shape);
        }
        self.look_up(channel, structured).await
    }

    /// Structures of servers that have type dictionaries: encoding, description, dictionary.
    async fn look_up(&self, channel: &Channel, types: Vec<NodeId>) -> Result<(), SessionError> {
        for id in types {
            let described = described(channel, &id).await?;
            let shape = match described {
                Some((dictionary, name)) => self.in_dictionary(channel, dictionary, &name).await?,
                None => None,
            };
            self.know(id, shape.unwrap_or(Shape::Unknown));
        }
        Ok(())
    }

    async fn in_dictionary(
        &self,
        channel: &Channel,
        dictionary: NodeId,
        name: &str,
    ) -> Result<Option<Shape>, SessionError> {
        let type_id = TypeId::Named {
            dictionary: dictionary.clone(),
            name: name.to_owned(),
        };
        if let Some(shape) = self.read().shapes.get(&type_id) {
            return Ok(Some(shape.clone()));
        }
        let asked = vec![(dictionary.clone(), AttributeId::Value)];
        let read = attributes(channel, asked).await?.into_iter().next();
        let Some(Variant::ByteString(text)) = read.and_then(|data| data.value) else {
            return Ok(None);
        };
        let parsed = Dictionary::parse(&dictionary, text.as_ref());
        Ok(self.change(|known| {
            known.shapes.extend(parsed.shapes);
            known.shapes.get(&type_id).cloned()
        }))
    }
}

/// The nodes that each of these refers to by one kind of reference.
async fn neighbours(
    channel: &Channel,
    nodes: &[NodeId],
    direction: BrowseDirection,
    reference: ReferenceTypeId,
) -> Result<Vec<Vec<ReferenceDescription>>, SessionError> {
    let queries = nodes
        .iter()
        .map(|node| query(node.clone(), direction, reference));
    let found = references(channel, queries.collect()).await?;
    Ok(found.into_iter().map(Result::unwrap_or_default).collect())
}

fn node_id(data: DataValue) -> Option<NodeId> {
    match data.value {
        Some(Variant::NodeId(id)) => Some(*id),
        _ => None,
    }
}

/// What a DataTypeDefinition says.
fn defined(data: DataValue) -> Option<Shape> {
    let Some(Variant::ExtensionObject(object)) = data.value else {
        return None;
    };
    if let Some(structure) = object.inner_as::<StructureDefinition>() {
        return Some(Shape::Structure(Arc::new(Structure::of_definition(
            structure,
        ))));
    }
    let names = object.inner_as::<EnumDefinition>()?;
    Some(Shape::Enumeration(Arc::new(Names::of_definition(names))))
}

fn field_types(shape: &Shape) -> Vec<NodeId> {
    let Shape::Structure(structure) = shape else {
        return Vec::new();
    };
    let types = structure.fields.iter().map(|field| match &field.data_type {
        TypeId::Node(id) => Some(id.clone()),
        TypeId::Named { .. } => None,
    });
    types.flatten().collect()
}

/// What each type derives from, as far as that decides its encoding.
async fn origins(channel: &Channel, types: &[NodeId]) -> Result<Vec<Option<Origin>>, SessionError> {
    let mut origins: Vec<Option<Origin>> = types.iter().map(|_| None).collect();
    let mut open: Vec<(usize, NodeId)> = types.iter().cloned().enumerate().collect();
    for _ in 0..SUPERTYPES_MAX {
        if open.is_empty() {
            break;
        }
        let nodes: Vec<NodeId> = open.iter().map(|(_, id)| id.clone()).collect();
        let supertypes = neighbours(
            channel,
            &nodes,
            BrowseDirection::Inverse,
            ReferenceTypeId::HasSubtype,
        );
        let supertypes = supertypes.await?;
        let mut further = Vec::new();
        for ((place, _), supertype) in open.into_iter().zip(supertypes) {
            let Some(supertype) = supertype.into_iter().next().map(|r| r.node_id.node_id) else {
                continue;
            };
            let standard = match supertype.namespace {
                0 => supertype.as_u32(),
                _ => None,
            };
            match (standard, Shape::of_standard(&supertype)) {
                (Some(STRUCTURE), _) => origins[place] = Some(Origin::Structure),
                (Some(ENUMERATION), _) => origins[place] = Some(Origin::Enumeration),
                (_, Some(shape)) => origins[place] = Some(Origin::Shape(shape)),
                (_, None) => further.push((place, supertype)),
            }
        }
        open = further;
    }
    Ok(origins)
}

/// EnumStrings or EnumValues of these types.
async fn listed_names(
    channel: &Channel,
    types: &[NodeId],
) -> Result<Vec<Option<Names>>, SessionError> {
    let properties = neighbours(
        channel,
        types,
        BrowseDirection::Forward,
        ReferenceTypeId::HasProperty,
    );
    let mut asked = Vec::new();
    let mut of_type = Vec::new();
    for (place, properties) in properties.await?.into_iter().enumerate() {
        for property in properties {
            let name = property.browse_name.name.as_ref();
            if matches!(name, "EnumStrings" | "EnumValues") {
                asked.push((property.node_id.node_id.clone(), AttributeId::Value));
                of_type.push(place);
            }
        }
    }
    let mut names: Vec<Option<Names>> = types.iter().map(|_| None).collect();
    let values = attributes(channel, asked).await?;
    for (place, data) in of_type.into_iter().zip(values) {
        if let Some(Variant::Array(array)) = data.value {
            names[place] = names_of(&array.values).or(names[place].take());
        }
    }
    Ok(names)
}

fn names_of(values: &[Variant]) -> Option<Names> {
    let mut names = HashMap::new();
    for (place, value) in values.iter().enumerate() {
        match value {
            Variant::LocalizedText(text) => {
                names.insert(i64::try_from(place).ok()?, text.text.to_string());
            }
            Variant::ExtensionObject(object) => {
                let value = object.inner_as::<EnumValueType>()?;
                names.insert(value.value, value.display_name.text.to_string());
            }
            _ => return None,
        }
    }
    Some(Names(names.into_iter().collect()))
}

/// The dictionary that a structure type is described in, and its name there.
async fn described(
    channel: &Channel,
    data_type: &NodeId,
) -> Result<Option<(NodeId, String)>, SessionError> {
    let (forward, inverse) = (BrowseDirection::Forward, BrowseDirection::Inverse);
    let around = async |node: &NodeId, direction, reference| {
        let nodes = std::slice::from_ref(node);
        let found = neighbours(channel, nodes, direction, reference).await?;
        Ok::<_, SessionError>(found.into_iter().flatten().collect::<Vec<_>>())
    };
    let encodings = around(data_type, forward, ReferenceTypeId::HasEncoding).await?;
    let mut encodings = encodings.into_iter();
    let binary = encodings.find(|r| r.browse_name.name.as_ref() == "Default Binary");
    let Some(binary) = binary.map(|r| r.node_id.node_id) else {
        return Ok(None);
    };
    let description = around(&binary, forward, ReferenceTypeId::HasDescription).await?;
    let Some(description) = description.into_iter().next() else {
        return Ok(None);
    };
    let description = description.node_id.node_id;
    let asked = vec![(description.clone(), AttributeId::Value)];
    let name = attributes(channel, asked).await?.into_iter().next();
    let Some(Variant::String(name)) = name.and_then(|data| data.value) else {
        return Ok(None);
    };
    let dictionary = around(&description, inverse, ReferenceTypeId::HasComponent).await?;
    let dictionary = dictionary.into_iter().next();
    Ok(dictionary.map(|r| (r.node_id.node_id, name.to_string())))
}
