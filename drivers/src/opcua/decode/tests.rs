use opcua::types::{
    Array, ByteString, ContextOwned, DecodingOptions, ExtensionObject, Guid, LocalizedText,
    NamespaceMap, QualifiedName, UAString, VariantScalarTypeId,
};

use super::super::types::Known;
use super::*;

fn context() -> ContextOwned {
    ContextOwned::new_default(NamespaceMap::new(), DecodingOptions::default())
}

fn decoded(variant: Variant) -> Result<Value, Reason> {
    value(variant, &Lexicon::new(&Known::default(), &context()))
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn every_scalar_has_its_value() {
    let time = DateTime::ymd_hms(2026, 11, 21, 7, 30, 15);
    let guid: Guid = "72962b91-fa75-4ae6-8d28-b404dc7daf63"
        .parse()
        .expect("GUID");
    for (variant, expected) in [
        (Variant::Boolean(true), Value::Bool(true)),
        (Variant::SByte(-5), Value::I64(-5)),
        (Variant::Byte(250), Value::U64(250)),
        (Variant::Int16(-300), Value::I64(-300)),
        (Variant::UInt16(60_000), Value::U64(60_000)),
        (Variant::Int32(i32::MIN), Value::I64(i32::MIN.into())),
        (Variant::UInt32(u32::MAX), Value::U64(u32::MAX.into())),
        (Variant::Int64(i64::MIN), Value::I64(i64::MIN)),
        (Variant::UInt64(u64::MAX), Value::U64(u64::MAX)),
        (Variant::Float(0.1), Value::F32(0.1)),
        (Variant::Double(0.1), Value::F64(0.1)),
        (Variant::from("Füllstand"), text("Füllstand")),
        (Variant::String(UAString::null()), text("")),
        (Variant::from(time), text("2026-11-21T07:30:15.000Z")),
        (Variant::from(guid.clone()), text(&guid.to_string())),
        (
            Variant::from(LocalizedText::new("de", "läuft")),
            text("läuft"),
        ),
        (Variant::from(QualifiedName::new(2, "Pump")), text("2:Pump")),
        (
            Variant::ByteString(ByteString::from(vec![1, 2])),
            Value::Bytes(vec![1, 2].into()),
        ),
        (
            Variant::StatusCode(StatusCode::BadTimeout),
            Value::U64(0x800A_0000),
        ),
        (Variant::Variant(Box::new(Variant::Int32(3))), Value::I64(3)),
    ] {
        assert_eq!(decoded(variant.clone()), Ok(expected), "{variant:?}");
    }
}

#[test]
fn no_finite_number_is_no_value() {
    for variant in [
        Variant::Float(f32::NAN),
        Variant::Float(f32::INFINITY),
        Variant::Double(f64::NAN),
        Variant::Double(f64::NEG_INFINITY),
    ] {
        assert_eq!(decoded(variant), Err(Reason::NotANumber));
    }
    assert!(matches!(decoded(Variant::Empty), Err(Reason::Status(_))));
}

fn json_text(variant: Variant) -> String {
    match decoded(variant) {
        Ok(Value::Json(json)) => json.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn arrays_become_json() {
    assert_eq!(json_text(Variant::from(vec![1i32, -2])), "[1,-2]");
    assert_eq!(
        json_text(Variant::from(vec![1.5f64, f64::NAN])),
        r#"[1.5,"NaN"]"#
    );
    assert_eq!(
        json_text(Variant::from(vec![u64::MAX])),
        "[18446744073709551615]"
    );
    let cells: Vec<Variant> = (1..=6).map(Variant::Int32).collect();
    let matrix = Array::new_multi(VariantScalarTypeId::Int32, cells, [2u32, 3]).expect("2 x 3");
    assert_eq!(json_text(Variant::from(matrix)), "[[1,2,3],[4,5,6]]");
}

#[test]
fn structures_keep_their_bytes() {
    let range = opcua::types::Range {
        low: 0.0,
        high: 1.0,
    };
    let json = json_text(Variant::from(ExtensionObject::from_message(range)));
    let json: Json = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["type"], "i=886");
    assert_eq!(json["binary"], "AAAAAAAAAAAAAAAAAADwPw==");
}

fn sampled(status: StatusCode) -> Sample {
    let data = DataValue {
        value: Some(Variant::Double(4.5)),
        status: Some(status),
        source_timestamp: Some(DateTime::ymd_hms_nano(2026, 11, 21, 0, 0, 0, 123_456_700)),
        ..DataValue::default()
    };
    let (known, context) = (Known::default(), context());
    let lexicon = Lexicon::new(&known, &context);
    sample(TagId(3), data, Moment(9), None, &lexicon)
}

#[test]
fn quality_decides_whether_there_is_a_value() {
    let good = sampled(StatusCode::Good);
    assert_eq!(
        (good.value, good.quality),
        (Some(Value::F64(4.5)), Quality::Good)
    );
    let uncertain = sampled(StatusCode::UncertainLastUsableValue);
    assert_eq!(uncertain.value, Some(Value::F64(4.5)));
    assert_eq!(uncertain.quality.severity(), "uncertain");
    let bad = sampled(StatusCode::BadSensorFailure);
    assert_eq!((bad.value, bad.quality.severity()), (None, "bad"));
}

#[test]
fn source_time_keeps_its_ticks() {
    let time = sampled(StatusCode::Good).source_time.expect("a time");
    assert_eq!(time, Timestamp(1_795_219_200_123_456_700));
    assert_eq!(timestamp(&DateTime::null()), None);
}

#[test]
fn overflow_is_seen_and_leaves_the_value_good() {
    let over = sampled(StatusCode::from(0x0000_0480));
    assert_eq!(
        (over.value, over.quality),
        (Some(Value::F64(4.5)), Quality::Good)
    );
    let with = |bits: u32| DataValue {
        status: Some(StatusCode::from(bits)),
        ..DataValue::default()
    };
    assert!(overflowed(&with(0x0000_0480)));
    assert!(overflowed(&with(0x0000_0080)));
    assert!(!overflowed(&DataValue::default()));
}

#[test]
fn numbers_with_names_are_shown_by_them() {
    let (known, context) = (Known::default(), context());
    let lexicon = Lexicon::new(&known, &context);
    let names = Names::of([(0, "off"), (1, "on")]);
    let meant = |variant: Variant| meant(variant, Some(&names), &lexicon);
    assert_eq!(meant(Variant::Int32(1)), Ok((text("on"), None)));
    let nameless = (Value::I64(7), Some(Reason::OutOfRange));
    assert_eq!(meant(Variant::Int32(7)), Ok(nameless));
    let listed = Value::Json(r#"["off",7]"#.into());
    assert_eq!(meant(Variant::from(vec![0i32, 7])), Ok((listed, None)));
    assert_eq!(meant(Variant::Float(1.0)), Ok((Value::F32(1.0), None)));
}

#[test]
fn the_time_of_the_server_stands_in_for_the_one_of_the_source() {
    let at = DateTime::ymd_hms(2026, 11, 21, 0, 0, 0);
    let data = DataValue {
        value: Some(Variant::Boolean(true)),
        server_timestamp: Some(at),
        ..DataValue::default()
    };
    let (known, context) = (Known::default(), context());
    let lexicon = Lexicon::new(&known, &context);
    let sample = sample(TagId(3), data, Moment(9), None, &lexicon);
    assert_eq!(
        sample.source_time,
        Some(Timestamp(1_795_219_200_000_000_000))
    );
}
