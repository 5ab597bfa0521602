//! The catalogue: which number stands for which source and tag.
//!
//! Numbers are given once and kept as long as the stream. Catalogue frames write them down: all of
//! them at the start of each epoch, new ones before the first chunk that uses them, so that every
//! epoch can be read by itself.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_tags::{LogKind, SourceId, SourceKind, StreamId, TagId, TagInfo, TagTable, ValueType};
use uuid::Uuid;

use crate::wire::{Cursor, Malformed, put_bytes, put_varint};

/// What a catalogue frame begins with.
pub(crate) const MAGIC: [u8; 4] = [0xF1, b'M', b'R', b'k'];

/// Length of the fixed part of a catalogue frame.
const HEADER_BYTES: usize = 34;
const VERSION: u8 = 1;

/// A frame is cut at this size, so that it stays in sled's log like a chunk.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// An intact frame that a newer program wrote.
pub(crate) const NEWER: Malformed = Malformed("a newer program wrote it");

/// Names beyond this are nobody's: the configuration refuses them long before.
const NAME_BYTES_MAX: usize = 4 * 1024;

/// A source, as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceInfo {
    pub(crate) name: Arc<str>,
    pub(crate) kind: SourceKind,
}

/// A tag as it is asked for in [`crate::Buffer::register`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TagSpec {
    /// Name within its source.
    pub name: Arc<str>,
    /// The type of its values.
    pub value_type: ValueType,
    /// The unit of its values, as configured.
    pub unit: Option<Arc<str>>,
}

/// The numbers of all sources and tags.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sources: Vec<SourceInfo>,
    by_name: HashMap<Arc<str>, SourceId>,
    tags: Arc<TagTable>,
    by_spec: HashMap<(SourceId, TagSpec), TagId>,
    /// A stored catalogue gave its numbers another meaning.
    contradicted: bool,
    /// What stored numbers stand for whose names are lost.
    nameless: HashMap<SourceId, SourceId>,
}

/// The name of a stored source whose own name is lost in every place.
pub(crate) fn unnamed(source: SourceId) -> Arc<str> {
    format!("source-{}", source.0).into()
}

impl Registry {
    /// The number of a source, given now if it has none.
    pub(crate) fn source(&mut self, name: &str, kind: SourceKind) -> SourceId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let id = SourceId(u32::try_from(self.sources.len()).unwrap_or(u32::MAX));
        let name: Arc<str> = cut(name).into();
        self.by_name.insert(name.clone(), id);
        self.sources.push(SourceInfo { name, kind });
        id
    }

    /// The number of a tag, given now if it has none under this name, type and unit.
    pub(crate) fn tag(&mut self, source: SourceId, spec: &TagSpec) -> TagId {
        let key = (source, spec.clone());
        if let Some(&id) = self.by_spec.get(&key) {
            return id;
        }
        let id = Arc::make_mut(&mut self.tags).push(TagInfo {
            source,
            name: cut(&spec.name).into(),
            value_type: spec.value_type,
            unit: spec.unit.clone(),
        });
        self.by_spec.insert(key, id);
        id
    }

    pub(crate) fn sources(&self) -> &[SourceInfo] {
        &self.sources
    }

    pub(crate) fn tags(&self) -> &Arc<TagTable> {
        &self.tags
    }

    pub(crate) fn name(&self, source: SourceId) -> Option<&Arc<str>> {
        self.sources.get(source.0 as usize).map(|s| &s.name)
    }

    pub(crate) fn find(&self, name: &str) -> Option<SourceId> {
        self.by_name.get(name).copied()
    }

    /// What a stored number stands for whose name is lost where it is used: the same as everywhere else,
    /// as far as all catalogues agree, else a source that is named by its number. What was said once of a
    /// number stays.
    pub(crate) fn nameless(&mut self, source: SourceId) -> SourceId {
        if let Some(&known) = self.nameless.get(&source) {
            return known;
        }
        let known = (source.0 as usize) < self.sources.len();
        let meant = match known && !self.contradicted {
            true => source,
            false => self.source(&unnamed(source), SourceKind::Device),
        };
        self.contradicted |= meant != source;
        self.nameless.insert(source, meant);
        meant
    }

    /// What was said of numbers whose names are lost.
    pub(crate) fn nameless_known(&self) -> impl Iterator<Item = (SourceId, SourceId)> {
        self.nameless
            .iter()
            .map(|(stored, meant)| (*stored, *meant))
    }

    /// Whether all stored catalogues agree.
    pub(crate) fn agrees(&self) -> bool {
        !self.contradicted
    }

    /// Notes that some stored number has another meaning.
    pub(crate) fn contradict(&mut self) {
        self.contradicted = true;
    }

    /// Takes over what a stored catalogue says. `false` where it contradicts what is known already.
    pub(crate) fn adopt(&mut self, stored: &Catalogue) -> bool {
        let adopted = self.adopt_all(stored);
        self.contradicted |= !adopted;
        adopted
    }

    fn adopt_all(&mut self, stored: &Catalogue) -> bool {
        for source in &stored.sources {
            let next = self.sources.len() as u32;
            match self.sources.get(source.id.0 as usize) {
                Some(known) if known.name == source.name => {}
                None if source.id.0 == next && !self.by_name.contains_key(&source.name) => {
                    self.source(&source.name, source.kind);
                }
                _ => return false,
            }
        }
        for (id, tag) in &stored.tags {
            let spec = TagSpec {
                name: tag.name.clone(),
                value_type: tag.value_type,
                unit: tag.unit.clone(),
            };
            let known = self.tags.get(*id).map(|t| **t == *tag);
            let next = id.0 as usize == self.tags.len();
            match known {
                Some(true) => {}
                None if next && !self.by_spec.contains_key(&(tag.source, spec.clone())) => {
                    self.tag(tag.source, &spec);
                }
                _ => return false,
            }
        }
        true
    }
}

fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// A source with its line's position when the frame was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredSource {
    pub(crate) id: SourceId,
    pub(crate) kind: SourceKind,
    pub(crate) name: Arc<str>,
    /// The last number committed before the frame.
    pub(crate) last: u64,
    /// The last number that may have been published.
    pub(crate) limit: u64,
}

/// What one or several catalogue frames say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Catalogue {
    /// The stream that the line positions belong to.
    pub(crate) stream: Option<StreamId>,
    pub(crate) sources: Vec<StoredSource>,
    pub(crate) tags: Vec<(TagId, TagInfo)>,
}

impl Catalogue {
    /// Adds what a later frame says.
    pub(crate) fn extend(&mut self, later: Catalogue) {
        self.stream = self.stream.or(later.stream);
        for source in later.sources {
            if !self.sources.iter().any(|s| s.id == source.id) {
                self.sources.push(source);
            }
        }
        self.tags.extend(later.tags);
        self.tags.sort_by_key(|(id, _)| *id);
        self.tags.dedup_by_key(|(id, _)| *id);
    }

    /// The tags as a table; a tag whose frame was lost is there without a name.
    pub(crate) fn table(&self) -> TagTable {
        let mut table = TagTable::default();
        for (id, tag) in &self.tags {
            while table.len() < id.0 as usize {
                table.push(TagInfo {
                    source: SourceId(u32::MAX),
                    name: "".into(),
                    value_type: ValueType::Any,
                    unit: None,
                });
            }
            table.push(tag.clone());
        }
        table
    }

    /// Writes the catalogue as frames of bounded size.
    pub(crate) fn frames(&self, log: LogKind, stream: StreamId) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut body = Vec::new();
        for source in &self.sources {
            body.push(0);
            put_varint(&mut body, u64::from(source.id.0));
            body.push(match source.kind {
                SourceKind::Device => 0,
                SourceKind::Model => 1,
            });
            put_bytes(&mut body, source.name.as_bytes());
            put_varint(&mut body, source.last);
            put_varint(&mut body, source.limit);
            cut_frame(&mut frames, &mut body, log, stream);
        }
        for (id, tag) in &self.tags {
            body.push(1);
            put_varint(&mut body, u64::from(id.0));
            put_varint(&mut body, u64::from(tag.source.0));
            put_bytes(&mut body, tag.name.as_bytes());
            body.push(type_code(tag.value_type));
            let unit = tag.unit.as_deref().map(cut);
            put_varint(&mut body, unit.map_or(0, |u| u.len() as u64 + 1));
            body.extend_from_slice(unit.unwrap_or("").as_bytes());
            cut_frame(&mut frames, &mut body, log, stream);
        }
        if frames.is_empty() || !body.is_empty() {
            frames.push(frame(log, stream, &body));
        }
        frames
    }

    /// Reads the frame at the start of `bytes`; returns its length too.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(LogKind, Catalogue, usize), Malformed> {
        let mut input = Cursor::new(bytes);
        if input.array::<4>()? != MAGIC {
            return Err(Malformed("the magic is missing"));
        }
        let (version, log) = (input.u8()?, input.u8()?);
        let stream = StreamId(Uuid::from_bytes(input.array()?));
        let len = input.u32()? as usize;
        let _reserved = input.u32()?;
        let stored = input.u32()?;
        let body = input.take(len)?;
        let head = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        if crc32c::crc32c_append(head, body) != stored {
            return Err(Malformed("the checksum does not match"));
        }
        if version > VERSION {
            return Err(NEWER);
        }
        let log = if log == 0 {
            LogKind::Data
        } else {
            LogKind::Alarm
        };
        let mut catalogue = Catalogue {
            stream: Some(stream),
            ..Catalogue::default()
        };
        catalogue.read(body)?;
        Ok((log, catalogue, HEADER_BYTES + len))
    }

    fn read(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut input = Cursor::new(body);
        while !input.is_empty() {
            if input.u8()? == 0 {
                self.sources.push(StoredSource {
                    id: SourceId(input.varint32()?),
                    kind: match input.u8()? {
                        0 => SourceKind::Device,
                        _ => SourceKind::Model,
                    },
                    name: input.text()?.into(),
                    last: input.varint()?,
                    limit: input.varint()?,
                });
            } else {
                let id = TagId(input.varint32()?);
                let source = SourceId(input.varint32()?);
                let name = input.text()?.into();
                let value_type = type_from_code(input.u8()?)?;
                let unit = match input.length(NAME_BYTES_MAX + 1)? {
                    0 => None,
                    len => Some(
                        std::str::from_utf8(input.take(len - 1)?)
                            .map_err(|_| Malformed("a unit is not UTF-8"))?
                            .into(),
                    ),
                };
                let tag = TagInfo {
                    source,
                    name,
                    value_type,
                    unit,
                };
                self.tags.push((id, tag));
            }
        }
        Ok(())
    }
}

