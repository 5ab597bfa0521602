//! Principal components of a window's values: Hotelling's T² within them, the squared residual Q beside them.
//!
//! Values are scaled to mean 0 and deviation 1 first; those that never changed in the training are left out. Limits for a
//! confidence: of T² by the F distribution, of Q by Jackson and Mudholkar's formula.

use super::distribution::{f_quantile, normal_quantile};
use super::eigen;
use super::moments::Moments;
use crate::onnx::Scored;

/// What was beside the components when nothing was: less than rounding.
const NOTHING_LEFT: f64 = 1e-10;

/// Least power in Jackson and Mudholkar's formula, which holds for powers above zero.
const POWER_MIN: f64 = 1e-3;

/// Components and limits of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Pca {
    mean: Vec<f64>,
    /// 1 / deviation; 0 of a value that is left out.
    weight: Vec<f64>,
    /// Largest first.
    eigenvalues: Vec<f64>,
    /// One for each component, each over all values.
    components: Vec<Vec<f64>>,
    t2_limit: f64,
    /// `None` where the components leave nothing beside them.
    q_limit: Option<f64>,
}

impl Pca {
    /// `None` where there are too few windows, or none of their values changed.
    pub(super) fn fit(moments: &Moments, variance: f64, confidence: f64) -> Option<Self> {
        let count = moments.count() as f64;
        let deviations = moments.deviations();
        let used: Vec<usize> = (0..deviations.len())
            .filter(|i| deviations[*i] > 0.0)
            .collect();
        if used.is_empty() || count < 2.0 {
            return None;
        }
        let covariance = |a: usize, b: usize| {
            moments.product(a, b) / ((count - 1.0) * deviations[a] * deviations[b])
        };
        let matrix = used
            .iter()
            .map(|a| used.iter().map(|b| covariance(*a, *b)).collect());
        let (eigenvalues, vectors) = eigen::decompose(matrix.collect());
        let total: f64 = eigenvalues.iter().sum();
        let mut explained = 0.0;
        let enough = eigenvalues.iter().position(|value| {
            explained += value / total;
            explained > variance
        });
        let number = enough.map_or(used.len(), |last| last + 1);
        // A component without variance would divide by nothing.
        let number = eigenvalues[..number]
            .iter()
            .filter(|value| **value > total * 1e-12)
            .count();
        let degrees = count - number as f64;
        if degrees < 1.0 {
            return None;
        }
        let f = f_quantile(confidence, number as f64, degrees);
        let t2_limit = number as f64 * (count - 1.0) * (count + 1.0) / (count * degrees) * f;
        let spread = |vector: &Vec<f64>| {
            let mut whole = vec![0.0; deviations.len()];
            for (part, place) in vector.iter().zip(&used) {
                whole[*place] = *part;
            }
            whole
        };
        let weight = |deviation: &f64| {
            if *deviation > 0.0 {
                1.0 / deviation
            } else {
                0.0
            }
        };
        Some(Self {
            mean: moments.mean().to_vec(),
            weight: deviations.iter().map(weight).collect(),
            components: vectors[..number].iter().map(spread).collect(),
            q_limit: q_limit(&eigenvalues[number..], total, confidence),
            eigenvalues,
            t2_limit,
        })
    }

    /// The variances along all components, largest first.
    pub fn eigenvalues(&self) -> &[f64] {
        &self.eigenvalues
    }

    /// How many components are kept.
    pub fn components(&self) -> usize {
        self.components.len()
    }

    /// The limit of T².
    pub fn t2_limit(&self) -> f64 {
        self.t2_limit
    }

    /// The limit of Q; `None` where the components leave nothing beside them.
    pub fn q_limit(&self) -> Option<f64> {
        self.q_limit
    }

    /// Scores a window: the larger of T² and Q over their limits; values are T² and Q.
    pub(super) fn score(&self, values: &[f32], inputs: usize) -> Scored {
        let scaled: Vec<f64> = values
            .iter()
            .zip(self.mean.iter().zip(&self.weight))
            .map(|(value, (mean, weight))| (f64::from(*value) - mean) * weight)
            .collect();
        let mut residual = scaled.clone();
        let mut t2 = 0.0;
        let mut t2_parts = vec![0.0; scaled.len()];
        for (component, variance) in self.components.iter().zip(&self.eigenvalues) {
            let along: f64 = component
                .iter()
                .zip(&scaled)
                .map(|(part, value)| part * value)
                .sum();
            t2 += along * along / variance;
            for (i, part) in component.iter().enumerate() {
                residual[i] -= along * part;
                t2_parts[i] += along / variance * part * scaled[i];
            }
        }
        let q: f64 = residual.iter().map(|part| part * part).sum();
        let t2_ratio = t2 / self.t2_limit;
        let q_ratio = self.q_limit.map_or(0.0, |limit| q / limit);
        let parts: Vec<f64> = if q_ratio > t2_ratio {
            residual.iter().map(|part| part * part).collect()
        } else {
            // What pulls the other way makes T² no larger.
            t2_parts.iter().map(|part| part.max(0.0)).collect()
        };
        let mut contribution = vec![0.0; inputs];
        for (i, part) in parts.iter().enumerate() {
            contribution[i % inputs.max(1)] += part;
        }
        Scored {
            score: t2_ratio.max(q_ratio),
            contribution: Some(contribution),
            values: vec![Some(t2), Some(q)],
        }
    }
}

/// Jackson and Mudholkar's limit of the squared residual, from the variances that are left.
fn q_limit(left: &[f64], total: f64, confidence: f64) -> Option<f64> {
    let theta = |power: i32| {
        left.iter()
            .map(|value| value.max(0.0).powi(power))
            .sum::<f64>()
    };
    let (first, second, third) = (theta(1), theta(2), theta(3));
    if first <= total * NOTHING_LEFT {
        return None;
    }
    let h = (1.0 - 2.0 * first * third / (3.0 * second * second)).max(POWER_MIN);
    let c = normal_quantile(confidence);
    let base =
        1.0 + c * h * (2.0 * second).sqrt() / first + second * h * (h - 1.0) / (first * first);
    Some(first * base.max(0.0).powf(1.0 / h)).filter(|limit| *limit > 0.0 && limit.is_finite())
}
