use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::modbus::{Address, DataType, ScaleRegister, ScaleRule, WordOrder};

fn spec(table: Table, offset: u16, data_type: DataType) -> PointSpec {
    let address = Address {
        table,
        offset,
        bit: None,
    };
    PointSpec::new(address, data_type, WordOrder::Abcd).unwrap()
}

fn u32_every(stride: u16, count: u16) -> Vec<PointSpec> {
    (0..count)
        .map(|i| spec(Table::Holding, i * stride, DataType::U32))
        .collect()
}

fn shapes(requests: &[Request]) -> Vec<(u16, u16)> {
    requests.iter().map(|r| (r.start, r.count)).collect()
}

#[test]
fn adjacent_points_are_one_request() {
    let requests = plan(&u32_every(2, 60), &Limits::default());
    assert_eq!(shapes(&requests), [(0, 120)]);
}

#[test]
fn sparse_thousand_needs_forty_eight_requests() {
    assert_eq!(plan(&u32_every(6, 1000), &Limits::default()).len(), 48);
}

#[test]
fn gap_is_read_when_that_costs_less_than_a_request() {
    let points = [0, 50].map(|offset| spec(Table::Holding, offset, DataType::U16));
    let limits = |request| Limits {
        cost: Cost::in_bytes(request),
        ..Limits::default()
    };
    assert_eq!(shapes(&plan(&points, &limits(100))), [(0, 51)]);
    assert_eq!(shapes(&plan(&points, &limits(97))), [(0, 1), (50, 1)]);
}

#[test]
fn tables_are_not_mixed() {
    let points = [
        spec(Table::Holding, 0, DataType::U16),
        spec(Table::Input, 1, DataType::U16),
        spec(Table::Coil, 5, DataType::Bool),
        spec(Table::Coil, 1999, DataType::Bool),
    ];
    let requests = plan(&points, &Limits::default());
    assert_eq!(shapes(&requests), [(5, 1995), (1, 1), (0, 1)]);
}

#[test]
fn point_that_is_longer_than_the_limit_stands_alone() {
    let limits = Limits {
        max_registers: 1,
        ..Limits::default()
    };
    assert_eq!(shapes(&plan(&u32_every(2, 2), &limits)), [(0, 2), (2, 2)]);
}

#[test]
fn nothing_is_read_across_a_barrier() {
    let points = u32_every(2, 3);
    let barrier = Barrier {
        table: Table::Holding,
        at: 2,
    };
    let requests = plan_around(&points, &[0, 1, 2], &Limits::default(), &[barrier]);
    assert_eq!(shapes(&requests), [(0, 2), (2, 4)]);
}

#[test]
fn point_across_a_barrier_parts_no_others() {
    let points = [
        spec(Table::Holding, 9, DataType::U16),
        spec(Table::Holding, 10, DataType::F64),
        spec(Table::Holding, 11, DataType::U16),
    ];
    let barrier = Barrier {
        table: Table::Holding,
        at: 13,
    };
    let requests = plan_around(&points, &[0, 1, 2], &Limits::default(), &[barrier]);
    assert_eq!(shapes(&requests), [(9, 3), (10, 4)]);
}

#[test]
fn forbidden_range_is_read_around() {
    let points = [0, 20].map(|offset| spec(Table::Holding, offset, DataType::U16));
    let forbidden = Barrier {
        table: Table::Holding,
        at: 10,
    };
    let requests = plan_around(&points, &[0, 1], &Limits::default(), &[forbidden]);
    assert_eq!(shapes(&requests), [(0, 1), (20, 1)]);
}

#[test]
fn device_of_one_register_at_a_time_is_asked_so() {
    let points: Vec<PointSpec> = (0..5)
        .map(|offset| spec(Table::Holding, offset, DataType::U16))
        .collect();
    let limits = Limits {
        max_registers: 1,
        ..Limits::default()
    };
    assert_eq!(plan(&points, &limits).len(), 5);
}

