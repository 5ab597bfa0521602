//! The way to a node by its browse names, from the Objects folder on.

use std::fmt;

use opcua::types::{
    BrowsePath, NodeId, ObjectId, QualifiedName, ReferenceTypeId, RelativePath, RelativePathElement,
};

/// `Plant/Pump/Flow`: names, each in the namespace of the address or, as `2:Flow`, in another one. `&` makes the next
/// character a part of the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Step {
    namespace: Option<u16>,
    name: String,
}

impl Path {
    /// `None` where a name is empty.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let mut steps = Vec::new();
        let mut step = Step {
            namespace: None,
            name: String::new(),
        };
        let mut plain = true;
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '&' => {
                    step.name.push(characters.next()?);
                    plain = false;
                }
                '/' => {
                    let next = Step {
                        namespace: None,
                        name: String::new(),
                    };
                    steps.push(std::mem::replace(&mut step, next));
                    plain = true;
                }
                ':' if plain && step.namespace.is_none() && step.name.parse::<u16>().is_ok() => {
                    step.namespace = step.name.parse().ok();
                    step.name.clear();
                }
                _ => step.name.push(character),
            }
        }
        steps.push(step);
        let whole = steps.iter().all(|step| !step.name.is_empty());
        whole.then_some(Self(steps))
    }

    /// What a server is asked for; `namespace` is that of the names that have none of their own.
    pub(super) fn browse_path(&self, namespace: u16) -> BrowsePath {
        let element = |step: &Step| RelativePathElement {
            reference_type_id: ReferenceTypeId::HierarchicalReferences.into(),
            is_inverse: false,
            include_subtypes: true,
            target_name: QualifiedName::new(
                step.namespace.unwrap_or(namespace),
                step.name.as_str(),
            ),
        };
        BrowsePath {
            starting_node: NodeId::from(ObjectId::ObjectsFolder),
            relative_path: RelativePath {
                elements: Some(self.0.iter().map(element).collect()),
            },
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, step) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("/")?;
            }
            if let Some(namespace) = step.namespace {
                write!(f, "{namespace}:")?;
            }
            for character in step.name.chars() {
                match character {
                    '/' | '&' | ':' => write!(f, "&{character}")?,
                    _ => write!(f, "{character}")?,
                }
            }
        }
        Ok(())
    }
}
