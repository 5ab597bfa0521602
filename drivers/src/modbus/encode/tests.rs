use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::modbus::decode::Extract;
use crate::modbus::plan::single;
use crate::modbus::{Element, Table};

fn spec(address: &str, data_type: DataType, order: WordOrder) -> PointSpec {
    PointSpec::new(address.parse().unwrap(), data_type, order).unwrap()
}

fn refused(address: &str, data_type: &str, value: Value) -> String {
    let spec = spec(address, data_type.parse().unwrap(), WordOrder::Abcd);
    let error = encode(&spec, &value).unwrap_err();
    let source = std::error::Error::source(&error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// What is read back where the registers held `before`.
fn read_back(spec: &PointSpec, encoded: &Encoded, before: u16) -> Value {
    let data: Vec<u8> = match encoded {
        Encoded::Bits(bits) => bits
            .chunks(8)
            .map(|bits| {
                bits.iter()
                    .rev()
                    .fold(0, |byte, bit| byte << 1 | u8::from(*bit))
            })
            .collect(),
        Encoded::Registers(words) => words.iter().flat_map(|w| w.to_be_bytes()).collect(),
        Encoded::Masked { and, or } => ((before & and) | (or & !and)).to_be_bytes().to_vec(),
    };
    Extract::new(spec, &single(spec)).value(&data).unwrap()
}

#[test]
fn registers_are_in_the_order_of_the_device() {
    let words = |order| {
        encode(
            &spec("holding:0", DataType::U32, order),
            &Value::U64(0x1234_5678),
        )
    };
    assert_eq!(
        words(WordOrder::Abcd),
        Ok(Encoded::Registers(vec![0x1234, 0x5678]))
    );
    assert_eq!(
        words(WordOrder::Badc),
        Ok(Encoded::Registers(vec![0x3412, 0x7856]))
    );
    assert_eq!(
        words(WordOrder::Cdab),
        Ok(Encoded::Registers(vec![0x5678, 0x1234]))
    );
    assert_eq!(
        words(WordOrder::Dcba),
        Ok(Encoded::Registers(vec![0x7856, 0x3412]))
    );
}

#[test]
fn bits_and_bytes_leave_their_neighbours() {
    let field = spec("holding:0.4-7", DataType::U8, WordOrder::Abcd);
    let encoded = encode(&field, &Value::U64(0xA)).unwrap();
    assert_eq!(
        encoded,
        Encoded::Masked {
            and: 0xFF0F,
            or: 0x00A0
        }
    );
    let byte = spec("holding:0", DataType::U8, WordOrder::Badc);
    let encoded = encode(&byte, &Value::U64(0x12)).unwrap();
    assert_eq!(
        encoded,
        Encoded::Masked {
            and: 0x00FF,
            or: 0x1200
        }
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_range() {
    for (address, data_type, value, message) in [
        (
            "holding:5",
            "u16",
            Value::I64(70_000),
            "70000 does not fit u16 at holding:5: the range is 0 to 65535",
        ),
        (
            "holding:5",
            "i48",
            Value::I64(1 << 47),
            "140737488355328 does not fit i48 at holding:5: the range is -140737488355328 to 140737488355327",
        ),
        (
            "holding:5",
            "bcd16",
            Value::U64(10_000),
            "10000 does not fit bcd16 at holding:5: the range is 0 to 9999",
        ),
        (
            "holding:5.0-3",
            "u8",
            Value::U64(16),
            "16 does not fit u8 at holding:5.0-3: the range is 0 to 15",
        ),
        (
            "holding:5.0-3",
            "i8",
            Value::I64(-9),
            "-9 does not fit i8 at holding:5.0-3: the range is -8 to 7",
        ),
        (
            "holding:5",
            "u16",
            Value::F64(1.5),
            "1.5 is no value of type u16 for holding:5, which takes whole numbers from 0 to 65535",
        ),
        (
            "holding:5",
            "u64",
            Value::F64(1e30),
            "1000000000000000000000000000000 does not fit u64 at holding:5: the range is 0 to 18446744073709551615",
        ),
        (
            "holding:5",
            "f32",
            Value::U64(16_777_217),
            "16777217 would become 16777216 as f32 at holding:5",
        ),
        (
            "holding:5",
            "f64",
            Value::U64(u64::MAX),
            "18446744073709551615 would become 18446744073709552000 as f64 at holding:5",
        ),
        (
            "holding:5",
            "f32",
            Value::F64(f64::NAN),
            "NaN is no value of type f32 for holding:5, which takes finite numbers",
        ),
        (
            "holding:5",
            "f32",
            Value::F64(1e39),
            "1000000000000000000000000000000000000000 does not fit f32 at holding:5: the range is -3.4028235e38 to 3.4028235e38",
        ),
        (
            "coil:5",
            "bool",
            Value::U64(2),
            "2 is no value of type bool for coil:5, which takes true, false, 1 or 0",
        ),
        ("input:5", "u16", Value::U64(2), "input:5 can only be read"),
        (
            "holding:5",
            "string:3",
            Value::Text("PUMP".into()),
            "the text \"PUMP\" does not fit string:3 at holding:5: it has 4 bytes",
        ),
        (
            "holding:5",
            "u16[3]",
            Value::Json("[1,2]".into()),
            "[1,2] is no value of type u16[3] for holding:5, which takes a JSON array of 3 elements",
        ),
        (
            "holding:5",
            "u16[2]",
            Value::Json("[1,65536]".into()),
            "element 1 of the array for holding:5: 65536 does not fit u16 at holding:5: the range is 0 to 65535",
        ),
    ] {
        assert_eq!(refused(address, data_type, value), message);
    }
}

/// A type and a value that it can hold.
fn any_scalar() -> impl Strategy<Value = (DataType, Value)> {
    let signed = |data_type, bits: u32| {
        let half = 1i64 << (bits - 1);
        (-half..half).prop_map(move |n| (data_type, Value::I64(n)))
    };
    let unsigned = |data_type, end: u64| (0..end).prop_map(move |n| (data_type, Value::U64(n)));
    prop_oneof![
        any::<bool>().prop_map(|bit| (DataType::Bool, Value::Bool(bit))),
        signed(DataType::I8, 8),
        signed(DataType::I16, 16),
        signed(DataType::I32, 32),
        signed(DataType::I48, 48),
        any::<i64>().prop_map(|n| (DataType::I64, Value::I64(n))),
        unsigned(DataType::U8, 1 << 8),
        unsigned(DataType::U16, 1 << 16),
        unsigned(DataType::U32, 1 << 32),
        unsigned(DataType::U48, 1 << 48),
        any::<u64>().prop_map(|n| (DataType::U64, Value::U64(n))),
        unsigned(DataType::Bcd16, 10_000),
        unsigned(DataType::Bcd32, 100_000_000),
        unsigned(DataType::Bcd48, 1_000_000_000_000),
        unsigned(DataType::Bcd64, 10_000_000_000_000_000),
        any::<f32>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(|f| (DataType::F32, Value::F32(f))),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(|f| (DataType::F64, Value::F64(f))),
    ]
}

fn any_order() -> impl Strategy<Value = WordOrder> {
    prop::sample::select(WordOrder::ALL.to_vec())
}

/// Every type of whole numbers, and bits of a register as such.
fn whole_specs() -> Vec<PointSpec> {
    let mut specs = Vec::new();
    for order in WordOrder::ALL {
        let names = [
            "i8", "u8", "i16", "u16", "i32", "u32", "i48", "u48", "i64", "u64", "bcd16", "bcd32",
            "bcd48", "bcd64",
        ];
        specs.extend(names.map(|name| spec("holding:7", name.parse().unwrap(), order)));
        for (bits, data_type) in [
            ("holding:7.3-4", DataType::I8),
            ("holding:7.0-7", DataType::U8),
            ("holding:7.8-10", DataType::U16),
            ("holding:7.1-15", DataType::I16),
        ] {
            specs.push(spec(bits, data_type, order));
        }
    }
    specs
}

#[test]
fn the_ends_of_each_range_are_written_and_what_is_beyond_is_refused_with_the_range() {
    for spec in whole_specs() {
        let (low, high) = spec.whole_range().unwrap();
        for number in [low, high, 0] {
            let value = i64::try_from(number).map(Value::I64);
            let value = value.unwrap_or(Value::U64(number as u64));
            let encoded = encode(&spec, &value).unwrap();
            let found = match read_back(&spec, &encoded, 0xFFFF) {
                Value::I64(number) => i128::from(number),
                Value::U64(number) => i128::from(number),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, number, "{spec:?}");
        }
        for number in [low - 1, high + 1] {
            // Beyond 64 bits only floats come.
            let value = i64::try_from(number).map(Value::I64);
            let value = value
                .or_else(|_| u64::try_from(number).map(Value::U64))
                .unwrap_or(Value::F64(number as f64 * 1.001));
            let error = encode(&spec, &value).unwrap_err().to_string();
            let range = format!("the range is {low} to {high}");
            assert!(error.ends_with(&range), "{spec:?}: {error}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((data_type, value) in any_scalar(), order in any_order(), before: u16) {
        let spec = spec("holding:7", data_type, order);
        let encoded = encode(&spec, &value).unwrap();
        prop_assert_eq!(read_back(&spec, &encoded, before), value);
    }

    #[test]
    fn what_is_read_is_written_as_it_was((data_type, _) in any_scalar(), order in any_order(), bytes: [u8; 8]) {
        let spec = spec("holding:7", data_type, order);
        let words: Vec<u16> = bytes.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
        let words = &words[..usize::from(spec.registers())];
        // Digits above 9 and NaNs are no values. A bool that is neither 0 nor 1 is written as 1.
        prop_assume!(data_type != DataType::Bool);
        let value = Extract::new(&spec, &single(&spec)).value(&bytes);
        prop_assume!(value.is_ok());
        let written = match encode(&spec, &value.unwrap()).unwrap() {
            Encoded::Registers(written) => written,
            Encoded::Masked { and, or } => vec![(words[0] & and) | (or & !and)],
            Encoded::Bits(_) => vec![],
        };
        prop_assert_eq!(&written[..], words);
    }

    #[test]
    fn arrays_are_read_back(
        (data_type, _) in any_scalar(),
        values in prop::collection::vec(any::<u64>(), 1..20),
        order in any_order(),
    ) {
        // The same bits read as any integer type are in its range, and small ones in that of decimals.
        let values: Vec<Value> = values.iter().map(|bits| match data_type {
            DataType::Bool => Value::Bool(bits & 1 == 1),
            DataType::F32 => Value::F32(*bits as u16 as f32 / 8.0),
            DataType::F64 => Value::F64(*bits as u32 as f64 / 8.0),
            _ => Value::U64(bits & 0x7F),
        }).collect();
        let count = values.len() as u16;
        let json: Vec<String> = values.iter().map(shown).collect();
        let json = Value::Json(Arc::from(format!("[{}]", json.join(","))));
        let array = DataType::Array(Element::of(data_type).unwrap(), count);
        let spec = spec("holding:7", array, order);
        let encoded = encode(&spec, &json).unwrap();
        prop_assert_eq!(read_back(&spec, &encoded, 0), json);
    }

    #[test]
    fn texts_are_read_back(text in "[ -~äé]{0,20}", order in prop::bool::ANY, spare in 0u16..4) {
        let text = text.trim_end();
        prop_assume!(!text.is_empty());
        let order = if order { WordOrder::Badc } else { WordOrder::Abcd };
        let spec = spec("holding:7", DataType::Text(text.len() as u16 + spare), order);
        let value = Value::Text(text.into());
        prop_assert_eq!(read_back(&spec, &encode(&spec, &value).unwrap(), 0), value);
    }

    #[test]
    fn bit_fields_are_read_back(a in 0u8..16, b in 0u8..16, number: u16, order in any_order(), before: u16) {
        let bits = crate::modbus::Bits::new(a.min(b), a.max(b)).unwrap();
        let address = Address { table: Table::Holding, offset: 3, bit: Some(bits) };
        let above = 16 - bits.count();
        let cases = if bits.count() == 1 {
            vec![(DataType::Bool, Value::Bool(number & 1 == 1))]
        } else {
            vec![
                (DataType::U16, Value::U64(u64::from(number >> above))),
                (DataType::I16, Value::I64(i64::from(number as i16 >> above))),
            ]
        };
        for (data_type, value) in cases {
            let spec = PointSpec::new(address, data_type, order).unwrap();
            let encoded = encode(&spec, &value).unwrap();
            let Encoded::Masked { and, or } = encoded else { panic!("{encoded:?}") };
            let swapped = if order.swaps_bytes() { bits.mask().swap_bytes() } else { bits.mask() };
            prop_assert_eq!((and, or & and), (!swapped, 0));
            prop_assert_eq!(read_back(&spec, &encoded, before), value);
        }
    }

    #[test]
    fn coils_are_read_back(bits in prop::collection::vec(any::<bool>(), 1..40)) {
        let array = DataType::Array(Element::of(DataType::Bool).unwrap(), bits.len() as u16);
        let spec = spec("coil:7", array, WordOrder::Abcd);
        let json = Value::Json(Arc::from(serde_json::to_string(&bits).unwrap()));
        let encoded = encode(&spec, &json).unwrap();
        prop_assert_eq!(&encoded, &Encoded::Bits(bits));
        prop_assert_eq!(read_back(&spec, &encoded, 0), json);
    }
}
