//! What a device can do in one request, as configured and as it taught.

use super::cost::Cost;
use super::{COILS_MAX, REGISTERS_MAX};
use crate::modbus::Table;

/// What a device can do in one request, and what a request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most registers in one request, gaps included, 1 to [`REGISTERS_MAX`]. A point that is longer gets
    /// a request of its own.
    pub max_registers: u16,
    /// Most bits in one request, gaps included, 1 to [`COILS_MAX`].
    pub max_coils: u16,
    /// What a request costs, hence how much may be read in vain to save one.
    pub cost: Cost,
    /// What the device taught since.
    pub taught: Taught,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_registers: REGISTERS_MAX,
            max_coils: COILS_MAX,
            cost: Cost::default(),
            taught: Taught::default(),
        }
    }
}

/// What requests that were answered and refused say about the most that a device gives at once, for each
/// function. Knows nothing at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taught([Bounds; 4]);

/// The longest request that was answered and the shortest that was refused for its length; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bounds {
    answered: u16,
    refused: u16,
}

impl Taught {
    /// Whether any request was too long.
    pub(crate) fn has_refused(&self) -> bool {
        self.0.iter().any(|bounds| bounds.refused != 0)
    }
}

impl Limits {
    /// The most addresses of this table that a request may ask for now.
    ///
    /// Between what was answered and what was refused this is the middle: each round halves what is
    /// unknown, so that a maximum is found in at most seven requests that fail, eleven of coils.
    pub fn max(&self, table: Table) -> u16 {
        let (configured, most) = if table.is_bits() {
            (self.max_coils, COILS_MAX)
        } else {
            (self.max_registers, REGISTERS_MAX)
        };
        let configured = configured.clamp(1, most);
        match self.taught.0[index(table)] {
            Bounds { refused: 0, .. } => configured,
            Bounds { answered, refused } => configured.min((answered + refused) / 2).max(1),
        }
    }

    /// A request for so many addresses was answered.
    pub fn answered(&mut self, table: Table, count: u16) {
        let bounds = &mut self.taught.0[index(table)];
        bounds.answered = bounds.answered.max(count);
        if bounds.refused <= bounds.answered {
            // Something else than its length was wrong with what was refused.
            bounds.refused = 0;
        }
    }

    /// A request for `count` addresses was refused, and the same addresses were answered in parts, the
    /// longest of which is known by [`Limits::answered`]. Whether that was for its length; otherwise the
    /// device does not allow to read across some place between.
    #[must_use]
    pub fn refused(&mut self, table: Table, count: u16) -> bool {
        let bounds = &mut self.taught.0[index(table)];
        if count <= bounds.answered {
            return false;
        }
        if bounds.refused == 0 || count < bounds.refused {
            bounds.refused = count;
        }
        true
    }

    /// The maximum that the device taught for this table, once nothing is unknown any more.
    pub fn learned_max(&self, table: Table) -> Option<u16> {
        let Bounds { answered, refused } = self.taught.0[index(table)];
        (refused != 0 && refused - answered == 1).then_some(answered)
    }

    pub(super) fn cost_ns(&self, table: Table, count: u32) -> u64 {
        let bytes = if table.is_bits() {
            count.div_ceil(8)
        } else {
            count * 2
        };
        self.cost.of_ns(u64::from(bytes))
    }
}

fn index(table: Table) -> usize {
    match table {
        Table::Coil => 0,
        Table::Discrete => 1,
        Table::Input => 2,
        Table::Holding => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks as the plan would, until nothing changes; how many requests failed.
    fn learn(limits: &mut Limits, table: Table, truth: u16) -> usize {
        let mut failed = 0;
        while limits.learned_max(table).is_none() {
            let count = limits.max(table);
            if count <= truth {
                limits.answered(table, count);
            } else {
                limits.answered(table, (count / 2).min(truth));
                assert!(limits.refused(table, count));
                failed += 1;
            }
        }
        failed
    }

    #[test]
    fn maximum_is_found_by_halving() {
        for truth in 1..REGISTERS_MAX {
            let mut limits = Limits::default();
            let failed = learn(&mut limits, Table::Holding, truth);
            assert_eq!(limits.max(Table::Holding), truth);
            assert!(failed <= 7, "{truth}: {failed}");
            assert_eq!(limits.max(Table::Input), REGISTERS_MAX, "another function");
        }
        let mut limits = Limits::default();
        assert!(learn(&mut limits, Table::Coil, 1_000) <= 11);
    }

    #[test]
    fn place_is_told_from_length() {
        let mut limits = Limits::default();
        limits.answered(Table::Holding, 100);
        assert!(!limits.refused(Table::Holding, 80), "80 is not too long");
        assert_eq!(limits.max(Table::Holding), REGISTERS_MAX);
        assert!(limits.refused(Table::Holding, 120));
        limits.answered(Table::Holding, 120);
        assert_eq!(
            limits.max(Table::Holding),
            REGISTERS_MAX,
            "it was not the length"
        );
    }
}