fn cut_frame(frames: &mut Vec<Vec<u8>>, body: &mut Vec<u8>, log: LogKind, stream: StreamId) {
    if body.len() >= FRAME_BYTES_MAX {
        frames.push(frame(log, stream, body));
        body.clear();
    }
}

fn frame(log: LogKind, stream: StreamId, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(u8::from(log == LogKind::Alarm));
    out.extend_from_slice(stream.0.as_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out), body);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// The stored number of a type.
fn type_code(value_type: ValueType) -> u8 {
    match value_type {
        ValueType::Any => 0,
        ValueType::Bool => 1,
        ValueType::I64 => 2,
        ValueType::U64 => 3,
        ValueType::F64 => 4,
        ValueType::F32 => 5,
        ValueType::Text => 6,
        ValueType::Bytes => 7,
        ValueType::Json => 8,
    }
}

fn type_from_code(code: u8) -> Result<ValueType, Malformed> {
    Ok(match code {
        0 => ValueType::Any,
        1 => ValueType::Bool,
        2 => ValueType::I64,
        3 => ValueType::U64,
        4 => ValueType::F64,
        5 => ValueType::F32,
        6 => ValueType::Text,
        7 => ValueType::Bytes,
        8 => ValueType::Json,
        _ => return Err(Malformed("an unknown value type")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> TagSpec {
        TagSpec {
            name: name.into(),
            value_type: ValueType::F64,
            unit: Some("bar".into()),
        }
    }

    #[test]
    fn a_tag_keeps_its_number_until_its_meaning_changes() {
        let mut registry = Registry::default();
        let boiler = registry.source("boiler", SourceKind::Device);
        let first = registry.tag(boiler, &spec("pressure"));
        assert_eq!(registry.tag(boiler, &spec("pressure")), first);
        let mut other = spec("pressure");
        other.unit = None;
        assert_ne!(registry.tag(boiler, &other), first);
        assert_eq!(registry.source("boiler", SourceKind::Device), boiler);
    }

    #[test]
    fn frames_round_trip_whatever_their_number() {
        let mut written = Catalogue::default();
        let stream = StreamId(Uuid::from_u128(7));
        written.sources.push(StoredSource {
            id: SourceId(0),
            kind: SourceKind::Model,
            name: "boiler".into(),
            last: 12,
            limit: 300,
        });
        for i in 0..5000 {
            let tag = TagInfo {
                source: SourceId(0),
                name: format!("pressure-{i}").into(),
                value_type: ValueType::U64,
                unit: (i % 2 == 0).then(|| "°C".into()),
            };
            written.tags.push((TagId(i), tag));
        }
        let frames = written.frames(LogKind::Alarm, stream);
        assert!(frames.len() > 1);
        let mut read = Catalogue::default();
        for frame in &frames {
            let (log, part, len) = Catalogue::parse(frame).unwrap();
            assert_eq!((log, len), (LogKind::Alarm, frame.len()));
            read.extend(part);
        }
        written.stream = Some(stream);
        assert_eq!(read, written);
        let mut registry = Registry::default();
        assert!(registry.adopt(&read) && registry.adopt(&read));
        assert_eq!(registry.tags().len(), 5000);
    }
}
