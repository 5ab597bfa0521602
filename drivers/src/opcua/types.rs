//! What the data types of a server look like: the fields of structures, the names of enumerations.
//!
//! Values bring no more than the id of their encoding (structures) or a number (enumerations). The server is asked once
//! for each type that a value needs: for its DataTypeDefinition, and where it has none (servers before OPC UA 1.04) for its
//! type dictionary, its EnumStrings or its EnumValues. A type of which nothing can be learned is remembered as such.

mod dictionary;
mod load;
mod structure;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use opcua::types::{
    ContextOwned, DataValue, EnumDefinition, NodeId, StructureDefinition, StructureType, Variant,
    VariantScalarTypeId,
};
use serde_json::{Value as Json, json};

use super::json::Lexicon;

/// What is known of a server's data types. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Types(Arc<RwLock<Known>>);

/// See [`Types`].
#[derive(Default)]
pub(super) struct Known {
    /// By the id of the binary encoding; `None` where the server does not say what it is.
    encodings: HashMap<NodeId, Option<TypeId>>,
    shapes: HashMap<TypeId, Shape>,
    /// By the place of the item whose value it is.
    items: HashMap<usize, Option<Arc<Names>>>,
}

/// Which type: a node of the server, or a name in one of its dictionaries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum TypeId {
    Node(NodeId),
    Named { dictionary: NodeId, name: String },
}

/// How values of a type are encoded.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// One of the 25 built-in types. An abstract number is a `Variant`, an abstract structure an `ExtensionObject`.
    BuiltIn(VariantScalarTypeId),
    /// A number with names.
    Enumeration(Arc<Names>),
    /// Fields.
    Structure(Arc<Structure>),
    /// The server does not say.
    Unknown,
}

/// The names of an enumeration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names(BTreeMap<i64, String>);

/// A structure type.
#[derive(Debug)]
pub(super) struct Structure {
    form: Form,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Every field, one after the other.
    Plain,
    /// A mask says which of the optional fields there are.
    WithOptional,
    /// A number says which of the fields it is.
    Union,
}

#[derive(Debug)]
struct Field {
    name: String,
    data_type: TypeId,
    rank: Rank,
    optional: bool,
    /// Its values are of any subtype of its type, so that each brings the id of its own.
    subtyped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Scalar,
    Array,
    Matrix,
}

/// What values need that is not known yet.
#[derive(Debug, Default)]
struct Wanted {
    encodings: Vec<NodeId>,
    items: Vec<usize>,
}

impl Types {
    /// What is known so far.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// What these values need. Numbers of items that `named` does not name are numbers.
    fn wanted<'v>(
        &self,
        values: impl Iterator<Item = (usize, &'v DataValue)>,
        named: impl Fn(usize) -> bool,
        context: &opcua::sync::RwLock<ContextOwned>,
    ) -> Wanted {
        let known = self.read();
        let mut wanted = Wanted::default();
        let mut structures = Vec::new();
        for (place, data) in values {
            match &data.value {
                Some(Variant::Int32(_)) => {}
                Some(Variant::Array(array))
                    if matches!(array.value_type, VariantScalarTypeId::Int32) => {}
                Some(value) => {
                    if may_hold_structures(value) {
                        structures.push(value);
                    }
                    continue;
                }
                None => continue,
            }
            if named(place) && !known.items.contains_key(&place) {
                wanted.items.push(place);
            }
        }
        if !structures.is_empty() {
            let context = context.read();
            let lexicon = Lexicon::new(&known, &context);
            for value in structures {
                lexicon.json(value);
            }
            wanted.encodings = lexicon.into_missing();
        }
        wanted
    }
}

fn may_hold_structures(value: &Variant) -> bool {
    let kind = match value {
        Variant::Array(array) => array.value_type,
        value => match value.scalar_type_id() {
            Some(kind) => kind,
            None => return false,
        },
    };
    matches!(
        kind,
        VariantScalarTypeId::ExtensionObject
            | VariantScalarTypeId::Variant
            | VariantScalarTypeId::DataValue
    )
}