#[test]
fn serial_line_reads_fewer_gaps_the_slower_the_device_answers() {
    // A gap of 6 registers is 12 characters, a request 20 and what the device takes to answer.
    let points = u32_every(8, 10);
    let requests = |turnaround| {
        let limits = Limits {
            cost: Cost::serial(9_600, 11, Duration::from_millis(turnaround)),
            ..Limits::default()
        };
        plan(&points, &limits).len()
    };
    assert_eq!((requests(0), requests(50)), (1, 1));
    let far = u32_every(24, 10);
    let limits = |turnaround| Limits {
        cost: Cost::serial(9_600, 11, Duration::from_millis(turnaround)),
        ..Limits::default()
    };
    assert_eq!(plan(&far, &limits(0)).len(), 10);
    assert_eq!(plan(&far, &limits(100)).len(), 2);
}

fn any_point(offset_max: u16) -> impl Strategy<Value = PointSpec> {
    let register = prop_oneof![
        Just(DataType::U16),
        Just(DataType::F32),
        Just(DataType::F64),
        (1u16..=60).prop_map(DataType::Text),
    ];
    let tables = prop_oneof![Just(Table::Holding), Just(Table::Input)];
    // Some are scaled by a register, before or behind them, near or far.
    let scale = prop::option::weighted(0.3, 0..offset_max);
    prop_oneof![
        4 => (tables, 0..offset_max, register, scale).prop_map(|(table, offset, data_type, scale)| {
            let point = spec(table, offset, data_type);
            let register = scale.map(|offset| {
                let address = Address { table, offset, bit: None };
                ScaleRegister::new(address, DataType::I16, ScaleRule::Exponent).unwrap()
            });
            register.and_then(|register| point.scaled_by(register).ok()).unwrap_or(point)
        }),
        1 => (0..offset_max).prop_map(|o| spec(Table::Coil, o, DataType::Bool)),
    ]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let cost =
        prop_oneof![
            (0u64..400).prop_map(Cost::in_bytes),
            prop::sample::select(vec![1_200, 9_600, 19_200, 115_200])
                .prop_map(|baud| Cost::serial(baud, 11, Duration::from_millis(5))),
            Just(Cost::default()),
        ];
    (1u16..=125, 1u16..=2000, cost).prop_map(|(max_registers, max_coils, cost)| Limits {
        max_registers,
        max_coils,
        cost,
        ..Limits::default()
    })
}

fn cost(requests: &[Request], limits: &Limits) -> u64 {
    let costs = requests.iter();
    costs
        .map(|r| limits.cost_ns(r.table, u32::from(r.count)))
        .sum()
}

/// Dearer than any plan of a test.
const UNREADABLE_NS: u64 = 1 << 50;

/// The least cost over every way to share `rest` out among requests, contiguous or not.
fn least_cost(
    points: &[PointSpec],
    rest: &[usize],
    shared: &mut Vec<Vec<usize>>,
    limits: &Limits,
) -> u64 {
    let Some((&next, rest)) = rest.split_first() else {
        return shared
            .iter()
            .map(|row| {
                let span = span_of(points, row);
                let table = points[row[0]].address().table;
                let fits = row.len() == 1 || span <= u32::from(limits.max(table));
                if fits {
                    limits.cost_ns(table, span)
                } else {
                    UNREADABLE_NS
                }
            })
            .sum();
    };
    let mut best = u64::MAX;
    for i in 0..=shared.len() {
        match shared.get_mut(i) {
            Some(row) if points[row[0]].address().table == points[next].address().table => {
                row.push(next);
                best = best.min(least_cost(points, rest, shared, limits));
                shared[i].pop();
            }
            Some(_) => {}
            None => {
                shared.push(vec![next]);
                best = best.min(least_cost(points, rest, shared, limits));
                shared.pop();
            }
        }
    }
    best
}

fn span_of(points: &[PointSpec], row: &[usize]) -> u32 {
    let start = row.iter().map(|&i| points[i].start()).min().unwrap();
    row.iter().map(|&i| points[i].end()).max().unwrap() - start
}

