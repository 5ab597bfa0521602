//! Walking a server's nodes, for people.

use std::collections::{HashMap, HashSet};

use millrace_tags::Value;
use opcua::types::{
    AttributeId, BrowseDirection, DataValue, NodeClass, NodeId, ReferenceDescription,
    ReferenceTypeId, Variant,
};

use super::NodeAddress;
use super::json::{Lexicon, qualified};
use super::references::{query, references};
use super::server::attributes;
use super::tool::{OpcuaTool, bad};
use super::{decode, types};
use crate::SessionError;

/// The standard's root of what a plant has.
const OBJECTS: u32 = 85;
/// The server's own object: hundreds of nodes about itself.
const SERVER: u32 = 2253;

/// What to walk.
#[derive(Debug, Clone)]
pub struct BrowseOptions {
    /// From where on; the Objects folder where nothing is given.
    pub root: Option<NodeAddress>,
    /// How many levels below it.
    pub depth: usize,
    /// How many nodes at most.
    pub nodes_max: usize,
    /// Whether variables are read.
    pub values: bool,
}

/// What a walk found, in the order of a printed tree: each node is followed by what is below it.
#[derive(Debug, Clone, Default)]
pub struct Browsed {
    /// The nodes; the first is the root.
    pub nodes: Vec<BrowsedNode>,
    /// There is more than was asked for.
    pub cut: bool,
    /// Nodes whose references the server did not give, with the reason.
    pub refused: Vec<(String, String)>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BrowsedNode {
    /// Levels below the root.
    pub depth: usize,
    /// As a tag has it: by the namespace's URI.
    pub address: String,
    /// As `2:Name`.
    pub browse_name: String,
    /// In the server's language.
    pub display_name: String,
    /// `object`, `variable`, `method`, …
    pub class: String,
    /// Whether it describes the node above it, as a unit does, and is no thing of its own.
    pub is_property: bool,
    /// Of variables: the name of the data type, with `[]` where it is an array of it.
    pub data_type: Option<String>,
    /// Of variables: `r`, `w`, `rw`, or `-`, as this user may.
    pub access: Option<String>,
    /// Of variables that were read.
    pub value: Option<Value>,
    /// Why there is no value.
    pub bad: Option<String>,
    /// Its engineering unit.
    pub unit: Option<String>,
}

/// A node while the walk goes on.
struct Found {
    node: NodeId,
    parent: Option<usize>,
    shown: BrowsedNode,
    children: Vec<usize>,
}

impl OpcuaTool {
    /// Walks the nodes below a root, level by level. `progress` is told how many nodes there are so far.
    ///
    /// # Errors
    /// Where the session breaks, or the root is not there.
    pub async fn browse(
        &self,
        options: &BrowseOptions,
        mut progress: impl FnMut(usize),
    ) -> Result<Browsed, SessionError> {
        let root = match &options.root {
            None => NodeId::new(0, OBJECTS),
            Some(address) => self.node(address).map_err(|why| self.absent(&why))?,
        };
        let mut browsed = Browsed::default();
        let mut found = vec![self.root(&root).await?];
        let mut seen: HashSet<NodeId> = HashSet::from([root.clone()]);
        let mut level = vec![0];
        for depth in 1..=options.depth {
            let queries = level.iter().map(|place| {
                let node = found[*place].node.clone();
                query(
                    node,
                    BrowseDirection::Forward,
                    ReferenceTypeId::HierarchicalReferences,
                )
            });
            let answers = references(&self.channel, queries.collect()).await?;
            let mut next = Vec::new();
            for (parent, answer) in level.into_iter().zip(answers) {
                let below = match answer {
                    Ok(below) => below,
                    Err(status) => {
                        let address = found[parent].shown.address.clone();
                        browsed.refused.push((address, status.to_string()));
                        continue;
                    }
                };
                for reference in below {
                    let node = reference.node_id.node_id.clone();
                    if is_type(&reference) || !seen.insert(node.clone()) {
                        continue;
                    }
                    if found.len() >= options.nodes_max {
                        browsed.cut = true;
                        break;
                    }
                    let place = found.len();
                    found[parent].children.push(place);
                    let is_server = node == NodeId::new(0, SERVER);
                    found.push(self.met(node, parent, depth, &reference));
                    if !is_server {
                        next.push(place);
                    }
                }
            }
            progress(found.len());
            level = next;
            if level.is_empty() || browsed.cut {
                break;
            }
        }
        browsed.cut |= !level.is_empty() && self.has_more(&level, &found).await?;
        self.describe(&mut found, options.values, &mut progress)
            .await?;
        browsed.nodes = in_order(found);
        Ok(browsed)
    }

