//! The read planner: which requests bring all points of a poll group at the least cost.
//!
//! Pure. The cost of a request is one round trip plus what it reads, gaps included; both are counted
//! in registers ([`Limits::request_cost`] says how many registers a round trip is worth). Points are
//! sorted by place, and the cheapest way to cut that row into requests is found by dynamic
//! programming. A point is never split, so that no 32-bit value is torn between two requests.

use std::ops::Range;

use super::address::Table;
use super::point::PointSpec;

/// Most registers that functions 03 and 04 can bring (Modbus Application Protocol V1.1b3, 6.3 and 6.4).
pub const REGISTERS_MAX: u16 = 125;

/// Most bits that functions 01 and 02 can bring (6.1 and 6.2).
pub const COILS_MAX: u16 = 2000;

/// How many registers a round trip over TCP is worth: 4 us of gateway time against 28 ns a register,
/// on loopback. Every real network only raises it, and past [`REGISTERS_MAX`] more changes nothing.
const TCP_REQUEST_COST: u32 = 140;

/// A coil costs a sixteenth of a register, so costs are counted in coils.
const COILS_PER_REGISTER: u32 = 16;

/// What a device can do in one request, and what a request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most registers in one request, gaps included, 1 to [`REGISTERS_MAX`]. A point that is longer gets
    /// a request of its own.
    pub max_registers: u16,
    /// Most bits in one request, gaps included, 1 to [`COILS_MAX`].
    pub max_coils: u16,
    /// How many registers may be read in vain to save one request. 0 reads no gap.
    pub request_cost: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_registers: REGISTERS_MAX,
            max_coils: COILS_MAX,
            request_cost: TCP_REQUEST_COST,
        }
    }
}

impl Limits {
    fn max(&self, table: Table) -> u32 {
        let (max, most) = if table.is_bits() {
            (self.max_coils, COILS_MAX)
        } else {
            (self.max_registers, REGISTERS_MAX)
        };
        u32::from(max.clamp(1, most))
    }

    fn cost(&self, table: Table, count: u32) -> u64 {
        let each = if table.is_bits() {
            1
        } else {
            u64::from(COILS_PER_REGISTER)
        };
        u64::from(self.request_cost) * u64::from(COILS_PER_REGISTER) + u64::from(count) * each
    }
}

/// One read request and the points that its reply brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The table, hence the function.
    pub table: Table,
    /// The first address.
    pub start: u16,
    /// How many registers or bits.
    pub count: u16,
    /// Indices into the points that were planned, in order of place.
    pub points: Vec<usize>,
}

/// A place that no request may read across, learned from a device that refused: see [`plan_around`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Barrier {
    /// The table.
    pub table: Table,
    /// A request may end before this address or begin at it, but not read both sides.
    pub at: u32,
}

/// The cheapest requests that bring every point once.
pub fn plan(points: &[PointSpec], limits: &Limits) -> Vec<Request> {
    let all: Vec<usize> = (0..points.len()).collect();
    plan_around(points, &all, limits, &[])
}

/// As [`plan`], for the points `chosen`, merging none across a barrier.
pub fn plan_around(
    points: &[PointSpec],
    chosen: &[usize],
    limits: &Limits,
    barriers: &[Barrier],
) -> Vec<Request> {
    let mut order = chosen.to_vec();
    order.sort_by_key(|&i| {
        (
            points[i].address().table,
            points[i].start(),
            points[i].end(),
        )
    });
    order
        .chunk_by(|&a, &b| points[a].address().table == points[b].address().table)
        .flat_map(|row| plan_row(points, row, limits, barriers))
        .collect()
}

/// The request that reads this point, which is point number 0 of it.
pub(crate) fn single(spec: &PointSpec) -> Request {
    Request {
        table: spec.address().table,
        start: spec.address().offset,
        count: spec.registers(),
        points: vec![0],
    }
}

/// The request that reads these points, which are of one table and in order of place.
pub(crate) fn request(points: &[PointSpec], row: &[usize]) -> Option<Request> {
    let table = points[*row.first()?].address().table;
    let span = span(points, row);
    Some(Request {
        table,
        // A point lies within its table, so that both fit into 16 bits.
        start: u16::try_from(span.start).ok()?,
        count: u16::try_from(span.end - span.start).ok()?,
        points: row.to_vec(),
    })
}

/// From the first address of the points to past the last.
pub(crate) fn span(points: &[PointSpec], row: &[usize]) -> Range<u32> {
    let start = row.first().map_or(0, |&i| points[i].start());
    let end = row.iter().map(|&i| points[i].end()).max();
    start..end.unwrap_or(start)
}

/// Cuts one table's points, sorted by place, where it costs least.
fn plan_row(
    points: &[PointSpec],
    row: &[usize],
    limits: &Limits,
    barriers: &[Barrier],
) -> Vec<Request> {
    cheapest_cuts(points, row, limits, barriers)
        .into_iter()
        .filter_map(|range| request(points, &row[range]))
        .collect()
}

/// The ranges of `row` that make one request each.
///
/// `best[n]` is the least cost of the first `n` points, `begin[n]` where their last request begins.
fn cheapest_cuts(
    points: &[PointSpec],
    row: &[usize],
    limits: &Limits,
    barriers: &[Barrier],
) -> Vec<Range<usize>> {
    let Some(&first) = row.first() else {
        return Vec::new();
    };
    let table = points[first].address().table;
    let mut best = vec![u64::MAX; row.len() + 1];
    let mut begin = vec![0; row.len() + 1];
    best[0] = 0;
    for from in 0..row.len() {
        let start = points[row[from]].start();
        let wall = barrier_after(barriers, table, start);
        let mut end = start;
        for to in from..row.len() {
            end = end.max(points[row[to]].end());
            // One point alone is always asked for: it is not ours to split.
            if to > from && (end - start > limits.max(table) || end > wall) {
                break;
            }
            let cost = best[from] + limits.cost(table, end - start);
            if cost < best[to + 1] {
                best[to + 1] = cost;
                begin[to + 1] = from;
            }
        }
    }
    let mut cuts = Vec::new();
    let mut end = row.len();
    while end > 0 {
        cuts.push(begin[end]..end);
        end = begin[end];
    }
    cuts.reverse();
    cuts
}

/// The first barrier that a request from `start` on may not read across.
fn barrier_after(barriers: &[Barrier], table: Table, start: u32) -> u32 {
    let behind = barriers.iter().filter(|b| b.table == table && b.at > start);
    behind.map(|b| b.at).min().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
