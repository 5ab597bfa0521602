//! Peaks over threshold: how large the largest scores get, by a generalised Pareto distribution.
//!
//! The distribution `1 - (1 + shape x / scale)^(-1/shape)` is fitted by maximum likelihood. In terms of
//! `rate = shape / scale` the best shape for a rate is the mean of `ln(1 + rate x)`, so that one number is
//! searched for (Grimshaw 1993): on a grid, then between its neighbours.

/// Shapes outside are no tails of scores: below, the likelihood has no maximum; above, there is no mean.
const SHAPE_MIN: f64 = -0.5;
const SHAPE_MAX: f64 = 0.9;

/// Points of the grid on each side of zero.
const GRID: i32 = 200;

/// Halvings of the interval by the golden section: 0.618^80 of it is left.
const SECTIONS: usize = 80;

/// A fitted tail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pareto {
    pub(super) shape: f64,
    pub(super) scale: f64,
}

impl Pareto {
    /// Fits the distribution to what the peaks exceed their threshold by. `None` where there is no spread.
    pub(super) fn fit(excesses: &[f64]) -> Option<Self> {
        let mean = excesses.iter().sum::<f64>() / excesses.len().max(1) as f64;
        let largest = excesses.iter().copied().fold(0.0, f64::max);
        if !(mean > 0.0 && largest.is_finite()) {
            return None;
        }
        // Rates in units of 1/mean. A negative one must leave 1 + rate * largest above zero.
        let least = -mean / largest;
        let below =
            (1..=GRID).map(|i| least * (1.0 - 10f64.powf(-f64::from(i) * 8.0 / f64::from(GRID))));
        let above = (1..=GRID).map(|i| 10f64.powf(f64::from(i) * 8.0 / f64::from(GRID) - 5.0));
        let mut rates: Vec<f64> = below.chain(above).chain([0.0]).collect();
        rates.sort_by(f64::total_cmp);
        let likelihood =
            |rate: f64| Self::at(excesses, mean, rate).map_or(f64::NEG_INFINITY, |it| it.1);
        let best = (0..rates.len())
            .max_by(|a, b| likelihood(rates[*a]).total_cmp(&likelihood(rates[*b])))?;
        let mut from = rates[best.saturating_sub(1)];
        let mut to = rates[(best + 1).min(rates.len() - 1)];
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        for _ in 0..SECTIONS {
            let width = (to - from) * golden;
            if likelihood(to - width) >= likelihood(from + width) {
                to = from + width;
            } else {
                from += (to - from) - width;
            }
        }
        let middle = f64::midpoint(from, to);
        let candidates = [middle, rates[best]];
        let best = candidates
            .into_iter()
            .max_by(|a, b| likelihood(*a).total_cmp(&likelihood(*b)))?;
        Self::at(excesses, mean, best).map(|it| it.0)
    }

    /// The best distribution of this rate, and the mean logarithm of its likelihood.
    fn at(excesses: &[f64], mean: f64, rate: f64) -> Option<(Self, f64)> {
        if rate.abs() < 1e-9 {
            let exponential = Self {
                shape: 0.0,
                scale: mean,
            };
            return Some((exponential, -mean.ln() - 1.0));
        }
        let rate = rate / mean;
        let logs = excesses.iter().map(|x| (rate * x).ln_1p());
        let shape = logs.sum::<f64>() / excesses.len() as f64;
        if !(SHAPE_MIN..=SHAPE_MAX).contains(&shape) || shape == 0.0 {
            return None;
        }
        let scale = shape / rate;
        Some((Self { shape, scale }, -scale.ln() - shape - 1.0))
    }

    /// What is exceeded by this part of the peaks; parts above 1 lie below the threshold.
    pub(super) fn exceeded_by(&self, part: f64) -> f64 {
        if self.shape.abs() < 1e-9 {
            -self.scale * part.ln()
        } else {
            self.scale / self.shape * (part.powf(-self.shape) - 1.0)
        }
    }
}

/// By how much `expected` of the peaks exceed their threshold's threshold; peaks without a spread say nothing, and all of
/// them are below it then.
pub(super) fn quantile(excesses: &[f64], expected: f64) -> f64 {
    let part = (expected / excesses.len().max(1) as f64).clamp(f64::MIN_POSITIVE, 1.0);
    match Pareto::fit(excesses) {
        Some(pareto) => pareto.exceeded_by(part),
        None => excesses.iter().copied().fold(0.0, f64::max),
    }
}
