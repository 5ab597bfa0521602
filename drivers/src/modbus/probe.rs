//! Which place, type, order and scale a value has that a person reads off a meter's display.
//!
//! Pure. Every way to read the registers is tried at every place, with scales that are met in practice
//! ([`SCALES`]). What shows the typed value fits. The ways that fit are ranked by how unlikely it is that they
//! do by chance, and by how common they are. A second reading with another value leaves few of them.

use std::collections::HashSet;

use millrace_tags::Value;

use super::address::{Address, Table};
use super::datatype::{DataType, WordOrder};
use super::decode::Extract;
use super::plan::Request;
use super::point::PointSpec;

/// Numbers that a register is multiplied by, and in bits how much rarer each is than 1: powers of ten, halves,
/// sixteenths, and from km/h, minutes and hours.
pub const SCALES: [(f64, f64); 23] = [
    (1.0, 0.0),
    (0.1, 1.0),
    (0.01, 1.5),
    (0.001, 2.0),
    (10.0, 2.5),
    (100.0, 3.0),
    (1_000.0, 3.0),
    (0.000_1, 4.0),
    (0.000_01, 5.0),
    (0.000_001, 5.0),
    (10_000.0, 5.0),
    (1e6, 5.0),
    (0.5, 5.0),
    (0.25, 6.0),
    (0.2, 6.0),
    (0.05, 6.0),
    (2.0, 6.0),
    (5.0, 6.0),
    (0.062_5, 7.0),
    (1.0 / 256.0, 7.0),
    (3.6, 7.0),
    (1.0 / 60.0, 8.0),
    (1.0 / 3600.0, 8.0),
];

/// Types, and in bits how much rarer each is than u16.
const TYPES: [(DataType, f64); 16] = [
    (DataType::U16, 0.0),
    (DataType::I16, 0.5),
    (DataType::F32, 1.0),
    (DataType::U32, 1.0),
    (DataType::I32, 1.5),
    (DataType::F64, 3.0),
    (DataType::U64, 3.0),
    (DataType::I64, 3.5),
    (DataType::Bcd16, 3.0),
    (DataType::Bcd32, 3.0),
    (DataType::U48, 4.0),
    (DataType::I48, 4.5),
    (DataType::Bcd48, 5.0),
    (DataType::Bcd64, 5.0),
    (DataType::U8, 4.0),
    (DataType::I8, 5.0),
];

/// What a person reads off a display.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    value: f64,
    /// The worth of its last digit.
    resolution: f64,
}

/// Text that is no number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no number")]
pub struct NoNumber {
    given: String,
}

/// Registers as they were read, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The table.
    pub table: Table,
    /// The address of the first.
    pub start: u16,
    /// Two bytes each.
    pub data: Vec<u8>,
}

/// What the display showed, and what the registers held then.
#[derive(Debug, Clone)]
pub struct Look {
    /// What was typed.
    pub shown: Shown,
    /// What was read.
    pub blocks: Vec<Block>,
}

/// A way to read the registers that shows what the display showed, each time.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Place, type and order.
    pub spec: PointSpec,
    /// What the number in the registers is multiplied by.
    pub scale: f64,
    /// What it is worth now, scaled.
    pub value: f64,
    /// How much it is to be believed, in bits.
    pub bits: f64,
}

impl std::str::FromStr for Shown {
    type Err = NoNumber;

    /// Understands `231.4`, `-7`, `231,4` and `1e6`.
    fn from_str(text: &str) -> Result<Self, NoNumber> {
        let none = || NoNumber {
            given: text.to_owned(),
        };
        let plain = text.trim().replace(',', ".");
        let value: f64 = plain.parse().map_err(|_| none())?;
        if !value.is_finite() {
            return Err(none());
        }
        let (digits, exponent) = plain.split_once(['e', 'E']).unwrap_or((&plain, "0"));
        let decimals = digits
            .split_once('.')
            .map_or(0, |(_, decimals)| decimals.len());
        let exponent: i32 = exponent.parse().map_err(|_| none())?;
        let decimals = i32::try_from(decimals).map_err(|_| none())?;
        Ok(Self {
            value,
            resolution: 10f64.powi(exponent - decimals),
        })
    }
}

impl Shown {
    /// Whether a display with these digits would show the number, rounded or cut; cut is rarer, in bits.
    fn shows(&self, number: f64) -> Option<f64> {
        // Two doubles that went through a multiplication.
        let slack = self.value.abs() * 1e-12 + f64::MIN_POSITIVE;
        let off = number - self.value;
        if off.abs() <= self.resolution / 2.0 + slack {
            return Some(0.0);
        }
        let cut = off * self.value.signum();
        (cut > 0.0 && cut < self.resolution).then_some(1.0)
    }

    /// How much it says, in bits, that a number shows this: how many others the display, or the register,
    /// could have shown.
    fn says(&self, raw: f64, is_float: bool) -> f64 {
        // Floats of nothing have any exponent: that it is the right one says something, too.
        const EXPONENT_BITS: f64 = 6.0;
        let places = self.value.abs() / self.resolution;
        if is_float {
            (1.0 + places).log2() + EXPONENT_BITS
        } else {
            (1.0 + places.min(raw.abs())).log2()
        }
    }
}

