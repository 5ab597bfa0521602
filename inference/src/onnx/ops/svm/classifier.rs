//! `SVMClassifier`, as scikit-learn's SVC and NuSVC export it: one machine for each pair of classes.

use std::ops::Range;
use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::machine::Machine;
use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Form, Kernel, floats, rows_and_columns};
use crate::onnx::ops::labels::Labels;
use crate::onnx::ops::post::largest;

/// Pairs of them are what costs.
const CLASSES_MAX: usize = 64;

#[derive(Debug)]
struct Classifier {
    machine: Machine,
    /// The vectors of each class.
    classes: Vec<Range<usize>>,
    /// For each vector its weight against each of the other classes: rows as long as there are vectors.
    weights: Vec<f32>,
    /// One for each pair of classes.
    rhos: Vec<f32>,
    /// The sigmoids that make probabilities of the scores, one for each pair; or none.
    sigmoids: Vec<(f32, f32)>,
    labels: Labels,
}

pub(super) fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let labels = Labels::read(node, "classlabels_ints", "classlabels_strings")?;
    let count = labels.len();
    if !(2..=CLASSES_MAX).contains(&count) {
        return Err(format!(
            "it has {count} classes; expected 2 to {CLASSES_MAX}"
        ));
    }
    if attribute::text(node, "post_transform", "NONE")? != "NONE" {
        return Err("post_transform is not NONE".to_owned());
    }
    let sizes = attribute::ints(node, "vectors_per_class")?;
    attribute::expect_len("vectors_per_class", sizes.len(), count)?;
    let (mut classes, mut supports) = (Vec::with_capacity(count), 0_usize);
    for size in sizes {
        let end = supports.saturating_add(attribute::index("vectors_per_class", *size)?);
        classes.push(supports..end);
        supports = end;
    }
    let weights = attribute::floats(node, "coefficients")?.to_vec();
    let expected = supports.saturating_mul(count - 1);
    attribute::expect_len("coefficients", weights.len(), expected)?;
    let pairs = count * (count - 1) / 2;
    let of_pairs = |name| {
        let values = attribute::floats(node, name)?;
        attribute::expect_len(name, values.len(), pairs).map(|()| values.to_vec())
    };
    let sigmoids = match attribute::floats(node, "prob_a")? {
        [] => vec![],
        _ => of_pairs("prob_a")?
            .into_iter()
            .zip(of_pairs("prob_b")?)
            .collect(),
    };
    Ok(Arc::new(Classifier {
        machine: Machine::read(node, "support_vectors", supports)?,
        classes,
        weights,
        rhos: of_pairs("rho")?,
        sigmoids,
        labels,
    }))
}

impl Classifier {
    fn has_probabilities(&self) -> bool {
        !self.sigmoids.is_empty()
    }

    /// How many scores a row has: those of the classes, or of their pairs.
    fn columns(&self) -> usize {
        match self.labels.len() {
            2 => 2,
            classes if self.has_probabilities() => classes,
            _ => self.rhos.len(),
        }
    }

    /// The score of each pair of classes: above 0 speaks for the first of them.
    fn pairs(&self, row: &[f32]) -> Vec<f32> {
        let near: Vec<f64> = self.machine.similarities(row).collect();
        let sum = |class: usize, against: usize| -> f64 {
            let of_class = self.classes[class].clone();
            let weights = &self.weights[against * near.len()..][of_class.clone()];
            let pairs = near[of_class].iter().zip(weights);
            pairs.map(|(near, weight)| near * f64::from(*weight)).sum()
        };
        let count = self.labels.len();
        let pairs = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
        // A class has no weights against itself: those against later ones stand one row before.
        pairs
            .zip(&self.rhos)
            .map(|((i, j), rho)| (sum(i, j - 1) + sum(j, i) + f64::from(*rho)) as f32)
            .collect()
    }

    /// The scores, and the label's place.
    fn row(&self, row: &[f32]) -> (Vec<f32>, usize) {
        let count = self.labels.len();
        let pairs = self.pairs(row);
        if !self.has_probabilities() {
            let mut votes = vec![0.0; count];
            let places = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
            for ((i, j), score) in places.zip(&pairs) {
                votes[if *score > 0.0 { i } else { j }] += 1.0;
            }
            return match pairs.as_slice() {
                // As onnxruntime has it, though the first class's is then below 0 where its label is chosen.
                [score] => (vec![-score, *score], usize::from(*score <= 0.0)),
                _ => (pairs, largest(&votes)),
            };
        }
        // How likely the one class is against the other, for each two.
        let mut against = vec![vec![0.0; count]; count];
        let places = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
        for (((i, j), score), (a, b)) in places.zip(&pairs).zip(&self.sigmoids) {
            let x = f64::from(*score) * f64::from(*a) + f64::from(*b);
            against[i][j] = (1.0 / (1.0 + x.exp())).clamp(1e-7, 1.0 - 1e-7) as f32;
            against[j][i] = 1.0 - against[i][j];
        }
        let shares = couple(&against);
        let label = match pairs.as_slice() {
            [score] => usize::from(*score <= 0.0),
            _ => largest(&shares),
        };
        (shares, label)
    }
}

/// The probabilities of all classes from those of each against each other: the method of Wu, Lin and Weng, which stops early, so that
/// the result is some thousandths off; this is what onnxruntime and scikit-learn's exports give.
fn couple(against: &[Vec<f32>]) -> Vec<f32> {
    let count = against.len();
    let mut q = vec![vec![0.0_f32; count]; count];
    for i in 0..count {
        for j in (0..count).filter(|j| *j != i) {
            q[i][i] += against[j][i] * against[j][i];
            q[i][j] = -against[j][i] * against[i][j];
        }
    }
    let mut p = vec![1.0 / count as f32; count];
    for _ in 0..100 {
        let row = |row: &Vec<f32>| row.iter().zip(&p).map(|(q, p)| q * p).sum::<f32>();
        let mut of: Vec<f32> = q.iter().map(row).collect();
        let mut all: f32 = p.iter().zip(&of).map(|(p, of)| p * of).sum();
        let error = of
            .iter()
            .fold(0.0_f32, |most, of| most.max((of - all).abs()));
        if error < 0.005 / count as f32 {
            break;
        }
        for i in 0..count {
            let step = (all - of[i]) / q[i][i];
            p[i] += step;
            all = (all + step * (step * q[i][i] + 2.0 * of[i])) / (1.0 + step) / (1.0 + step);
            for j in 0..count {
                of[j] = (of[j] + step * q[i][j]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    p
}

impl Kernel for Classifier {
    fn name(&self) -> &'static str {
        "SVMClassifier"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let (rows, columns) = rows_and_columns(inputs.first())?;
        attribute::expect_len("each support vector", self.machine.features, columns)?;
        Ok(vec![Form::i64([rows]), Form::f32([rows, self.columns()])])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = floats(inputs, 0)?;
        let input = input.try_as_plain_ram()?;
        let (mut labels, mut all) = (Vec::new(), Vec::new());
        for row in input.as_slice::<f32>()?.chunks_exact(self.machine.features) {
            let (scores, label) = self.row(row);
            all.extend(scores);
            labels.push(self.labels.at(label));
        }
        Ok(vec![
            tensor1(&labels),
            Tensor::from_shape(&[labels.len(), self.columns()], &all)?,
        ])
    }
}
