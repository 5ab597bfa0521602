//! `TreeEnsembleClassifier`.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::forest::Forest;
use super::regressor::check_features;
use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Form, Kernel, floats};
use crate::onnx::ops::labels::Labels;
use crate::onnx::ops::post::{Post, largest, logistic};

#[derive(Debug)]
struct Classifier {
    forest: Forest,
    labels: Labels,
    base: Vec<f32>,
    post: Post,
    /// Two classes, of which the leaves speak of one only: its score decides over both.
    is_single: bool,
    all_positive: bool,
}

pub(super) fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let labels = Labels::read(node, "classlabels_int64s", "classlabels_strings")?;
    let base = attribute::floats(node, "base_values")?.to_vec();
    if ![0, 1, labels.len()].contains(&base.len()) || (base.len() == 1 && labels.len() > 2) {
        return Err(format!(
            "base_values has {} values for {} classes",
            base.len(),
            labels.len()
        ));
    }
    let forest = Forest::read(node, "class", labels.len())?;
    let mut spoken = forest.weights().iter().map(|part| part.target);
    let first = spoken.next();
    let is_single = labels.len() == 2 && spoken.all(|target| Some(target) == first);
    if is_single && first == Some(1) {
        return Err(
            "class_ids names the second of two classes only; expected the first, or both"
                .to_owned(),
        );
    }
    let all_positive = forest.weights().iter().all(|part| part.weight >= 0.0);
    Ok(Arc::new(Classifier {
        post: Post::read(attribute::text(node, "post_transform", "NONE")?)?,
        labels,
        base,
        forest,
        is_single,
        all_positive,
    }))
}

impl Classifier {
    /// The scores of one row; gives the place of its label.
    fn row(&self, row: &[f32], scores: &mut [f32], sums: &mut [f64]) -> usize {
        sums.fill(0.0);
        self.forest.walk(row, |leaf| {
            for part in leaf {
                sums[part.target as usize] += f64::from(part.weight);
            }
        });
        if self.is_single {
            return self.single(sums[0] as f32, scores);
        }
        for (class, (score, sum)) in scores.iter_mut().zip(sums.iter()).enumerate() {
            let base = match self.base.as_slice() {
                [one] if class == 0 => *one,
                base => base.get(class).copied().unwrap_or(0.0),
            };
            *score = (sum + f64::from(base)) as f32;
        }
        // As onnxruntime has it: of two classes, the second if its score is above 0.
        let label = if scores.len() == 2 {
            usize::from(scores[1] > 0.0)
        } else {
            largest(scores)
        };
        let label = if scores.len() == 2 && self.all_positive {
            largest(scores)
        } else {
            label
        };
        self.post.apply(scores);
        label
    }

    fn single(&self, sum: f32, scores: &mut [f32]) -> usize {
        // Two base values: the second is the one of the score.
        let score = sum + self.base.last().copied().unwrap_or(0.0);
        let is_second = score > if self.all_positive { 0.5 } else { 0.0 };
        (scores[0], scores[1]) = match (self.base.len(), self.all_positive, self.post) {
            (2, _, post) => {
                let mut both = [-score, score];
                post.apply(&mut both);
                (both[0], both[1])
            }
            (_, true, _) => (1.0 - score, score),
            (_, false, Post::Logistic) => (logistic(-score), logistic(score)),
            (_, false, _) => (-score, score),
        };
        usize::from(is_second)
    }
}

impl Kernel for Classifier {
    fn name(&self) -> &'static str {
        "TreeEnsembleClassifier"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let rows = check_features(&self.forest, inputs)?;
        Ok(vec![
            Form::i64([rows]),
            Form::f32([rows, self.labels.len()]),
        ])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = floats(inputs, 0)?;
        let columns = input.shape().last().copied().unwrap_or(1).max(1);
        let input = input.to_plain_array_view::<f32>()?;
        let input = input.as_slice().context("the input is not contiguous")?;
        let (rows, classes) = (input.len() / columns, self.labels.len());
        let mut scores = vec![0.0; rows * classes];
        let mut sums = vec![0.0; classes];
        let mut labels = Vec::with_capacity(rows);
        for (row, scores) in input
            .chunks_exact(columns)
            .zip(scores.chunks_exact_mut(classes))
        {
            labels.push(self.labels.at(self.row(row, scores, &mut sums)));
        }
        Ok(vec![
            tensor1(&labels),
            Tensor::from_shape(&[rows, classes], &scores)?,
        ])
    }
}
