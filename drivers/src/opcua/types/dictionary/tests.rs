use opcua::types::{ContextOwned, DecodingOptions, NamespaceMap};

use super::super::Known;
use super::*;
use crate::opcua::json::Lexicon;

const TEXT: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<opc:TypeDictionary xmlns:opc="http://opcfoundation.org/BinarySchema/" xmlns:ua="http://opcfoundation.org/UA/"
  xmlns:tns="urn:plc" xmlns:other="urn:other" TargetNamespace="urn:plc" DefaultByteOrder="LittleEndian">
  <opc:EnumeratedType Name="Mode" LengthInBits="32">
    <opc:EnumeratedValue Name="off" Value="0"/><opc:EnumeratedValue Name="on" Value="1"/>
  </opc:EnumeratedType>
  <opc:StructuredType Name="Part" BaseType="ua:ExtensionObject">
    <opc:Field Name="Mode" TypeName="tns:Mode"/>
    <opc:Field Name="Label" TypeName="ua:LocalizedText"/>
  </opc:StructuredType>
  <opc:StructuredType Name="Whole" BaseType="ua:ExtensionObject">
    <opc:Field Name="NoOfParts" TypeName="opc:Int32"/>
    <opc:Field Name="Parts" TypeName="tns:Part" LengthField="NoOfParts"/>
    <opc:Field Name="Id" TypeName="opc:UInt16"/>
  </opc:StructuredType>
  <opc:StructuredType Name="Sparse" BaseType="ua:ExtensionObject">
    <opc:Field Name="ASpecified" TypeName="opc:Bit"/>
    <opc:Field Name="BSpecified" TypeName="opc:Bit"/>
    <opc:Field Name="Reserved1" TypeName="opc:Bit" Length="30"/>
    <opc:Field Name="A" TypeName="opc:Byte" SwitchField="ASpecified"/>
    <opc:Field Name="B" TypeName="opc:Byte" SwitchField="BSpecified"/>
  </opc:StructuredType>
  <opc:StructuredType Name="Either" BaseType="ua:Union">
    <opc:Field Name="SwitchField" TypeName="opc:UInt32"/>
    <opc:Field Name="Number" TypeName="opc:Int16" SwitchField="SwitchField" SwitchValue="1"/>
    <opc:Field Name="Word" TypeName="opc:String" SwitchField="SwitchField" SwitchValue="2"/>
  </opc:StructuredType>
  <opc:StructuredType Name="Foreign"><opc:Field Name="F" TypeName="other:Thing"/></opc:StructuredType>
</opc:TypeDictionary>"#;

fn read(name: &str, bytes: &[u8]) -> Option<String> {
    let id = NodeId::new(3, 1u32);
    let known = Known {
        shapes: Dictionary::parse(&id, TEXT.as_bytes()).shapes,
        ..Known::default()
    };
    let context = ContextOwned::new_default(NamespaceMap::new(), DecodingOptions::default());
    let Some(Shape::Structure(structure)) = known.shapes.get(&named(&id, name)) else {
        return None;
    };
    let lexicon = Lexicon::new(&known, &context);
    lexicon
        .fields(structure, bytes)
        .map(|json| json.to_string())
}

#[test]
fn structures_of_a_dictionary_are_read() {
    let part = [1, 0, 0, 0, 2, 2, 0, 0, 0, b'a', b'b'];
    let whole = [&[2, 0, 0, 0][..], &part, &part, &[7, 1]].concat();
    assert_eq!(
        read("Whole", &whole).as_deref(),
        Some(r#"{"Id":263,"Parts":[{"Label":"ab","Mode":"on"},{"Label":"ab","Mode":"on"}]}"#)
    );
    assert_eq!(
        read("Sparse", &[2, 0, 0, 0, 9]).as_deref(),
        Some(r#"{"B":9}"#)
    );
    assert_eq!(
        read("Either", &[1, 0, 0, 0, 255, 255]).as_deref(),
        Some(r#"{"Number":-1}"#)
    );
    assert_eq!(read("Either", &[0, 0, 0, 0]).as_deref(), Some("null"));
}

#[test]
fn bytes_that_do_not_fit_are_not_guessed_at() {
    assert_eq!(read("Sparse", &[2, 0, 0, 0, 9, 9]), None);
    assert_eq!(read("Sparse", &[3, 0, 0, 0, 9]), None);
    assert_eq!(read("Either", &[3, 0, 0, 0, 9]), None);
    assert_eq!(read("Whole", &[255, 255, 255, 127]), None);
    assert_eq!(read("Foreign", &[1]), None);
    assert_eq!(read("Nobody", &[1]), None);
}

#[test]
fn what_is_no_dictionary_has_no_types() {
    for text in [&b"<opc:TypeDictionary"[..], b"", b"\xff\xfe", b"<a/>"] {
        let shapes = Dictionary::parse(&NodeId::new(3, 1u32), text).shapes;
        assert!(
            shapes
                .values()
                .all(|shape| matches!(shape, Shape::BuiltIn(_)))
        );
    }
}
