//! Tags and sources by number and by name.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ValueType;

/// A tag's number, given by the buffer's catalogue. Kept as long as the stream and never reused: a tag
/// that changes its type or unit gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TagId(pub u32);

/// A source's number, given by the buffer's catalogue like a [`TagId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(pub u32);

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A device that is polled or subscribed.
    Device,
    /// A model that scores windows.
    Model,
}

/// What the catalogue knows of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagInfo {
    /// The source that the tag belongs to.
    pub source: SourceId,
    /// The tag's name within its source; the full name is `source/name`.
    pub name: Arc<str>,
    /// The type of its values.
    pub value_type: ValueType,
    /// The unit of its values, as configured.
    pub unit: Option<Arc<str>>,
}

/// All tags of a stream, indexed by [`TagId`]. It only grows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagTable(Vec<Arc<TagInfo>>);

impl TagTable {
    /// What is known of the tag.
    pub fn get(&self, tag: TagId) -> Option<&Arc<TagInfo>> {
        self.0.get(tag.0 as usize)
    }

    /// Adds a tag under the next number.
    pub fn push(&mut self, info: TagInfo) -> TagId {
        // Four billion tags do not fit into the memory of any gateway.
        let id = TagId(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(Arc::new(info));
        id
    }

    /// Every tag with its number.
    pub fn iter(&self) -> impl Iterator<Item = (TagId, &Arc<TagInfo>)> {
        (0u32..).map(TagId).zip(&self.0)
    }

    /// How many tags there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no tag yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
