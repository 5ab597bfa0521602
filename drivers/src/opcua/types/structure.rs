//! The bytes of a structure, by its type.

use std::io::Cursor;

use opcua::types::{
    BinaryDecodable, ByteString, Context, DataValue, DateTime, DiagnosticInfo, EncodingResult,
    Error, ExpandedNodeId, ExtensionObject, Guid, LocalizedText, NodeId, QualifiedName, StatusCode,
    UAString, Variant, VariantScalarTypeId, XmlElement,
};
use serde_json::{Map, Value as Json};

use super::{Field, Form, Rank, Shape, Structure};
use crate::opcua::json::{Lexicon, nest};

/// Structures in structures; no real type is deeper, and a type may hold itself.
const DEPTH_MAX: usize = 32;

type Bytes<'b> = Cursor<&'b [u8]>;

impl Lexicon<'_> {
    /// The fields by name. `None` where the bytes do not fit the type to the last one, so that nothing is guessed.
    pub(crate) fn fields(&self, structure: &Structure, bytes: &[u8]) -> Option<Json> {
        let context = self.context.context();
        let reading = Walk {
            lexicon: self,
            context: &context,
        };
        let mut stream = Cursor::new(bytes);
        let fields = reading.structure(structure, &mut stream, 0).ok()?;
        (stream.position() == bytes.len() as u64).then_some(fields)
    }
}

struct Walk<'a> {
    lexicon: &'a Lexicon<'a>,
    context: &'a Context<'a>,
}

impl Walk<'_> {
    fn structure(
        &self,
        structure: &Structure,
        stream: &mut Bytes<'_>,
        depth: usize,
    ) -> EncodingResult<Json> {
        if depth > DEPTH_MAX {
            return Err(Error::decoding("structures are nested too deep"));
        }
        let mut members = Map::new();
        let mut add = |field: &Field, stream: &mut Bytes<'_>| {
            let value = self.field(field, stream, depth)?;
            members.insert(field.name.clone(), value);
            Ok::<_, Error>(())
        };
        match structure.form {
            Form::Plain => {
                for field in &structure.fields {
                    add(field, stream)?;
                }
            }
            Form::WithOptional => {
                let mask = u32::decode(stream, self.context)?;
                let mut bit = 1u32;
                for field in &structure.fields {
                    if field.optional {
                        let there = mask & bit != 0;
                        bit = bit.wrapping_shl(1);
                        if !there {
                            continue;
                        }
                    }
                    add(field, stream)?;
                }
            }
            Form::Union => {
                let switch = u32::decode(stream, self.context)? as usize;
                let Some(chosen) = switch.checked_sub(1) else {
                    return Ok(Json::Null);
                };
                let field = structure.fields.get(chosen);
                add(
                    field.ok_or_else(|| Error::decoding("the union has no such field"))?,
                    stream,
                )?;
            }
        }
        Ok(Json::Object(members))
    }

    fn field(&self, field: &Field, stream: &mut Bytes<'_>, depth: usize) -> EncodingResult<Json> {
        let known = self.lexicon.known.shapes.get(&field.data_type);
        let shape = match known {
            Some(Shape::Structure(_)) if field.subtyped => {
                Shape::BuiltIn(VariantScalarTypeId::ExtensionObject)
            }
            Some(Shape::BuiltIn(_)) if field.subtyped => {
                Shape::BuiltIn(VariantScalarTypeId::Variant)
            }
            Some(shape) => shape.clone(),
            None => Shape::Unknown,
        };
        match field.rank {
            Rank::Scalar => self.element(&shape, stream, depth),
            Rank::Array => {
                let length = self.length(stream)?;
                self.elements(&shape, length, stream, depth)
                    .map(Json::Array)
            }
            Rank::Matrix => {
                let mut dimensions = Vec::new();
                for _ in 0..self.length(stream)? {
                    dimensions.push(self.length(stream)? as u32);
                }
                let sizes = dimensions.iter();
                let total = sizes.fold(1usize, |all, size| all.saturating_mul(*size as usize));
                let flat = self.elements(&shape, total, stream, depth)?;
                Ok(match dimensions.len() {
                    0 => Json::Array(flat),
                    _ => nest(flat, &dimensions),
                })
            }
        }
    }

    /// How many elements follow; a null array has none. No element is shorter than a byte.
    fn length(&self, stream: &mut Bytes<'_>) -> EncodingResult<usize> {
        let length = i32::decode(stream, self.context)?.max(0);
        usize::try_from(length).map_err(Error::decoding)
    }

    fn elements(
        &self,
        shape: &Shape,
        count: usize,
        stream: &mut Bytes<'_>,
        depth: usize,
    ) -> EncodingResult<Vec<Json>> {
        let left = stream.get_ref().len() as u64 - stream.position();
        if count as u64 > left {
            return Err(Error::decoding("an array is longer than its message"));
        }
        let elements = (0..count).map(|_| self.element(shape, stream, depth));
        elements.collect()
    }

    fn element(&self, shape: &Shape, stream: &mut Bytes<'_>, depth: usize) -> EncodingResult<Json> {
        match shape {
            Shape::BuiltIn(kind) => Ok(self.lexicon.json(&built_in(*kind, stream, self.context)?)),
            Shape::Enumeration(names) => Ok(names.json(i32::decode(stream, self.context)?)),
            Shape::Structure(structure) => self.structure(structure, stream, depth + 1),
            Shape::Unknown => Err(Error::decoding("a field's type is not known")),
        }
    }
}

