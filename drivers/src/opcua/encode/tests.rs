use std::sync::Arc;

use super::*;

fn encoded(kind: VariantScalarTypeId, value: Value) -> Result<Variant, Unfit> {
    let target = Target {
        shape: &Shape::BuiltIn(kind),
        is_array: false,
        present: &Variant::Empty,
    };
    target.encode(&value)
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn values_take_the_type_of_the_server() {
    for (kind, value, expected) in [
        (
            VariantScalarTypeId::Boolean,
            Value::U64(1),
            Variant::Boolean(true),
        ),
        (
            VariantScalarTypeId::Byte,
            Value::I64(255),
            Variant::Byte(255),
        ),
        (
            VariantScalarTypeId::SByte,
            Value::I64(-128),
            Variant::SByte(-128),
        ),
        (
            VariantScalarTypeId::Int16,
            Value::F64(-3.0),
            Variant::Int16(-3),
        ),
        (
            VariantScalarTypeId::UInt64,
            Value::U64(u64::MAX),
            Variant::UInt64(u64::MAX),
        ),
        (
            VariantScalarTypeId::Int64,
            Value::I64(i64::MIN),
            Variant::Int64(i64::MIN),
        ),
        (
            VariantScalarTypeId::Float,
            Value::F64(0.1),
            Variant::Float(0.1),
        ),
        (
            VariantScalarTypeId::Double,
            Value::I64(3),
            Variant::Double(3.0),
        ),
        (VariantScalarTypeId::String, text("ü"), Variant::from("ü")),
        (
            VariantScalarTypeId::ByteString,
            text("AQI="),
            Variant::ByteString(ByteString::from(vec![1, 2])),
        ),
        (
            VariantScalarTypeId::QualifiedName,
            text("2:Pump"),
            Variant::from(QualifiedName::new(2, "Pump")),
        ),
        (
            VariantScalarTypeId::DateTime,
            text("2026-11-21T08:30:15.1234567+01:00"),
            Variant::from(DateTime::ymd_hms_nano(2026, 11, 21, 7, 30, 15, 123_456_700)),
        ),
    ] {
        assert_eq!(encoded(kind, value), Ok(expected));
    }
}

#[test]
fn what_would_read_back_differently_is_refused() {
    for (kind, value, said) in [
        (VariantScalarTypeId::Byte, Value::I64(256), "0 to 255"),
        (VariantScalarTypeId::Byte, Value::I64(-1), "0 to 255"),
        (
            VariantScalarTypeId::Int16,
            Value::F64(1.5),
            "no whole number",
        ),
        (
            VariantScalarTypeId::UInt64,
            Value::I64(-1),
            "18446744073709551615",
        ),
        (VariantScalarTypeId::Float, Value::F64(1e39), "the range is"),
        (
            VariantScalarTypeId::Float,
            Value::F64(1e-60),
            "the range is",
        ),
        (
            VariantScalarTypeId::Float,
            Value::I64(16_777_217),
            "16777216",
        ),
        (
            VariantScalarTypeId::Double,
            Value::U64(u64::MAX),
            "would become",
        ),
        (
            VariantScalarTypeId::Double,
            Value::F64(f64::NAN),
            "no finite number",
        ),
        (VariantScalarTypeId::Boolean, Value::I64(2), "true, false"),
        (VariantScalarTypeId::String, Value::I64(12), "in quotes"),
        (VariantScalarTypeId::Guid, text("12"), "no GUID"),
        (VariantScalarTypeId::ByteString, text("%"), "no base64"),
        (VariantScalarTypeId::DateTime, text("yesterday"), "no time"),
        (
            VariantScalarTypeId::DateTime,
            text("1500-01-01T00:00:00Z"),
            "no time",
        ),
        (
            VariantScalarTypeId::DateTime,
            text("2026-11-21T07:30:15.123456789Z"),
            "100 ns",
        ),
        (VariantScalarTypeId::Variant, Value::I64(1), "holds nothing"),
        (
            VariantScalarTypeId::DataValue,
            text("x"),
            "no value that can be written",
        ),
    ] {
        let error = encoded(kind, value).expect_err(said);
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn open_types_take_what_the_node_holds() {
    let target = Target {
        shape: &Shape::BuiltIn(VariantScalarTypeId::Variant),
        is_array: false,
        present: &Variant::UInt16(7),
    };
    assert_eq!(target.encode(&Value::I64(9)), Ok(Variant::UInt16(9)));
    assert!(target.encode(&Value::I64(70_000)).is_err());
}

#[test]
fn enumerations_are_written_by_name_or_by_a_number_that_has_one() {
    let names = Names::of([(0, "off"), (5, "on")]);
    let target = Target {
        shape: &Shape::Enumeration(Arc::new(names)),
        is_array: false,
        present: &Variant::Empty,
    };
    assert_eq!(target.encode(&text("on")), Ok(Variant::Int32(5)));
    assert_eq!(target.encode(&Value::U64(0)), Ok(Variant::Int32(0)));
    for value in [text("On"), Value::I64(1)] {
        let error = target.encode(&value).expect_err("no such state");
        assert!(error.contains("0=off, 5=on"), "{error}");
    }
}

#[test]
fn arrays_are_checked_element_by_element() {
    let array = |json: &str| {
        let target = Target {
            shape: &Shape::BuiltIn(VariantScalarTypeId::Byte),
            is_array: true,
            present: &Variant::Empty,
        };
        target.encode(&Value::Json(json.into()))
    };
    assert_eq!(array("[1,2]"), Ok(Variant::from(vec![1u8, 2])));
    assert_eq!(array("[]"), Ok(Variant::from(Vec::<u8>::new())));
    let Ok(Variant::Array(matrix)) = array("[[1,2,3],[4,5,6]]") else {
        panic!("no array");
    };
    assert_eq!(matrix.dimensions, Some(vec![2, 3]));
    for (json, said) in [
        ("[1,300]", "element 1: 300"),
        ("[[1,2],[3]]", "one length"),
        ("[[1],2]", "one length"),
        ("[1,[2]]", "one length"),
        ("[1,null]", "element 1"),
        ("7", "no array"),
    ] {
        let error = array(json).expect_err(json);
        assert!(error.contains(said), "{json}: {error}");
    }
}