    async fn root(&self, root: &NodeId) -> Result<Found, SessionError> {
        let wanted = [
            AttributeId::NodeClass,
            AttributeId::BrowseName,
            AttributeId::DisplayName,
        ];
        let wanted = wanted.map(|attribute| (root.clone(), attribute));
        let read = attributes(&self.channel, wanted.to_vec()).await?;
        let [class, browse_name, display_name] = read.as_slice() else {
            return Err(self.absent("the server does not describe it"));
        };
        if let Some(status) = bad(class) {
            return Err(self.absent(&format!("{}: {status}", self.address(root))));
        }
        let class = match class.value {
            Some(Variant::Int32(class)) => class_name(class),
            _ => "node",
        };
        let name = match &browse_name.value {
            Some(Variant::QualifiedName(name)) => qualified(name),
            _ => root.to_string(),
        };
        let shown = match &display_name.value {
            Some(Variant::LocalizedText(text)) => text.text.to_string(),
            _ => name.clone(),
        };
        Ok(Found {
            node: root.clone(),
            parent: None,
            children: Vec::new(),
            shown: BrowsedNode {
                address: self.address(root),
                browse_name: name,
                display_name: shown,
                class: class.to_owned(),
                ..BrowsedNode::default()
            },
        })
    }

    fn absent(&self, why: &str) -> SessionError {
        SessionError::Refused {
            device: self.channel.endpoint().endpoint_url.to_string(),
            message: why.to_owned(),
            hint: "`millrace browse` without a node begins at the top".to_owned(),
        }
    }

    fn met(
        &self,
        node: NodeId,
        parent: usize,
        depth: usize,
        reference: &ReferenceDescription,
    ) -> Found {
        let shown = BrowsedNode {
            depth,
            address: self.address(&node),
            browse_name: qualified(&reference.browse_name),
            display_name: reference.display_name.text.to_string(),
            class: class_name(reference.node_class as i32).to_owned(),
            is_property: reference.reference_type_id == ReferenceTypeId::HasProperty,
            ..BrowsedNode::default()
        };
        Found {
            node,
            parent: Some(parent),
            children: Vec::new(),
            shown,
        }
    }

    /// Whether anything lies below the last level that was walked.
    async fn has_more(&self, level: &[usize], found: &[Found]) -> Result<bool, SessionError> {
        let queries = level.iter().map(|place| {
            let node = found[*place].node.clone();
            query(
                node,
                BrowseDirection::Forward,
                ReferenceTypeId::HierarchicalReferences,
            )
        });
        let below = references(&self.channel, queries.collect()).await?;
        let known: HashSet<&NodeId> = found.iter().map(|found| &found.node).collect();
        let mut further = below.iter().flatten().flatten();
        Ok(further.any(|r| !is_type(r) && !known.contains(&r.node_id.node_id)))
    }

    /// Types, access and values of the variables.
    async fn describe(
        &self,
        found: &mut [Found],
        values: bool,
        progress: &mut impl FnMut(usize),
    ) -> Result<(), SessionError> {
        let places: Vec<usize> = (0..found.len())
            .filter(|place| found[*place].shown.class == "variable")
            .collect();
        let mut wanted = vec![
            AttributeId::DataType,
            AttributeId::ValueRank,
            AttributeId::UserAccessLevel,
        ];
        if values {
            wanted.push(AttributeId::Value);
        }
        let width = wanted.len();
        let mut type_names: HashMap<NodeId, String> = HashMap::new();
        for chunk in places.chunks(VARIABLES_AT_ONCE) {
            let asked = chunk.iter().flat_map(|place| {
                let node = found[*place].node.clone();
                wanted
                    .iter()
                    .map(move |attribute| (node.clone(), *attribute))
            });
            let read = attributes(&self.channel, asked.collect()).await?;
            let data_types = read.chunks(width).map(|row| data_type(&row[0]));
            let data_types: Vec<Option<NodeId>> = data_types.collect();
            self.name_types(&data_types, &mut type_names).await?;
            if values {
                let held = chunk.iter().zip(read.chunks(width));
                let held = held.map(|(place, row)| (*place, &row[3]));
                let node = |place: usize| found.get(place).map(|found| found.node.clone());
                self.types.learn(&self.channel, held, node).await?;
            }
            let (known, context) = (self.types.read(), self.channel.context().read());
            let lexicon = Lexicon::new(&known, &context);
            for ((place, row), id) in chunk.iter().zip(read.chunks(width)).zip(&data_types) {
                let shown = &mut found[*place].shown;
                let name = id.as_ref().and_then(|id| type_names.get(id));
                shown.data_type = name.map(|name| with_rank(name, &row[1]));
                shown.access = Some(access(&row[2]).to_owned());
                if let Some(data) = row.get(3) {
                    let names: Option<&types::Names> = known.names(*place).map(|names| &**names);
                    match bad(data) {
                        Some(status) => shown.bad = Some(status.to_string()),
                        None => shown.value = decode::shown(data, names, &lexicon),
                    }
                    set_unit(found, *place, data, &lexicon);
                }
            }
            drop((known, context));
            progress(found.len());
        }
        Ok(())
    }