/// One value of a built-in type.
fn built_in(
    kind: VariantScalarTypeId,
    stream: &mut Bytes<'_>,
    context: &Context<'_>,
) -> EncodingResult<Variant> {
    fn read<T: BinaryDecodable>(
        stream: &mut Bytes<'_>,
        context: &Context<'_>,
    ) -> EncodingResult<T> {
        T::decode(stream, context)
    }
    Ok(match kind {
        VariantScalarTypeId::Boolean => Variant::Boolean(read::<u8>(stream, context)? != 0),
        VariantScalarTypeId::SByte => Variant::SByte(read(stream, context)?),
        VariantScalarTypeId::Byte => Variant::Byte(read(stream, context)?),
        VariantScalarTypeId::Int16 => Variant::Int16(read(stream, context)?),
        VariantScalarTypeId::UInt16 => Variant::UInt16(read(stream, context)?),
        VariantScalarTypeId::Int32 => Variant::Int32(read(stream, context)?),
        VariantScalarTypeId::UInt32 => Variant::UInt32(read(stream, context)?),
        VariantScalarTypeId::Int64 => Variant::Int64(read(stream, context)?),
        VariantScalarTypeId::UInt64 => Variant::UInt64(read(stream, context)?),
        VariantScalarTypeId::Float => Variant::Float(read(stream, context)?),
        VariantScalarTypeId::Double => Variant::Double(read(stream, context)?),
        VariantScalarTypeId::String => Variant::String(read::<UAString>(stream, context)?),
        VariantScalarTypeId::DateTime => Variant::from(read::<DateTime>(stream, context)?),
        VariantScalarTypeId::Guid => Variant::from(read::<Guid>(stream, context)?),
        VariantScalarTypeId::ByteString => {
            Variant::ByteString(read::<ByteString>(stream, context)?)
        }
        VariantScalarTypeId::XmlElement => {
            Variant::XmlElement(read::<XmlElement>(stream, context)?)
        }
        VariantScalarTypeId::NodeId => Variant::from(read::<NodeId>(stream, context)?),
        VariantScalarTypeId::ExpandedNodeId => {
            Variant::from(read::<ExpandedNodeId>(stream, context)?)
        }
        VariantScalarTypeId::StatusCode => {
            Variant::StatusCode(read::<StatusCode>(stream, context)?)
        }
        VariantScalarTypeId::QualifiedName => {
            Variant::from(read::<QualifiedName>(stream, context)?)
        }
        VariantScalarTypeId::LocalizedText => {
            Variant::from(read::<LocalizedText>(stream, context)?)
        }
        VariantScalarTypeId::ExtensionObject => {
            Variant::ExtensionObject(read::<ExtensionObject>(stream, context)?)
        }
        VariantScalarTypeId::DataValue => {
            Variant::DataValue(Box::new(read::<DataValue>(stream, context)?))
        }
        VariantScalarTypeId::Variant => read::<Variant>(stream, context)?,
        VariantScalarTypeId::DiagnosticInfo => {
            Variant::DiagnosticInfo(Box::new(read::<DiagnosticInfo>(stream, context)?))
        }
    })
}
