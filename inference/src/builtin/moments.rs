//! Means, deviations and covariances of rows that come one by one.

use serde::{Deserialize, Serialize};

use crate::learned::bits;

/// Sums over all rows so far, kept about the mean (Welford), so that values far from zero lose no digits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moments {
    count: u64,
    #[serde(with = "bits::list")]
    mean: Vec<f64>,
    /// Sums of products of deviations: the upper triangle row after row, or only its diagonal.
    #[serde(with = "bits::list")]
    products: Vec<f64>,
}

impl Moments {
    /// Means and deviations only.
    pub(crate) fn new(width: usize) -> Self {
        Self {
            count: 0,
            mean: vec![0.0; width],
            products: vec![0.0; width],
        }
    }

    /// Covariances, too.
    pub(crate) fn with_products(width: usize) -> Self {
        Self {
            products: vec![0.0; width * (width + 1) / 2],
            ..Self::new(width)
        }
    }

    fn is_diagonal(&self) -> bool {
        self.products.len() == self.mean.len()
    }

    pub(crate) fn push(&mut self, row: &[f64]) {
        self.count += 1;
        let before: Vec<f64> = row
            .iter()
            .zip(&self.mean)
            .map(|(value, mean)| value - mean)
            .collect();
        for (mean, before) in self.mean.iter_mut().zip(&before) {
            *mean += before / self.count as f64;
        }
        let after: Vec<f64> = row
            .iter()
            .zip(&self.mean)
            .map(|(value, mean)| value - mean)
            .collect();
        if self.is_diagonal() {
            for (i, product) in self.products.iter_mut().enumerate() {
                *product += before[i] * after[i];
            }
            return;
        }
        let mut products = self.products.iter_mut();
        for (i, before) in before.iter().enumerate() {
            for (after, product) in after[i..].iter().zip(&mut products) {
                *product += before * after;
            }
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Where the diagonal's element of a column is.
    fn diagonal(&self, column: usize) -> usize {
        if self.is_diagonal() {
            return column;
        }
        let width = self.mean.len();
        column * width - column * column.saturating_sub(1) / 2
    }

    /// Standard deviations over all rows; 0 where a column never changed in more than rounding.
    pub(crate) fn deviations(&self) -> Vec<f64> {
        let deviation = |(column, mean): (usize, &f64)| {
            let variance = self.products[self.diagonal(column)] / (self.count.max(1) as f64);
            let deviation = variance.max(0.0).sqrt();
            if deviation > mean.abs() * 1e-9 {
                deviation
            } else {
                0.0
            }
        };
        self.mean.iter().enumerate().map(deviation).collect()
    }

    /// The sum of products of deviations of two columns.
    pub(crate) fn product(&self, a: usize, b: usize) -> f64 {
        let (a, b) = (a.min(b), a.max(b));
        self.products[self.diagonal(a) + b - a]
    }

    /// Whether other moments are of the same kind, and finite.
    pub(crate) fn fits(&self, same_kind: &Self) -> bool {
        self.mean.len() == same_kind.mean.len()
            && self.products.len() == same_kind.products.len()
            && self
                .mean
                .iter()
                .chain(&self.products)
                .all(|number| number.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_diagonal_is_found_and_far_values_keep_their_digits() {
        let rows = [
            [1e6 + 1.0, 2.0, 5.0],
            [1e6 + 2.0, 2.0, 3.0],
            [1e6 + 3.0, 2.0, 4.0],
        ];
        let mut moments = Moments::with_products(3);
        let mut plain = Moments::new(3);
        for row in &rows {
            moments.push(row);
            plain.push(row);
        }
        assert_eq!(moments.mean(), [1e6 + 2.0, 2.0, 4.0]);
        assert_eq!(moments.deviations(), plain.deviations());
        assert!((moments.deviations()[0] - (2.0f64 / 3.0).sqrt()).abs() < 1e-9);
        assert_eq!(moments.deviations()[1], 0.0);
        assert!((moments.product(2, 0) - -1.0).abs() < 1e-9);
        assert!((moments.product(2, 2) - 2.0).abs() < 1e-9);
    }
}
