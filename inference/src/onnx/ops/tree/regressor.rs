//! `TreeEnsembleRegressor`, and `TreeEnsemble`, which takes its place in newer exports.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::forest::Forest;
use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Form, Kernel, floats, rows_and_columns};
use crate::onnx::ops::post::Post;

/// How the trees' parts become one score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

#[derive(Debug)]
struct Regressor {
    name: &'static str,
    forest: Forest,
    targets: usize,
    base: Vec<f32>,
    aggregate: Aggregate,
    post: Post,
}

/// More targets than any ensemble of the kind that gives one score for a window.
const TARGETS_MAX: usize = 4096;

fn read_targets(node: &NodeProto) -> Result<usize, String> {
    let targets = attribute::index("n_targets", attribute::int(node, "n_targets", 1)?)?;
    if (1..=TARGETS_MAX).contains(&targets) {
        return Ok(targets);
    }
    Err(format!(
        "n_targets is {targets}; expected 1 to {TARGETS_MAX}"
    ))
}

pub(super) fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let targets = read_targets(node)?;
    let base = attribute::floats(node, "base_values")?.to_vec();
    if !base.is_empty() {
        attribute::expect_len("base_values", base.len(), targets)?;
    }
    let aggregate = match attribute::text(node, "aggregate_function", "SUM")? {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => {
            return Err(format!(
                "aggregate_function is {other:?}; expected SUM, AVERAGE, MIN or MAX"
            ));
        }
    };
    let post = Post::read(attribute::text(node, "post_transform", "NONE")?)?;
    check_post(post, targets)?;
    Ok(Arc::new(Regressor {
        name: "TreeEnsembleRegressor",
        forest: Forest::read(node, "target", targets)?,
        targets,
        base,
        aggregate,
        post,
    }))
}

pub(super) fn read_newer(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let targets = read_targets(node)?;
    if node.attribute.iter().any(|a| a.name == "membership_values") {
        return Err(
            "membership_values is set; convert with target_opset={'': 17, 'ai.onnx.ml': 3}"
                .to_owned(),
        );
    }
    let aggregate = match attribute::int(node, "aggregate_function", 1)? {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return Err(format!("aggregate_function is {other}; expected 0 to 3")),
    };
    let post = match attribute::int(node, "post_transform", 0)? {
        0 => Post::None,
        1 => Post::Softmax,
        2 => Post::Logistic,
        3 => Post::SoftmaxZero,
        other => return Err(format!("post_transform is {other}; expected 0 to 3")),
    };
    check_post(post, targets)?;
    Ok(Arc::new(Regressor {
        name: "TreeEnsemble",
        forest: Forest::read_newer(node, targets)?,
        targets,
        base: vec![],
        aggregate,
        post,
    }))
}

/// Runtimes differ over what it means for one target.
fn check_post(post: Post, targets: usize) -> Result<(), String> {
    if targets == 1 && post != Post::None {
        return Err("post_transform with one target; expected NONE".to_owned());
    }
    Ok(())
}

impl Regressor {
    fn row(&self, row: &[f32], scores: &mut [f32], sums: &mut [f64]) {
        let start = match self.aggregate {
            Aggregate::Sum | Aggregate::Average => 0.0,
            Aggregate::Min => f64::INFINITY,
            Aggregate::Max => f64::NEG_INFINITY,
        };
        sums.fill(start);
        self.forest.walk(row, |leaf| {
            for part in leaf {
                let (sum, weight) = (&mut sums[part.target as usize], f64::from(part.weight));
                *sum = match self.aggregate {
                    Aggregate::Sum | Aggregate::Average => *sum + weight,
                    Aggregate::Min => sum.min(weight),
                    Aggregate::Max => sum.max(weight),
                };
            }
        });
        for (target, (score, sum)) in scores.iter_mut().zip(sums).enumerate() {
            if self.aggregate == Aggregate::Average {
                *sum /= self.forest.trees() as f64;
            }
            // A target that no leaf spoke of.
            let sum = if sum.is_finite() { *sum } else { 0.0 };
            *score = (sum + f64::from(self.base.get(target).copied().unwrap_or(0.0))) as f32;
        }
        self.post.apply(scores);
    }
}

impl Kernel for Regressor {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let rows = check_features(&self.forest, inputs)?;
        Ok(vec![Form::f32([rows, self.targets])])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = floats(inputs, 0)?;
        let columns = input.shape().last().copied().unwrap_or(1).max(1);
        let input = input.to_plain_array_view::<f32>()?;
        let input = input.as_slice().context("the input is not contiguous")?;
        let mut scores = vec![0.0; input.len() / columns * self.targets];
        let mut sums = vec![0.0; self.targets];
        for (row, scores) in input
            .chunks_exact(columns)
            .zip(scores.chunks_exact_mut(self.targets))
        {
            self.row(row, scores, &mut sums);
        }
        let rows = input.len() / columns;
        Ok(vec![Tensor::from_shape(&[rows, self.targets], &scores)?])
    }
}

/// The rows of an input that has all features that the trees ask for.
pub(super) fn check_features(forest: &Forest, inputs: &[Form]) -> Result<usize, String> {
    let (rows, columns) = rows_and_columns(inputs.first())?;
    if columns < forest.features() {
        return Err(format!(
            "a node asks for feature {}; the input has {columns}",
            forest.features() - 1
        ));
    }
    Ok(rows)
}
