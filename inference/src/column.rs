//! Columns of a window: inputs as they are, and what is made of them.
//!
//! A column that is made of an input's recent values looks back in event time from each row. It is there as soon as there is
//! enough to make it of, and good where its inputs are.

use std::sync::Arc;

use millrace_tags::Moment;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use crate::bundle::{Column, Source};
use crate::grid::{Cell, InputLine};

/// Values that a spectrum is made of at least: fewer have no bands.
const SPECTRUM_VALUES_MIN: usize = 8;

/// The part of its time that the values of a spectrum must reach over for it to be a good one.
const SPECTRUM_REACH_MIN: f64 = 0.8;

/// Makes the columns of one model's rows.
pub(crate) struct Columns {
    columns: Vec<Column>,
    planner: FftPlanner<f64>,
    /// The plan of the last spectrum of each column: lengths seldom change.
    plans: Vec<Option<Arc<dyn Fft<f64>>>>,
}

impl Columns {
    /// Has the inputs remember what the columns need.
    pub(crate) fn new(columns: &[Column], lines: &mut [InputLine]) -> Self {
        for column in columns {
            let (input, over) = match column.source {
                Source::Mean { input, over }
                | Source::Deviation { input, over }
                | Source::Band { input, over, .. } => (input, over),
                Source::Input(_) | Source::Difference { .. } => continue,
            };
            if let Some(line) = lines.get_mut(input) {
                line.remember(over);
            }
        }
        Self {
            columns: columns.to_vec(),
            planner: FftPlanner::new(),
            plans: vec![None; columns.len()],
        }
    }

    /// The row at `at`, of the inputs' cells; the place of the first column that cannot be made.
    pub(crate) fn row(
        &mut self,
        at: Moment,
        cells: &[Cell],
        lines: &[InputLine],
    ) -> Result<Vec<Cell>, usize> {
        let mut row = Vec::with_capacity(self.columns.len());
        for (place, column) in self.columns.iter().enumerate() {
            let made = match column.source {
                Source::Input(input) => cells.get(input).copied(),
                Source::Difference { from, take } => {
                    let cells = cells.get(from).zip(cells.get(take));
                    cells.map(|(from, take)| Cell {
                        value: from.value - take.value,
                        good: from.good && take.good,
                    })
                }
                Source::Mean { input, over } => recent(cells, lines, input, |line| {
                    mean(line.taken(at, over).map(|it| it.1))
                }),
                Source::Deviation { input, over } => recent(cells, lines, input, |line| {
                    deviation(line.taken(at, over).map(|it| it.1))
                }),
                Source::Band {
                    input,
                    over,
                    from_hz,
                    to_hz,
                } => lines.get(input).and_then(|line| {
                    let (times, values): (Vec<Moment>, Vec<f64>) = line.taken(at, over).unzip();
                    let (first, last) = (*times.first()?, *times.last()?);
                    if values.len() < SPECTRUM_VALUES_MIN {
                        return None;
                    }
                    let seconds = last.since(first).as_secs_f64();
                    let planned = &mut self.plans[place];
                    if planned
                        .as_ref()
                        .is_none_or(|plan| plan.len() != values.len())
                    {
                        *planned = Some(self.planner.plan_fft_forward(values.len()));
                    }
                    let value = band(&values, seconds, (from_hz, to_hz), planned.as_deref()?);
                    Some(Cell {
                        value: value as f32,
                        good: cells.get(input).is_some_and(|cell| cell.good)
                            && seconds >= over.as_secs_f64() * SPECTRUM_REACH_MIN,
                    })
                }),
            };
            match made.filter(|cell| cell.value.is_finite()) {
                Some(cell) => row.push(cell),
                None => return Err(place),
            }
        }
        Ok(row)
    }
}

/// A column of one input's recent values; where there are none, but the input has something to stand in for them, of that.
fn recent(
    cells: &[Cell],
    lines: &[InputLine],
    input: usize,
    make: impl FnOnce(&InputLine) -> Option<f64>,
) -> Option<Cell> {
    let made = make(lines.get(input)?)?;
    Some(Cell {
        value: made as f32,
        good: cells.get(input)?.good,
    })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0usize, 0.0), |(count, sum), value| {
        (count + 1, sum + value)
    });
    (count > 0).then(|| sum / count as f64)
}

