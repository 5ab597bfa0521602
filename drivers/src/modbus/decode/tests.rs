use super::*;
use crate::modbus::Table;
use crate::modbus::address::Address;
use crate::modbus::plan::single;

fn extract(address: &str, data_type: &str, order: &str) -> Extract {
    let address: Address = address.parse().unwrap();
    let spec = PointSpec::new(address, data_type.parse().unwrap(), order.parse().unwrap());
    let spec = spec.unwrap();
    Extract::new(&spec, &single(&spec))
}

fn decode(data_type: &str, order: &str, data: &[u8]) -> Result<Value, Reason> {
    extract("holding:0", data_type, order).value(data)
}

/// The registers of one value in order abcd, badc, cdab, dcba.
type Orders<'a> = [&'a [u8]; 4];

#[test]
fn every_type_in_every_order() {
    let one: Orders = [&[0x12, 0x34], &[0x34, 0x12], &[0x12, 0x34], &[0x34, 0x12]];
    let minus: Orders = [&[0xFF, 0xFE], &[0xFE, 0xFF], &[0xFF, 0xFE], &[0xFE, 0xFF]];
    let two: Orders = [
        &[0x12, 0x34, 0x56, 0x78],
        &[0x34, 0x12, 0x78, 0x56],
        &[0x56, 0x78, 0x12, 0x34],
        &[0x78, 0x56, 0x34, 0x12],
    ];
    let minus_two: Orders = [
        &[0xFF, 0xFF, 0xFF, 0xFE],
        &[0xFF, 0xFF, 0xFE, 0xFF],
        &[0xFF, 0xFE, 0xFF, 0xFF],
        &[0xFE, 0xFF, 0xFF, 0xFF],
    ];
    // -123.456 as IEEE 754 single precision is C2F6E979.
    let float: Orders = [
        &[0xC2, 0xF6, 0xE9, 0x79],
        &[0xF6, 0xC2, 0x79, 0xE9],
        &[0xE9, 0x79, 0xC2, 0xF6],
        &[0x79, 0xE9, 0xF6, 0xC2],
    ];
    let four: Orders = [
        &[0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF],
        &[0x23, 0x01, 0x67, 0x45, 0xAB, 0x89, 0xEF, 0xCD],
        &[0xCD, 0xEF, 0x89, 0xAB, 0x45, 0x67, 0x01, 0x23],
        &[0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01],
    ];
    // -123.456 in double precision is C05EDD2F1A9FBE77.
    let double: Orders = [
        &[0xC0, 0x5E, 0xDD, 0x2F, 0x1A, 0x9F, 0xBE, 0x77],
        &[0x5E, 0xC0, 0x2F, 0xDD, 0x9F, 0x1A, 0x77, 0xBE],
        &[0xBE, 0x77, 0x1A, 0x9F, 0xDD, 0x2F, 0xC0, 0x5E],
        &[0x77, 0xBE, 0x9F, 0x1A, 0x2F, 0xDD, 0x5E, 0xC0],
    ];
    let three: Orders = [
        &[0x12, 0x34, 0x56, 0x78, 0x90, 0x12],
        &[0x34, 0x12, 0x78, 0x56, 0x12, 0x90],
        &[0x90, 0x12, 0x56, 0x78, 0x12, 0x34],
        &[0x12, 0x90, 0x78, 0x56, 0x34, 0x12],
    ];
    let minus_three: Orders = [
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE],
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF],
        &[0xFF, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
    ];
    let digits: Orders = [
        &[0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56],
        &[0x34, 0x12, 0x78, 0x56, 0x12, 0x90, 0x56, 0x34],
        &[0x34, 0x56, 0x90, 0x12, 0x56, 0x78, 0x12, 0x34],
        &[0x56, 0x34, 0x12, 0x90, 0x78, 0x56, 0x34, 0x12],
    ];
    let cases: [(&str, Orders, Value); 18] = [
        ("bool", one, Value::Bool(true)),
        ("i8", minus, Value::I64(-2)),
        ("u8", one, Value::U64(0x34)),
        ("i16", minus, Value::I64(-2)),
        ("u16", one, Value::U64(0x1234)),
        ("i32", minus_two, Value::I64(-2)),
        ("i32", two, Value::I64(0x1234_5678)),
        ("u32", two, Value::U64(0x1234_5678)),
        ("i64", four, Value::I64(0x0123_4567_89AB_CDEF)),
        ("u64", four, Value::U64(0x0123_4567_89AB_CDEF)),
        ("f32", float, Value::F32(-123.456)),
        ("f64", double, Value::F64(-123.456)),
        ("bcd16", one, Value::U64(1234)),
        ("bcd32", two, Value::U64(12_345_678)),
        ("u48", three, Value::U64(0x1234_5678_9012)),
        ("i48", minus_three, Value::I64(-2)),
        ("bcd48", three, Value::U64(123_456_789_012)),
        ("bcd64", digits, Value::U64(1_234_567_890_123_456)),
    ];
    for (data_type, orders, value) in cases {
        for (order, data) in WordOrder::ALL.into_iter().zip(orders) {
            let decoded = decode(data_type, order.name(), data);
            assert_eq!(decoded, Ok(value.clone()), "{data_type} {order}");
        }
    }
}

