//! `SVMClassifier` with two classes, as scikit-learn's SVC and NuSVC export it.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::machine::Machine;
use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Form, Kernel, floats, rows_and_columns};
use crate::onnx::ops::labels::Labels;

#[derive(Debug)]
struct Classifier {
    machine: Machine,
    weights: Vec<f32>,
    rho: f32,
    /// The sigmoid that makes a probability of the score.
    sigmoid: Option<(f32, f32)>,
    labels: Labels,
}

pub(super) fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let labels = Labels::read(node, "classlabels_ints", "classlabels_strings")?;
    if labels.len() != 2 {
        return Err(format!(
            "it has {} classes; expected 2 (use TreeEnsembleClassifier or a network for more)",
            labels.len()
        ));
    }
    if attribute::text(node, "post_transform", "NONE")? != "NONE" {
        return Err("post_transform is not NONE".to_owned());
    }
    let [rho] = attribute::floats(node, "rho")? else {
        return Err("rho has no or several values; expected one for two classes".to_owned());
    };
    let mut supports: usize = 0;
    for count in attribute::ints(node, "vectors_per_class")? {
        supports = supports.saturating_add(attribute::index("vectors_per_class", *count)?);
    }
    let weights = attribute::floats(node, "coefficients")?.to_vec();
    attribute::expect_len("coefficients", weights.len(), supports)?;
    let sigmoid = match (
        attribute::floats(node, "prob_a")?,
        attribute::floats(node, "prob_b")?,
    ) {
        ([], []) => None,
        ([a], [b]) => Some((*a, *b)),
        _ => {
            return Err(
                "prob_a and prob_b have several values; expected one each for two classes"
                    .to_owned(),
            );
        }
    };
    Ok(Arc::new(Classifier {
        machine: Machine::read(node, "support_vectors", supports)?,
        weights,
        rho: *rho,
        sigmoid,
        labels,
    }))
}

impl Classifier {
    /// The score of each class, and the label's place.
    fn row(&self, row: &[f32]) -> ([f32; 2], usize) {
        let near = self.machine.similarities(row);
        let sum: f64 = near
            .zip(&self.weights)
            .map(|(near, weight)| near * f64::from(*weight))
            .sum();
        let score = (sum + f64::from(self.rho)) as f32;
        // Above 0 speaks for the first class.
        let label = usize::from(score <= 0.0);
        let scores = match self.sigmoid {
            Some((a, b)) => {
                let x = f64::from(score) * f64::from(a) + f64::from(b);
                let first = (1.0 / (1.0 + x.exp())).clamp(1e-7, 1.0 - 1e-7);
                couple(first as f32)
            }
            // As onnxruntime has it, though the first class's is then below 0 where its label is chosen.
            None => [-score, score],
        };
        (scores, label)
    }
}

/// The probabilities of both classes from what the sigmoid says of the first: the method of Wu, Lin and Weng for any number of classes,
/// which stops early, so that the result is some thousandths off; this is what onnxruntime and scikit-learn's exports give.
fn couple(first: f32) -> [f32; 2] {
    let second = 1.0 - first;
    let q = [
        [second * second, -second * first],
        [-second * first, first * first],
    ];
    let mut p = [0.5_f32; 2];
    for _ in 0..100 {
        let mut of = q.map(|row| row[0] * p[0] + row[1] * p[1]);
        let mut all = p[0] * of[0] + p[1] * of[1];
        let error = (of[0] - all).abs().max((of[1] - all).abs());
        if error < 0.005 / 2.0 {
            break;
        }
        for i in 0..2 {
            let step = (all - of[i]) / q[i][i];
            p[i] += step;
            all = (all + step * (step * q[i][i] + 2.0 * of[i])) / (1.0 + step) / (1.0 + step);
            for j in 0..2 {
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
        Ok(vec![Form::i64([rows]), Form::f32([rows, 2])])
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
            Tensor::from_shape(&[labels.len(), 2], &all)?,
        ])
    }
}
