use proptest::prelude::*;

use super::*;
use crate::modbus::{Address, DataType, WordOrder};

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
    let limits = |request_cost| Limits {
        request_cost,
        ..Limits::default()
    };
    assert_eq!(shapes(&plan(&points, &limits(50))), [(0, 51)]);
    assert_eq!(shapes(&plan(&points, &limits(48))), [(0, 1), (50, 1)]);
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

fn any_point(offset_max: u16) -> impl Strategy<Value = PointSpec> {
    let register = prop_oneof![
        Just(DataType::U16),
        Just(DataType::F32),
        Just(DataType::F64),
        (1u16..=60).prop_map(DataType::Text),
    ];
    let tables = prop_oneof![Just(Table::Holding), Just(Table::Input)];
    prop_oneof![
        4 => (tables, 0..offset_max, register).prop_map(|(t, o, d)| spec(t, o, d)),
        1 => (0..offset_max).prop_map(|o| spec(Table::Coil, o, DataType::Bool)),
    ]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1u16..=125, 1u16..=2000, 0u32..200).prop_map(|(max_registers, max_coils, request_cost)| {
        Limits {
            max_registers,
            max_coils,
            request_cost,
        }
    })
}

fn cost(requests: &[Request], limits: &Limits) -> u64 {
    let costs = requests.iter();
    costs
        .map(|r| limits.cost(r.table, u32::from(r.count)))
        .sum()
}

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
                let fits = row.len() == 1 || span <= limits.max(table);
                if fits {
                    limits.cost(table, span)
                } else {
                    u64::from(u32::MAX)
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
            let fits = u32::from(request.count) <= limits.max(request.table);
            prop_assert!(fits || request.points.len() == 1);
            for &i in &request.points {
                seen[i] += 1;
                prop_assert_eq!(points[i].address().table, request.table);
                prop_assert!(u32::from(request.start) <= points[i].start());
                prop_assert!(points[i].end() <= end);
            }
        }
        prop_assert!(seen.iter().all(|times| *times == 1));
        let alone: Vec<Request> = points.iter().map(single).collect();
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