#[test]
fn text_ends_at_nul_and_loses_trailing_spaces() {
    let text = |data_type, order, data: &[u8]| decode(data_type, order, data);
    let pump = Ok(Value::Text("PUMP".into()));
    assert_eq!(text("string:4", "abcd", b"PUMP"), pump);
    assert_eq!(text("string:4", "badc", b"UPPM"), pump);
    assert_eq!(text("string:8", "abcd", b"PUMP\0xyz"), pump);
    assert_eq!(text("string:6", "abcd", b"PUMP  "), pump);
    assert_eq!(
        text("string:3", "abcd", b"PUMP"),
        Ok(Value::Text("PUM".into()))
    );
    assert_eq!(
        text("string:2", "abcd", &[0xFF, 0xFE]),
        Err(Reason::InvalidEncoding)
    );
}

#[test]
fn bits_of_a_register_count_from_the_least_significant() {
    let bit = |bit: u8, order| extract(&format!("holding:7.{bit}"), "bool", order);
    assert_eq!(bit(0, "abcd").value(&[0x00, 0x01]), Ok(Value::Bool(true)));
    assert_eq!(bit(15, "abcd").value(&[0x80, 0x00]), Ok(Value::Bool(true)));
    assert_eq!(bit(14, "abcd").value(&[0x80, 0x00]), Ok(Value::Bool(false)));
    assert_eq!(bit(0, "badc").value(&[0x01, 0x00]), Ok(Value::Bool(true)));
}

#[test]
fn bit_fields_are_numbers() {
    let field = |data_type| extract("holding:7.4-7", data_type, "abcd").value(&[0x00, 0xA5]);
    assert_eq!(field("u8"), Ok(Value::U64(0xA)));
    assert_eq!(field("i8"), Ok(Value::I64(-6)));
}

#[test]
fn arrays_are_json() {
    let floats = [1.5f32, f32::NAN, -0.1].map(f32::to_be_bytes).concat();
    assert_eq!(
        decode("f32[3]", "abcd", &floats),
        Ok(Value::Json("[1.5,null,-0.1]".into()))
    );
    let words = [0x01, 0x00, 0xFF, 0xFF];
    assert_eq!(
        decode("i16[2]", "badc", &words),
        Ok(Value::Json("[1,-1]".into()))
    );
    assert_eq!(
        decode("i16[2]", "badc", &words[..3]),
        Err(Reason::InvalidReply)
    );
    let coils = extract("coil:7", "bool[10]", "abcd").value(&[0b101, 0b10]);
    let json = "[true,false,true,false,false,false,false,false,false,true]";
    assert_eq!(coils, Ok(Value::Json(json.into())));
}

#[test]
fn packed_bits_are_found_in_their_byte() {
    let address: Address = "coil:27".parse().unwrap();
    let spec = PointSpec::new(address, DataType::Bool, WordOrder::Abcd).unwrap();
    let request = Request {
        table: Table::Coil,
        start: 10,
        count: 24,
        points: vec![0],
    };
    let extract = Extract::new(&spec, &request);
    assert_eq!(extract.value(&[0, 0, 0b10]), Ok(Value::Bool(true)));
    assert_eq!(extract.value(&[0xFF, 0xFF, 0b01]), Ok(Value::Bool(false)));
}

#[test]
fn what_is_no_number_gets_a_reason() {
    for float in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(
            decode("f32", "abcd", &float.to_be_bytes()),
            Err(Reason::NotANumber)
        );
        let double = f64::from(float).to_be_bytes();
        assert_eq!(decode("f64", "abcd", &double), Err(Reason::NotANumber));
    }
    assert_eq!(
        decode("bcd16", "abcd", &[0x12, 0x3A]),
        Err(Reason::InvalidEncoding)
    );
    assert_eq!(
        decode("bcd32", "abcd", &[0xF0, 0, 0, 0]),
        Err(Reason::InvalidEncoding)
    );
}

#[test]
fn short_data_never_becomes_a_value() {
    for data_type in ["bool", "u16", "u32", "f64", "bcd32", "string:9"] {
        assert_eq!(decode(data_type, "abcd", &[1]), Err(Reason::InvalidReply));
    }
}