/// Every way that fits all looks, best first.
pub fn rank(looks: &[Look]) -> Vec<Fit> {
    let Some((last, before)) = looks.split_last() else {
        return Vec::new();
    };
    let mut fits = Vec::new();
    for block in &last.blocks {
        for place in 0..block.data.len() / 2 {
            let at = usize::from(block.start) + place;
            let Ok(offset) = u16::try_from(at) else { break };
            let address = Address {
                table: block.table,
                offset,
                bit: None,
            };
            at_place(address, last, before, &mut fits);
        }
    }
    fits.sort_by(|a: &Fit, b: &Fit| b.bits.total_cmp(&a.bits));
    fits
}

fn at_place(address: Address, last: &Look, before: &[Look], fits: &mut Vec<Fit>) {
    for (data_type, rarity) in TYPES {
        for order in WordOrder::ALL {
            // One register knows only the swap of its bytes.
            if data_type.registers() == 1 && order.reverses_words() {
                continue;
            }
            let Ok(spec) = PointSpec::new(address, data_type, order) else {
                continue;
            };
            let Some(raw) = last.raw(&spec) else { continue };
            for (scale, unusual) in SCALES {
                let bits = last.believe(raw, scale, data_type);
                let Some(bits) = bits else { continue };
                let Some(more) = others(before, last, &spec, scale) else {
                    continue;
                };
                fits.push(Fit {
                    spec,
                    scale,
                    value: raw * scale,
                    bits: bits + more - rarity - unusual - oddness(order, data_type),
                });
            }
        }
    }
}

/// What the looks before say; `None` where one of them does not fit.
fn others(before: &[Look], last: &Look, spec: &PointSpec, scale: f64) -> Option<f64> {
    let mut seen = vec![last.shown.value];
    let mut bits = 0.0;
    for look in before {
        let says = look.believe(look.raw(spec)?, scale, spec.data_type())?;
        // The same value once more says nothing.
        if !seen.contains(&look.shown.value) {
            seen.push(look.shown.value);
            bits += says;
        }
    }
    Some(bits)
}

/// How much rarer an order is, in bits. Hardly any device swaps the bytes of a single register; those that keep
/// two small numbers in one have one of them in its high byte.
fn oddness(order: WordOrder, data_type: DataType) -> f64 {
    match order {
        WordOrder::Abcd => 0.0,
        WordOrder::Cdab => 1.0,
        WordOrder::Badc if matches!(data_type, DataType::U8 | DataType::I8) => 1.0,
        _ if data_type.registers() == 1 => 4.0,
        WordOrder::Badc | WordOrder::Dcba => 2.5,
    }
}

impl Look {
    /// The number at this point.
    fn raw(&self, spec: &PointSpec) -> Option<f64> {
        let Address { table, offset, .. } = spec.address();
        let holds = |block: &&Block| {
            let end = usize::from(block.start) + block.data.len() / 2;
            block.table == table
                && block.start <= offset
                && usize::from(offset) + usize::from(spec.registers()) <= end
        };
        let block = self.blocks.iter().find(holds)?;
        let request = Request {
            table,
            start: block.start,
            count: u16::try_from(block.data.len() / 2).ok()?,
            points: Vec::new(),
        };
        match Extract::new(spec, &request).value(&block.data).ok()? {
            Value::I64(number) => Some(number as f64),
            Value::U64(number) => Some(number as f64),
            Value::F32(number) => Some(f64::from(number)),
            Value::F64(number) => Some(number),
            _ => None,
        }
    }

    /// How much it says that the number fits; `None` where it does not.
    fn believe(&self, raw: f64, scale: f64, data_type: DataType) -> Option<f64> {
        let cut = self.shown.shows(raw * scale)?;
        let is_float = matches!(data_type, DataType::F32 | DataType::F64);
        Some(self.shown.says(raw, is_float) - cut)
    }
}

/// Whether the best way is the only one that counts: none of another place, type, order or scale comes near.
/// Ways that read the same number from the same registers, such as u16 and i16, are one.
pub fn is_settled(fits: &[Fit]) -> bool {
    // One in a hundred.
    const NEAR_BITS: f64 = 7.0;
    let Some(best) = fits.first() else {
        return false;
    };
    let mut rivals = HashSet::new();
    for fit in fits.iter().filter(|fit| best.bits - fit.bits < NEAR_BITS) {
        let Address { table, offset, .. } = fit.spec.address();
        // A u32 with an empty upper half is the u16 of its lower half.
        let lowest = match fit.spec.order().reverses_words() {
            true => offset,
            false => offset + fit.spec.registers() - 1,
        };
        rivals.insert((table, lowest, fit.scale.to_bits()));
    }
    rivals.len() == 1
}

#[cfg(test)]
mod tests;
