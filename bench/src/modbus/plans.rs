//! Plans against the optimum, which a slow solver finds that tries everything.

use std::time::Duration;

use anyhow::Result;
use millrace_drivers::modbus::plan::{Barrier, Cost, Limits, Request, plan_around};
use millrace_drivers::modbus::{Address, DataType, PointSpec, Table, WordOrder};

use crate::{Row, Target};

/// Points of a map: all ways to share ten out are 115,975.
const POINTS_MAX: usize = 10;

/// The cost of the plans of random maps over that of the optimal plans, and the worst of them.
///
/// # Errors
/// A map cannot be made, or a plan reads what it must not.
pub fn plan_cost(maps: u32, seed: u64) -> Result<Vec<Row>> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut planned, mut optimal, mut worst) = (0.0, 0.0, 1.0_f64);
    for _ in 0..maps {
        let map = Map::random(&mut rng)?;
        let all: Vec<usize> = (0..map.points.len()).collect();
        let requests = plan_around(&map.points, &all, &map.limits, &map.barriers);
        let cost = map.cost(&requests)?;
        let mut least = f64::INFINITY;
        map.share_out(&all, &mut Vec::new(), 0.0, &mut least);
        planned += cost;
        optimal += least;
        worst = worst.max(cost / least);
    }
    let what = |what| format!("cost of the plan / optimum, {maps} random maps, {what}");
    Ok(vec![
        Row::new(what("all"), planned / optimal).target(Target::AtMost(1.01)),
        Row::new(what("the worst"), worst).target(Target::AtMost(1.01)),
    ])
}

/// Points in tables with places that must not be read across.
struct Map {
    points: Vec<PointSpec>,
    barriers: Vec<Barrier>,
    limits: Limits,
}

impl Map {
    fn random(rng: &mut fastrand::Rng) -> Result<Self> {
        let extent = [30, 200, 600][rng.usize(..3)];
        let mut points = Vec::new();
        for _ in 0..rng.usize(4..=POINTS_MAX) {
            let (table, data_type) = match rng.u8(..8) {
                0 => (Table::Coil, DataType::Bool),
                1 | 2 => (Table::Input, DataType::U16),
                3..=5 => (Table::Holding, DataType::F32),
                6 => (Table::Holding, DataType::U16),
                _ => (Table::Holding, DataType::F64),
            };
            let address = Address {
                table,
                offset: rng.u16(..extent),
                bit: None,
            };
            points.push(PointSpec::new(address, data_type, WordOrder::Abcd)?);
        }
        let barrier = |rng: &mut fastrand::Rng| Barrier {
            table: Table::Holding,
            at: rng.u32(..u32::from(extent)),
        };
        let barriers = (0..rng.usize(..3)).map(|_| barrier(rng)).collect();
        let turnaround = Duration::from_millis(rng.u64(..30));
        let cost = match rng.u8(..3) {
            0 => Cost::tcp(Duration::from_micros(rng.u64(..2_000))),
            1 => Cost::serial(9_600, 11, turnaround),
            _ => Cost::serial(115_200, 10, turnaround),
        };
        let limits = Limits {
            max_registers: [8, 32, 125][rng.usize(..3)],
            cost,
            ..Limits::default()
        };
        Ok(Self {
            points,
            barriers,
            limits,
        })
    }

    /// The cost of these requests, which must bring every point and read nothing that is forbidden.
    fn cost(&self, requests: &[Request]) -> Result<f64> {
        let mut brought: Vec<usize> = requests.iter().flat_map(|r| r.points.clone()).collect();
        brought.sort_unstable();
        anyhow::ensure!(
            brought.iter().copied().eq(0..self.points.len()),
            "a point is missing: {requests:?}"
        );
        let costs = requests.iter().map(|request| {
            let cost = self.group_cost(&request.points);
            anyhow::ensure!(cost.is_finite(), "it must not be read so: {request:?}");
            let whole = self.request_cost(request.table, u32::from(request.count));
            anyhow::ensure!(whole >= cost, "it does not reach its points: {request:?}");
            Ok(whole)
        });
        costs.sum()
    }

    fn request_cost(&self, table: Table, addresses: u32) -> f64 {
        let bytes = match table.is_bits() {
            true => addresses.div_ceil(8),
            false => addresses * 2,
        };
        self.limits.cost.of(u64::from(bytes)).as_secs_f64()
    }

    /// The cost of one request for these points; infinite where there is no such request.
    fn group_cost(&self, group: &[usize]) -> f64 {
        let points = || group.iter().map(|&i| &self.points[i]);
        let table = self.points[group[0]].address().table;
        let first = points().map(start).min().unwrap_or(0);
        let end = points()
            .map(|p| start(p) + u32::from(p.registers()))
            .max()
            .unwrap_or(0);
        let crosses = |b: &Barrier| b.table == table && first < b.at && b.at < end;
        let most = match table.is_bits() {
            true => self.limits.max_coils,
            false => self.limits.max_registers,
        };
        let too_much = end - first > u32::from(most) || self.barriers.iter().any(crosses);
        // One point alone is asked for whatever it is.
        if group.len() > 1 && (too_much || points().any(|p| p.address().table != table)) {
            return f64::INFINITY;
        }
        self.request_cost(table, end - first)
    }

    /// Tries every way to share the points out among requests.
    fn share_out(&self, rest: &[usize], groups: &mut Vec<Vec<usize>>, cost: f64, least: &mut f64) {
        if cost >= *least {
            return;
        }
        let Some((&next, rest)) = rest.split_first() else {
            *least = cost;
            return;
        };
        for i in 0..=groups.len() {
            let before = match groups.get(i) {
                Some(group) => self.group_cost(group),
                None => {
                    groups.push(Vec::new());
                    0.0
                }
            };
            groups[i].push(next);
            let after = self.group_cost(&groups[i]);
            self.share_out(rest, groups, cost - before + after, least);
            groups[i].pop();
            if groups[i].is_empty() {
                groups.pop();
            }
        }
    }
}

fn start(point: &PointSpec) -> u32 {
    u32::from(point.address().offset)
}
