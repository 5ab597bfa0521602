//! The newest rows of the grid: as many as a window has.

use std::collections::VecDeque;

use millrace_tags::Moment;

use crate::grid::Cell;

/// A ring of rows. It is full from the moment on that it holds one window.
#[derive(Debug)]
pub(crate) struct Rows {
    len: usize,
    inputs: usize,
    times: VecDeque<Moment>,
    cells: VecDeque<Cell>,
    /// Good cells of each input.
    good: Vec<usize>,
}

impl Rows {
    pub(crate) fn new(len: usize, inputs: usize) -> Self {
        Self {
            len,
            inputs,
            times: VecDeque::with_capacity(len),
            cells: VecDeque::with_capacity(len * inputs),
            good: vec![0; inputs],
        }
    }

    /// Adds a row of one cell for each input; the oldest row goes when the ring is full.
    pub(crate) fn push(&mut self, at: Moment, row: &[Cell]) {
        debug_assert_eq!(row.len(), self.inputs);
        if self.is_full() {
            self.times.pop_front();
            for (good, cell) in self.good.iter_mut().zip(self.cells.drain(..self.inputs)) {
                *good -= usize::from(cell.good);
            }
        }
        self.times.push_back(at);
        self.cells.extend(row);
        for (good, cell) in self.good.iter_mut().zip(row) {
            *good += usize::from(cell.good);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.times.clear();
        self.cells.clear();
        self.good.fill(0);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.times.len() == self.len
    }

    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// Time of the oldest row.
    pub(crate) fn start(&self) -> Option<Moment> {
        self.times.front().copied()
    }

    /// Time of the newest row.
    pub(crate) fn end(&self) -> Option<Moment> {
        self.times.back().copied()
    }

    /// The times of the rows, oldest first.
    pub(crate) fn times(&self) -> Vec<Moment> {
        self.times.iter().copied().collect()
    }

    /// Share of good cells, 0 to 1.
    pub(crate) fn good_share(&self) -> f64 {
        let good: usize = self.good.iter().sum();
        good as f64 / self.cells.len().max(1) as f64
    }

    /// Share of good cells of each input.
    pub(crate) fn good_shares(&self) -> impl Iterator<Item = f64> + '_ {
        let rows = self.times.len().max(1) as f64;
        self.good.iter().map(move |good| *good as f64 / rows)
    }

    /// Whether the newest cell of each input is good.
    pub(crate) fn newest_good(&self) -> Vec<bool> {
        let newest = self.cells.len().saturating_sub(self.inputs);
        self.cells.range(newest..).map(|cell| cell.good).collect()
    }

    /// The values, row after row.
    pub(crate) fn values(&self) -> Vec<f32> {
        self.cells.iter().map(|cell| cell.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(value: f32, good: bool) -> Cell {
        Cell { value, good }
    }

    #[test]
    fn keeps_the_newest_rows_and_their_shares() {
        let mut rows = Rows::new(2, 2);
        rows.push(Moment(1), &[cell(1.0, true), cell(2.0, false)]);
        assert!(!rows.is_full());
        assert_eq!(rows.newest_good(), [true, false]);
        rows.push(Moment(2), &[cell(3.0, true), cell(4.0, true)]);
        assert_eq!(rows.good_share(), 0.75);
        assert_eq!(rows.newest_good(), [true, true]);
        rows.push(Moment(3), &[cell(5.0, true), cell(6.0, true)]);
        assert_eq!(rows.start(), Some(Moment(2)));
        assert_eq!(rows.values(), [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(rows.good_share(), 1.0);
        assert_eq!(rows.good_shares().collect::<Vec<_>>(), [1.0, 1.0]);
        rows.clear();
        assert_eq!((rows.count(), rows.start()), (0, None));
    }
}