/// The standard deviation; 0 of one value.
fn deviation(values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let mean_value = mean(values.clone())?;
    mean(values.map(|value| (value - mean_value).powi(2))).map(f64::sqrt)
}

/// The effective value (root of the mean square) of what lies in the band, from its lower end up to, not at, its upper
/// one. Values count as evenly spaced; their mean is taken away, and a Hann window keeps neighbours apart.
fn band(values: &[f64], seconds: f64, (from_hz, to_hz): (f64, f64), plan: &dyn Fft<f64>) -> f64 {
    let count = values.len();
    let spacing = seconds / (count - 1) as f64;
    if spacing <= 0.0 {
        return 0.0;
    }
    let mean_value = values.iter().sum::<f64>() / count as f64;
    let hann = |i: usize| {
        (std::f64::consts::PI * i as f64 / count as f64)
            .sin()
            .powi(2)
    };
    let windowed = values
        .iter()
        .enumerate()
        .map(|(i, value)| Complex::new((value - mean_value) * hann(i), 0.0));
    let mut spectrum: Vec<Complex<f64>> = windowed.collect();
    plan.process(&mut spectrum);
    let weight: f64 = (0..count).map(|i| hann(i).powi(2)).sum();
    let step_hz = 1.0 / (spacing * count as f64);
    let power = spectrum
        .iter()
        .enumerate()
        .take(count / 2 + 1)
        .skip(1)
        .filter_map(|(k, part)| {
            // What lies at half the rate has no mirror image.
            let images = if 2 * k == count { 1.0 } else { 2.0 };
            (from_hz..to_hz)
                .contains(&(k as f64 * step_hz))
                .then(|| images * part.norm_sqr())
        });
    (power.sum::<f64>() / (count as f64 * weight)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_wave(hz: f64, count: usize, rate: f64, within: (f64, f64)) -> f64 {
        let wave = |i: usize| 7.0 + 3.0 * (2.0 * std::f64::consts::PI * hz * i as f64 / rate).sin();
        let values: Vec<f64> = (0..count).map(wave).collect();
        let plan = FftPlanner::new().plan_fft_forward(count);
        band(&values, (count - 1) as f64 / rate, within, &*plan)
    }

    #[test]
    fn a_band_has_the_effective_value_of_the_waves_in_it() {
        let effective = 3.0 / 2f64.sqrt();
        for count in [500, 501, 512, 997] {
            let inside = of_wave(50.0, count, 1_000.0, (40.0, 60.0));
            assert!((inside - effective).abs() < 0.01, "{count}: {inside}");
            let outside = of_wave(50.0, count, 1_000.0, (100.0, 200.0));
            assert!(outside < 0.01, "{count}: {outside}");
        }
    }

    #[test]
    fn the_bands_of_noise_make_up_its_deviation() {
        let mut state = 1u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5
        };
        let values: Vec<f64> = (0..4_096).map(|_| noise()).collect();
        let plan = FftPlanner::new().plan_fft_forward(values.len());
        let bands = [(0.0, 100.0), (100.0, 300.0), (300.0, 501.0)];
        let sum: f64 = bands
            .iter()
            .map(|it| band(&values, 4.095, *it, &*plan).powi(2))
            .sum();
        let whole = deviation(values.iter().copied()).unwrap();
        assert!((sum.sqrt() / whole - 1.0).abs() < 0.03, "{sum} {whole}");
    }

    #[test]
    fn one_value_has_a_mean_and_no_deviation() {
        assert_eq!(mean([4.0].into_iter()), Some(4.0));
        assert_eq!(deviation([4.0].into_iter()), Some(0.0));
        assert_eq!(deviation([1.0, 3.0].into_iter()), Some(1.0));
        assert_eq!(mean([].into_iter()), None);
    }
}