    async fn name_types(
        &self,
        types: &[Option<NodeId>],
        names: &mut HashMap<NodeId, String>,
    ) -> Result<(), SessionError> {
        let mut unknown: Vec<NodeId> = types.iter().flatten().cloned().collect();
        let mut asked = HashSet::new();
        unknown.retain(|id| !names.contains_key(id) && asked.insert(id.clone()));
        let wanted = unknown.iter();
        let wanted = wanted.map(|id| (id.clone(), AttributeId::BrowseName));
        let read = attributes(&self.channel, wanted.collect()).await?;
        for (id, data) in unknown.into_iter().zip(read) {
            let name = match data.value {
                Some(Variant::QualifiedName(name)) => name.name.to_string(),
                _ => id.to_string(),
            };
            names.insert(id, name);
        }
        Ok(())
    }
}

/// Four attributes each: what servers commonly take in one Read.
const VARIABLES_AT_ONCE: usize = 250;

fn is_type(reference: &ReferenceDescription) -> bool {
    !matches!(
        reference.node_class,
        NodeClass::Object | NodeClass::Variable | NodeClass::Method | NodeClass::View
    )
}

fn class_name(class: i32) -> &'static str {
    match class {
        1 => "object",
        2 => "variable",
        4 => "method",
        8 => "object type",
        16 => "variable type",
        32 => "reference type",
        64 => "data type",
        128 => "view",
        _ => "node",
    }
}

fn data_type(data: &DataValue) -> Option<NodeId> {
    match &data.value {
        Some(Variant::NodeId(id)) => Some((**id).clone()),
        _ => None,
    }
}

fn with_rank(name: &str, rank: &DataValue) -> String {
    match rank.value {
        Some(Variant::Int32(rank @ 1..)) => {
            format!("{name}{}", "[]".repeat(rank.min(8).unsigned_abs() as usize))
        }
        Some(Variant::Int32(0)) => format!("{name}[]"),
        _ => name.to_owned(),
    }
}

fn access(level: &DataValue) -> &'static str {
    match level.value {
        Some(Variant::Byte(bits)) => match (bits & 1 != 0, bits & 2 != 0) {
            (true, true) => "rw",
            (true, false) => "r",
            (false, true) => "w",
            (false, false) => "-",
        },
        _ => "-",
    }
}

/// A unit is a property of the variable that has it.
fn set_unit(found: &mut [Found], place: usize, data: &DataValue, lexicon: &Lexicon<'_>) {
    let (Some(parent), true) = (
        found[place].parent,
        found[place].shown.browse_name == "EngineeringUnits",
    ) else {
        return;
    };
    let Some(held) = &data.value else {
        return;
    };
    let unit = lexicon.json(held);
    let name = unit.get("DisplayName").or_else(|| unit.get("displayName"));
    if let Some(name) = name.and_then(|name| name.as_str()) {
        found[parent].shown.unit = Some(name.to_owned()).filter(|name| !name.is_empty());
    }
}

/// Each node, then what is below it.
fn in_order(mut found: Vec<Found>) -> Vec<BrowsedNode> {
    let mut ordered = Vec::with_capacity(found.len());
    let mut open = vec![0];
    while let Some(place) = open.pop() {
        let node = &mut found[place];
        ordered.push(std::mem::take(&mut node.shown));
        open.extend(node.children.iter().rev());
    }
    ordered
}
