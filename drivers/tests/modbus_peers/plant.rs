//! The content of a device: every type in every order, in both tables of registers, and what writing each must leave.

use std::time::Duration;

use millrace_drivers::modbus::{
    Address, Bits, DataType, Element, Meaning, Point, PointSpec, Table, WordOrder,
};
use millrace_tags::{Reason, TagId, Value};

/// Coils and discrete inputs of the peers: as many as one request can bring.
pub(crate) const BITS: u16 = 2000;

/// Elements of an array.
const ELEMENTS: u16 = 3;

/// Whether a coil or discrete input is set at the beginning.
pub(crate) fn is_set(bit: u16) -> bool {
    bit.is_multiple_of(3) || bit % 7 == 1
}

/// Every type that has no length, with two values of it.
pub(crate) fn plain() -> Vec<(DataType, [Value; 2])> {
    let signed = |data_type, a, b| (data_type, [Value::I64(a), Value::I64(b)]);
    let unsigned = |data_type, a, b| (data_type, [Value::U64(a), Value::U64(b)]);
    vec![
        (DataType::Bool, [Value::Bool(true), Value::Bool(false)]),
        signed(DataType::I8, -7, 127),
        unsigned(DataType::U8, 249, 1),
        signed(DataType::I16, -12_345, i64::from(i16::MIN)),
        unsigned(DataType::U16, 54_321, 65_535),
        signed(DataType::I32, -123_456_789, i64::from(i32::MAX)),
        unsigned(DataType::U32, 3_987_654_321, 0x0102_0304),
        signed(DataType::I48, -(1 << 40) - 3, (1 << 47) - 1),
        unsigned(DataType::U48, 0xFEDC_BA98_7654, 0x0102_0304_0506),
        signed(DataType::I64, i64::MIN + 5, 0x0102_0304_0506_0708),
        unsigned(DataType::U64, u64::MAX - 5, 1),
        (DataType::F32, [Value::F32(-1.5e-7), Value::F32(f32::MAX)]),
        (DataType::F64, [Value::F64(6.022e23), Value::F64(-0.1)]),
        unsigned(DataType::Bcd16, 9_071, 9_999),
        unsigned(DataType::Bcd32, 12_345_678, 87_654_321),
        unsigned(DataType::Bcd48, 210_987_654_321, 1),
        unsigned(
            DataType::Bcd64,
            9_876_543_210_123_456,
            1_000_000_000_000_001,
        ),
    ]
}

/// The bytes of a value, most significant first, worked out apart from the driver.
fn big_endian(data_type: DataType, value: &Value) -> Vec<u8> {
    let length = usize::from(data_type.registers()) * 2;
    let tail = |bytes: [u8; 8]| bytes[8 - length..].to_vec();
    match (data_type, value) {
        (DataType::Bool, Value::Bool(bit)) => vec![0, u8::from(*bit)],
        (DataType::I8, Value::I64(number)) => vec![0, *number as u8],
        (_, Value::I64(number)) => tail(number.to_be_bytes()),
        (_, Value::F32(number)) => number.to_be_bytes().to_vec(),
        (_, Value::F64(number)) => number.to_be_bytes().to_vec(),
        (_, Value::Text(text)) => text.as_bytes().to_vec(),
        (_, Value::U64(number)) if data_type.to_string().starts_with("bcd") => {
            let digits = u64::from_str_radix(&number.to_string(), 16).unwrap();
            tail(digits.to_be_bytes())
        }
        (_, Value::U64(number)) => tail(number.to_be_bytes()),
        other => panic!("{other:?}"),
    }
}

/// The registers of a value.
fn registers(data_type: DataType, value: &Value, order: WordOrder) -> Vec<u16> {
    let bytes = big_endian(data_type, value);
    let words = bytes
        .chunks(2)
        .map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut words: Vec<u16> = words.collect();
    if order.reverses_words() {
        words.reverse();
    }
    if order.swaps_bytes() {
        words.iter_mut().for_each(|word| *word = word.swap_bytes());
    }
    words
}