impl Wanted {
    fn is_empty(&self) -> bool {
        self.encodings.is_empty() && self.items.is_empty()
    }
}

impl Known {
    /// The structure behind an encoding. Outer `None`: nobody asked yet; inner: the server does not say.
    pub(super) fn encoded(&self, encoding: &NodeId) -> Option<Option<&Structure>> {
        let type_id = self.encodings.get(encoding)?;
        let shape = type_id.as_ref().and_then(|id| self.shapes.get(id));
        Some(match shape {
            Some(Shape::Structure(structure)) => Some(structure),
            _ => None,
        })
    }

    /// The names of an item's values, where it is an enumeration.
    pub(super) fn names(&self, place: usize) -> Option<&Arc<Names>> {
        self.items.get(&place)?.as_ref()
    }
}

impl Names {
    /// The name of a number.
    pub(super) fn name(&self, number: i32) -> Option<&str> {
        self.0.get(&i64::from(number)).map(String::as_str)
    }

    /// The number of a name.
    pub(super) fn number(&self, name: &str) -> Option<i32> {
        let (number, _) = self.0.iter().find(|(_, known)| *known == name)?;
        i32::try_from(*number).ok()
    }

    /// As `0=off, 1=on`.
    pub(super) fn listed(&self) -> String {
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(n, name)| format!("{n}={name}"))
            .collect();
        pairs.join(", ")
    }

    /// The name; the number where it has none.
    pub(super) fn json(&self, number: i32) -> Json {
        self.name(number)
            .map_or_else(|| json!(number), |name| json!(name))
    }

    #[cfg(test)]
    pub(super) fn of<const N: usize>(names: [(i64, &str); N]) -> Self {
        Self(names.map(|(number, name)| (number, name.to_owned())).into())
    }

    fn of_definition(definition: &EnumDefinition) -> Self {
        let named = definition.fields.iter().flatten().map(|field| {
            let name = match field.name.is_empty() {
                true => field.display_name.text.as_ref(),
                false => field.name.as_ref(),
            };
            (field.value, name.to_owned())
        });
        Self(named.collect())
    }
}

impl Structure {
    fn of_definition(definition: &StructureDefinition) -> Self {
        let subtyped = matches!(
            definition.structure_type,
            StructureType::StructureWithSubtypedValues | StructureType::UnionWithSubtypedValues
        );
        let form = match definition.structure_type {
            StructureType::StructureWithOptionalFields => Form::WithOptional,
            StructureType::Union | StructureType::UnionWithSubtypedValues => Form::Union,
            _ => Form::Plain,
        };
        let fields = definition.fields.iter().flatten().map(|field| Field {
            name: field.name.to_string(),
            data_type: TypeId::Node(field.data_type.clone()),
            rank: match field.value_rank {
                ..=0 => Rank::Scalar,
                1 => Rank::Array,
                _ => Rank::Matrix,
            },
            optional: field.is_optional && !subtyped,
            subtyped: field.is_optional && subtyped,
        });
        Self {
            form,
            fields: fields.collect(),
        }
    }
}

impl Shape {
    /// What the standard's own ids say by themselves: the built-in types, and the abstract ones over them.
    fn of_standard(id: &NodeId) -> Option<Self> {
        const NUMBER: u32 = 26;
        const UINTEGER: u32 = 28;
        const ENUMERATION: u32 = 29;
        let number = match (id.namespace, id.as_u32()) {
            (0, Some(number)) => number,
            _ => return None,
        };
        Some(Shape::BuiltIn(match number {
            NUMBER..=UINTEGER => VariantScalarTypeId::Variant,
            ENUMERATION => VariantScalarTypeId::Int32,
            // The library logs an error about others.
            1..NUMBER => VariantScalarTypeId::try_from(number).ok()?,
            _ => return None,
        }))
    }
}
