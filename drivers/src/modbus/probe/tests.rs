use super::*;
use crate::modbus::encode::{Encoded, encode};

/// A map of registers that hold anything.
struct Map {
    rng: fastrand::Rng,
    registers: Vec<u16>,
}

const START: u16 = 100;

impl Map {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let registers = (0..100).map(|_| rng.u16(..)).collect();
        Self { rng, registers }
    }

    /// A number that this type holds and those of its sign or width beside it do not.
    fn number(&mut self, data_type: DataType) -> f64 {
        let rng = &mut self.rng;
        match data_type {
            DataType::U8 => f64::from(rng.u8(128..)),
            DataType::I8 => f64::from(rng.i8(..-16)),
            DataType::U16 => f64::from(rng.u16(0x8000..)),
            DataType::I16 => f64::from(rng.i16(..-1_000)),
            DataType::U32 => f64::from(rng.u32(0x8000_0000..)),
            DataType::I32 => f64::from(rng.i32(..-1_000_000)),
            DataType::U48 => rng.u64(1 << 47..1 << 48) as f64,
            DataType::I48 => rng.i64(-(1 << 47)..-(1 << 40)) as f64,
            // What a double holds exactly.
            DataType::U64 => (rng.u64(1 << 63..) >> 11 << 11) as f64,
            DataType::I64 => (rng.i64(..-(1 << 60)) >> 11 << 11) as f64,
            DataType::Bcd16 => f64::from(rng.u16(1_000..10_000)),
            DataType::Bcd32 => f64::from(rng.u32(10_000_000..100_000_000)),
            DataType::Bcd48 => rng.u64(100_000_000_000..1_000_000_000_000) as f64,
            DataType::Bcd64 => rng.u64(1_000_000_000_000_000..9_000_000_000_000_000) as f64,
            _ => f64::from(rng.i32(-9_999_999..9_999_999)) / 1_000.0,
        }
    }

    fn set(&mut self, spec: &PointSpec, number: f64) {
        let value = match spec.value_type() {
            millrace_tags::ValueType::U64 => Value::U64(number as u64),
            millrace_tags::ValueType::I64 => Value::I64(number as i64),
            _ => Value::F64(number),
        };
        let at = usize::from(spec.address().offset - START);
        match encode(spec, &value).unwrap() {
            Encoded::Registers(words) => {
                self.registers[at..at + words.len()].copy_from_slice(&words);
            }
            Encoded::Masked { and, or } => {
                self.registers[at] = self.registers[at] & and | or & !and;
            }
            Encoded::Bits(_) => unreachable!("no coils here"),
        }
    }

    fn look(&self, shown: &str) -> Look {
        Look {
            shown: shown.parse().unwrap(),
            blocks: vec![Block {
                table: Table::Holding,
                start: START,
                data: self
                    .registers
                    .iter()
                    .flat_map(|r| r.to_be_bytes())
                    .collect(),
            }],
        }
    }

    /// The same device later: other registers have moved on, too.
    fn later(&mut self) {
        for register in &mut self.registers {
            *register = self.rng.u16(..);
        }
    }
}

fn spec(offset: u16, data_type: DataType, order: WordOrder) -> PointSpec {
    let address = Address {
        table: Table::Holding,
        offset,
        bit: None,
    };
    PointSpec::new(address, data_type, order).unwrap()
}

/// How many looks it takes until the right way is first; a display shows `decimals`.
fn looks_until_first(seed: u64, spec: &PointSpec, scale: f64, decimals: usize) -> usize {
    let mut map = Map::new(seed);
    let mut looks = Vec::new();
    for count in 1..=4 {
        map.later();
        let number = map.number(spec.data_type());
        map.set(spec, number);
        looks.push(map.look(&format!("{:.decimals$}", number * scale)));
        let best = &rank(&looks)[0];
        if best.spec == *spec && (best.scale - scale).abs() < 1e-9 {
            return count;
        }
    }
    panic!("{spec:?} x {scale}, seed {seed}: {:?}", &rank(&looks)[..3]);
}

