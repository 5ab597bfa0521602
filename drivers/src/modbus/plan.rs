//! The read planner: which requests bring all points of a poll group at the least cost.
//!
//! Pure. A request costs time ([`Cost`]): on a serial line that of its characters and silences, over TCP a
//! round trip; what lies between two points is read through where that costs less than another request.
//! Points are sorted by place, and the cheapest way to cut that row into requests is found by dynamic
//! programming: since no request ever gains from leaving out a point between two of its own, the best
//! cut is the best plan. A point is never split, so that no 32-bit value is torn between two requests.
//!
//! A range that must not be read is a [`Barrier`] at its beginning: with no point in it, whatever reads one
//! of its addresses reads across that place.

use std::ops::Range;

use super::address::Table;
use super::point::PointSpec;

mod cost;
mod limits;

pub use cost::Cost;
pub use limits::{Limits, Taught};

/// Most registers that functions 03 and 04 can bring (Modbus Application Protocol V1.1b3, 6.3 and 6.4).
pub const REGISTERS_MAX: u16 = 125;

/// Most bits that functions 01 and 02 can bring (6.1 and 6.2).
pub const COILS_MAX: u16 = 2000;

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

/// A place that no request may read across: see [`plan_around`].
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

/// The request that reads this point without what scales it; it is point number 0 of it.
pub(crate) fn single(spec: &PointSpec) -> Request {
    Request {
        table: spec.address().table,
        start: spec.address().offset,
        count: spec.registers(),
        points: vec![0],
    }
}

/// As a driver plans these points while it knows nothing of its device: each of them, and beside it the register that
/// scales it where no one request can bring both.
pub fn plan_at_start(points: &[PointSpec], limits: &Limits, forbidden: &[Barrier]) -> Vec<Request> {
    let specs = in_parts(points, limits, forbidden);
    let all: Vec<usize> = (0..specs.len()).collect();
    plan_around(&specs, &all, limits, forbidden)
}

/// What has to be asked for to read these points: each of them, and beside it the register that scales it where no
/// one request can bring both.
fn in_parts(points: &[PointSpec], limits: &Limits, barriers: &[Barrier]) -> Vec<PointSpec> {
    let parts = points.iter().flat_map(|point| {
        let whole = is_whole(point, limits, barriers);
        let own = (!whole).then(|| point.parts());
        whole
            .then_some(*point)
            .into_iter()
            .chain(own.into_iter().flatten())
    });
    parts.collect()
}

/// Whether one request may bring the point together with the register that scales it.
pub(crate) fn is_whole(point: &PointSpec, limits: &Limits, barriers: &[Barrier]) -> bool {
    if point.scale().is_none() {
        return true;
    }
    let table = point.address().table;
    let within = point.start() + 1..point.end();
    let parted = (barriers.iter()).any(|wall| wall.table == table && within.contains(&wall.at));
    let fits = point.end() - point.start() <= u32::from(limits.max(table));
    point.near_scale().is_some() && fits && !parted
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
    let Some(&first) = row.first() else {
        return Vec::new();
    };
    let table = points[first].address().table;
    let mut walls: Vec<u32> = (barriers.iter())
        .filter(|barrier| barrier.table == table)
        .map(|barrier| barrier.at)
        .collect();
    walls.sort_unstable();
    // Longer than the device gives at once, or across a barrier by itself: it is asked for alone, so that it fails alone
    // and parts no others.
    let stands_alone = |i: &usize| {
        let point = &points[*i];
        point.end() - point.start() > u32::from(limits.max(table))
            || wall_after(&walls, point.start()) < point.end()
    };
    let (alone, row): (Vec<usize>, Vec<usize>) = row.iter().copied().partition(stands_alone);
    let cuts = cheapest_cuts(points, &row, table, limits, &walls);
    let merged = cuts.into_iter().map(|range| &row[range]);
    let mut requests: Vec<Request> = merged
        .chain(alone.chunks(1))
        .filter_map(|row| request(points, row))
        .collect();
    requests.sort_by_key(|request| request.start);
    requests
}

/// The first wall past this address.
fn wall_after(walls: &[u32], start: u32) -> u32 {
    let past = walls.partition_point(|wall| *wall <= start);
    walls.get(past).copied().unwrap_or(u32::MAX)
}

/// The ranges of `row` that make one request each.
///
/// `best[n]` is the least cost of the first `n` points, `begin[n]` where their last request begins.
fn cheapest_cuts(
    points: &[PointSpec],
    row: &[usize],
    table: Table,
    limits: &Limits,
    walls: &[u32],
) -> Vec<Range<usize>> {
    let max = u32::from(limits.max(table));
    let mut best = vec![u64::MAX; row.len() + 1];
    let mut begin = vec![0; row.len() + 1];
    best[0] = 0;
    for from in 0..row.len() {
        let start = points[row[from]].start();
        let wall = wall_after(walls, start);
        let mut end = start;
        for to in from..row.len() {
            end = end.max(points[row[to]].end());
            // One point alone is always asked for: it is not ours to split.
            if to > from && (end - start > max || end > wall) {
                break;
            }
            let cost = best[from].saturating_add(limits.cost_ns(table, end - start));
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

#[cfg(test)]
mod tests;