fn json(values: &[Value]) -> Value {
    let shown = values.iter().map(|value| match value {
        Value::Bool(bit) => bit.to_string(),
        Value::I64(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        other => panic!("{other:?}"),
    });
    Value::Json(format!("[{}]", shown.collect::<Vec<_>>().join(",")).into())
}

/// The content of a device, and what reading it must bring.
#[derive(Default)]
pub(crate) struct Plant {
    pub(crate) points: Vec<Point>,
    pub(crate) expected: Vec<Result<Value, Reason>>,
    /// What is to be written, by point.
    pub(crate) written: Vec<Option<Value>>,
    /// Both tables of registers at the beginning.
    pub(crate) registers: Vec<u16>,
    /// The holding registers after everything was written.
    pub(crate) after: Vec<u16>,
}

impl Plant {
    pub(crate) fn whole() -> Self {
        let mut plant = Plant::default();
        for order in WordOrder::ALL {
            for (data_type, values) in plain() {
                let words = values
                    .each_ref()
                    .map(|value| registers(data_type, value, order));
                plant.add_registers(data_type, order, None, words, values.clone());

                let [a, b] = &values;
                let elements = [
                    [a.clone(), b.clone(), a.clone()],
                    [b.clone(), a.clone(), b.clone()],
                ];
                let words = elements.each_ref().map(|row| {
                    let words = row.iter().map(|value| registers(data_type, value, order));
                    words.flatten().collect()
                });
                let element = Element::of(data_type).unwrap();
                let array = DataType::Array(element, ELEMENTS);
                plant.add_registers(
                    array,
                    order,
                    None,
                    words,
                    elements.each_ref().map(|e| json(e)),
                );
            }
            if !order.reverses_words() {
                let texts = ["PUMP-1", "kelvin"].map(|text| Value::Text(text.into()));
                let data_type = DataType::Text(6);
                let words = texts
                    .each_ref()
                    .map(|text| registers(data_type, text, order));
                plant.add_registers(data_type, order, None, words, texts);
            }
            plant.add_bits_of_registers(order);
        }
        plant.add_bits();
        plant.add_places_that_are_not_there();
        plant
    }

    /// One bit and several of a register whose other bits are set: they must stay.
    fn add_bits_of_registers(&mut self, order: WordOrder) {
        let swapped = |word: u16| match order.swaps_bytes() {
            true => word.swap_bytes(),
            false => word,
        };
        let numbers = |a, b| [Value::U64(a), Value::U64(b)];
        let cases = [
            (
                Bits::new(7, 7),
                DataType::Bool,
                [0xFF7F, 0xFFFF],
                [Value::Bool(false), Value::Bool(true)],
            ),
            (
                Bits::new(4, 6),
                DataType::U8,
                [0xFFDF, 0xFFAF],
                numbers(5, 2),
            ),
            (
                Bits::new(3, 12),
                DataType::U16,
                [0xE00F, 0xFFF7],
                numbers(1, 1022),
            ),
            (
                Bits::new(14, 15),
                DataType::I16,
                [0xBFFF, 0x7FFF],
                [Value::I64(-2), Value::I64(1)],
            ),
        ];
        for (bits, data_type, words, values) in cases {
            let words = words.map(|word| vec![swapped(word)]);
            self.add_registers(data_type, order, bits, words, values);
        }
    }

    fn add_registers(
        &mut self,
        data_type: DataType,
        order: WordOrder,
        bit: Option<Bits>,
        [before, mut after]: [Vec<u16>; 2],
        [value, written]: [Value; 2],
    ) {
        let offset = self.registers.len() as u16;
        // The other byte of a single byte is not its own.
        if matches!(data_type, DataType::I8 | DataType::U8) && bit.is_none() {
            let own = if order.swaps_bytes() { 0xFF00 } else { 0x00FF };
            after[0] = (before[0] & !own) | (after[0] & own);
        }
        self.registers.extend(before);
        self.after.extend(after);
        for (table, written) in [(Table::Holding, Some(written)), (Table::Input, None)] {
            let address = Address { table, offset, bit };
            self.add(address, data_type, order, Ok(value.clone()), written);
        }
    }

    fn add_bits(&mut self) {
        let abcd = WordOrder::Abcd;
        for table in [Table::Coil, Table::Discrete] {
            let written = |value| (table == Table::Coil).then_some(value);
            for offset in 0..37 {
                let address = Address {
                    table,
                    offset,
                    bit: None,
                };
                let value = |on| Value::Bool(on);
                let (now, then) = (value(is_set(offset)), value(!is_set(offset)));
                self.add(address, DataType::Bool, abcd, Ok(now), written(then));
            }
            let array = DataType::Array(Element::of(DataType::Bool).unwrap(), 19);
            let address = Address {
                table,
                offset: 41,
                bit: None,
            };
            let bits = |turn: bool| {
                let bits: Vec<Value> = (41..60)
                    .map(|bit| Value::Bool(is_set(bit) ^ turn))
                    .collect();
                json(&bits)
            };
            self.add(address, array, abcd, Ok(bits(false)), written(bits(true)));
        }
    }

    fn add_places_that_are_not_there(&mut self) {
        let end = self.registers.len() as u16;
        for (table, offset, data_type) in [
            (Table::Holding, end, DataType::U16),
            (Table::Input, end - 1, DataType::U32),
        ] {
            let address = Address {
                table,
                offset,
                bit: None,
            };
            let none = Err(Reason::IllegalAddress);
            self.add(address, data_type, WordOrder::Abcd, none, None);
        }
    }

    fn add(
        &mut self,
        address: Address,
        data_type: DataType,
        order: WordOrder,
        expected: Result<Value, Reason>,
        written: Option<Value>,
    ) {
        self.points.push(Point {
            tag: TagId(self.points.len() as u32),
            spec: PointSpec::new(address, data_type, order).unwrap(),
            meaning: Meaning::Plain,
            interval: Duration::from_secs(1),
        });
        self.expected.push(expected);
        self.written.push(written);
    }

    /// What the peers read from their standard input.
    pub(crate) fn tables(&self) -> String {
        let words = |values: &[u16]| -> String { values.iter().map(|v| format!(" {v}")).collect() };
        let registers = words(&self.registers);
        let bits: Vec<u16> = (0..BITS).map(|bit| u16::from(is_set(bit))).collect();
        let bits = words(&bits);
        format!("holding{registers}\ninput{registers}\ncoil{bits}\ndiscrete{bits}\n\n")
    }
}