#[test]
fn every_type_and_order_is_first_in_random_maps() {
    let mut at_once = 0;
    let mut cases = 0;
    for seed in 0..8 {
        for (data_type, _) in TYPES {
            for order in WordOrder::ALL {
                if data_type.registers() == 1 && order.reverses_words() {
                    continue;
                }
                let offset = START + (seed as u16 * 31 + 7) % 90;
                let decimals = if data_type.value_type() == millrace_tags::ValueType::F32
                    || data_type == DataType::F64
                {
                    3
                } else {
                    0
                };
                let spec = spec(offset, data_type, order);
                let looks = looks_until_first(seed, &spec, 1.0, decimals);
                // A byte says little: among 100 registers of anything there are others like it.
                let most = match data_type {
                    DataType::U8 | DataType::I8 => 4,
                    _ => 2,
                };
                assert!(looks <= most, "{spec:?}: {looks}");
                at_once += usize::from(looks == 1);
                cases += 1;
            }
        }
    }
    assert!(at_once * 10 >= cases * 9, "{at_once} of {cases} at once");
}

#[test]
fn scales_are_told_apart() {
    for seed in 0..20 {
        for (scale, decimals) in [(0.1, 1), (0.01, 2), (10.0, 0), (0.001, 3), (0.25, 2)] {
            for data_type in [DataType::U16, DataType::I16, DataType::U32] {
                let spec = spec(START + 40, data_type, WordOrder::Cdab);
                let spec = match data_type.registers() {
                    1 => self::spec(START + 40, data_type, WordOrder::Abcd),
                    _ => spec,
                };
                assert!(looks_until_first(seed, &spec, scale, decimals) <= 2);
            }
        }
    }
}

#[test]
fn small_value_in_a_quiet_map_is_the_plain_register() {
    let mut map = Map::new(1);
    map.registers.fill(0);
    map.registers[20] = 2314;
    let fits = rank(&[map.look("231.4")]);
    assert_eq!(
        fits[0].spec,
        spec(START + 20, DataType::U16, WordOrder::Abcd)
    );
    assert_eq!(fits[0].scale, 0.1);
    assert!((fits[0].value - 231.4).abs() < 1e-9);
    assert!(is_settled(&fits), "i16, u32 and u64 read the same number");
}

#[test]
fn second_look_parts_what_the_first_leaves() {
    let mut map = Map::new(1);
    map.registers.fill(0);
    map.registers[3] = 7;
    map.registers[50] = 7;
    let first = map.look("7");
    assert!(!is_settled(&rank(std::slice::from_ref(&first))));
    map.registers[50] = 9;
    let fits = rank(&[first, map.look("9")]);
    assert_eq!(fits[0].spec.address().offset, START + 50);
    assert!(is_settled(&fits), "{:?}", &fits[..fits.len().min(20)]);
}

#[test]
fn displays_round_or_cut() {
    let shown: Shown = "231.4".parse().unwrap();
    assert_eq!(shown.shows(231.44), Some(0.0));
    assert_eq!(shown.shows(231.36), Some(0.0));
    assert_eq!(shown.shows(231.49), Some(1.0));
    assert_eq!(shown.shows(231.34), None);
    let below: Shown = "-7".parse().unwrap();
    assert_eq!(below.shows(-7.9), Some(1.0));
    assert_eq!(below.shows(-6.4), None);
    assert_eq!("231,4".parse::<Shown>(), Ok(shown));
    assert_eq!("1.50e3".parse::<Shown>().unwrap().resolution, 10.0);
    for text in ["", "on", "1.2.3", "inf", "0x10"] {
        assert!(text.parse::<Shown>().is_err(), "{text}");
    }
}

#[test]
fn nothing_fits_nothing() {
    assert!(rank(&[]).is_empty());
    let mut map = Map::new(1);
    map.registers.fill(0);
    assert!(rank(&[map.look("231.4")]).is_empty());
}