/// The least cost by another method: over every set of neighbours as the last request, without the
/// planner's own cuts. Exact for rows of any length where no point lies across another's end.
fn least_cost_of_row(points: &[PointSpec], limits: &Limits) -> u64 {
    let mut total = 0;
    for table in [Table::Coil, Table::Holding, Table::Input] {
        let mut row: Vec<&PointSpec> = points
            .iter()
            .filter(|p| p.address().table == table)
            .collect();
        row.sort_by_key(|p| (p.start(), p.end()));
        // From the back: the cheapest way to read what begins at point `i` or later.
        let mut rest = vec![0u64; row.len() + 1];
        for i in (0..row.len()).rev() {
            rest[i] = (i..row.len())
                .filter_map(|last| {
                    let end = row[i..=last].iter().map(|p| p.end()).max()?;
                    let span = end - row[i].start();
                    let fits = last == i || span <= u32::from(limits.max(table));
                    fits.then(|| limits.cost_ns(table, span) + rest[last + 1])
                })
                .min()
                .unwrap();
        }
        total += rest[0];
    }
    total
}

/// A map as plants have them: runs of values with gaps between, from many to few.
fn random_map(rng: &mut fastrand::Rng) -> (Vec<PointSpec>, Limits) {
    let types = [
        DataType::U16,
        DataType::F32,
        DataType::F64,
        DataType::Text(20),
    ];
    let mut points = Vec::new();
    for table in [Table::Holding, Table::Input, Table::Coil] {
        let gap_max = rng.u16(1..60);
        let mut offset = rng.u16(0..100);
        for _ in 0..rng.usize(0..80) {
            let data_type = match table {
                Table::Coil => DataType::Bool,
                _ => types[rng.usize(0..types.len())],
            };
            let point = spec(table, offset, data_type);
            offset = point.end() as u16 + if rng.bool() { 0 } else { rng.u16(0..gap_max) };
            points.push(point);
        }
    }
    rng.shuffle(&mut points);
    let cost = match rng.u8(0..3) {
        0 => Cost::tcp(Duration::from_micros(rng.u64(0..2_000))),
        _ => Cost::serial(
            [9_600, 19_200, 115_200][rng.usize(0..3)],
            11,
            Duration::from_millis(rng.u64(0..40)),
        ),
    };
    let limits = Limits {
        max_registers: if rng.bool() { 125 } else { rng.u16(10..125) },
        max_coils: if rng.bool() { 2000 } else { rng.u16(1..200) },
        cost,
        ..Limits::default()
    };
    (points, limits)
}

#[test]
fn thousand_random_maps_cost_the_least() {
    let mut rng = fastrand::Rng::with_seed(4);
    let mut worst = 1.0f64;
    for _ in 0..1_000 {
        let (points, limits) = random_map(&mut rng);
        let least = least_cost_of_row(&points, &limits);
        let planned = cost(&plan(&points, &limits), &limits);
        if least > 0 {
            worst = worst.max(planned as f64 / least as f64);
        }
    }
    assert!(worst <= 1.01, "cost of the plan / least cost = {worst}");
}

proptest! {
    #[test]
    fn each_point_is_read_once_and_whole(
        points in prop::collection::vec(any_point(3000), 0..120),
        limits in any_limits(),
    ) {
        let requests = plan(&points, &limits);
        let mut seen = vec![0; points.len()];
        for request in &requests {
            let end = u32::from(request.start) + u32::from(request.count);
            let fits = request.count <= limits.max(request.table);
            prop_assert!(fits || request.points.len() == 1);
            for &i in &request.points {
                seen[i] += 1;
                prop_assert_eq!(points[i].address().table, request.table);
                prop_assert!(u32::from(request.start) <= points[i].start());
                prop_assert!(points[i].end() <= end);
            }
        }
        prop_assert!(seen.iter().all(|times| *times == 1));
        let alone = (0..points.len()).filter_map(|i| request(&points, &[i]));
        let alone: Vec<Request> = alone.collect();
        prop_assert!(cost(&requests, &limits) <= cost(&alone, &limits));
    }

    #[test]
    fn no_other_plan_costs_less(
        points in prop::collection::vec(any_point(200), 1..7),
        limits in any_limits(),
    ) {
        let all: Vec<usize> = (0..points.len()).collect();
        let least = least_cost(&points, &all, &mut Vec::new(), &limits);
        prop_assert_eq!(cost(&plan(&points, &limits), &limits), least);
    }
}
