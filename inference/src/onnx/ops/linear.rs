//! Linear models, and distances.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attribute;
use super::kernel::{Form, Kernel, Operators, floats, register, rows_and_columns};
use super::labels::Labels;
use super::post::{Post, largest, logistic};

pub(super) fn register(operators: &mut Operators) {
    register!(operators,
        "CDist" => distances,
        "LinearClassifier" => classifier,
        "LinearRegressor" => regressor,
    );
}

/// One row of coefficients for each score.
#[derive(Debug)]
struct Linear {
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    targets: usize,
    post: Post,
    /// Of a classifier.
    labels: Option<Labels>,
}

fn regressor(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let targets = attribute::index("targets", attribute::int(node, "targets", 1)?)?;
    linear(node, targets, None)
}

fn classifier(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let labels = Labels::read(node, "classlabels_ints", "classlabels_strings")?;
    let intercepts = attribute::floats(node, "intercepts")?.len();
    // Of two classes, the coefficients of the second may stand for both.
    let targets = if labels.len() == 2 && intercepts == 1 {
        1
    } else {
        labels.len()
    };
    linear(node, targets, Some(labels))
}

fn linear(
    node: &NodeProto,
    targets: usize,
    labels: Option<Labels>,
) -> Result<Arc<dyn Kernel>, String> {
    let coefficients = attribute::floats(node, "coefficients")?.to_vec();
    if targets == 0 || coefficients.is_empty() || coefficients.len() % targets != 0 {
        return Err(format!(
            "coefficients has {} values; expected some for each of {targets} scores",
            coefficients.len()
        ));
    }
    let mut intercepts = attribute::floats(node, "intercepts")?.to_vec();
    if intercepts.is_empty() {
        intercepts = vec![0.0; targets];
    }
    attribute::expect_len("intercepts", intercepts.len(), targets)?;
    Ok(Arc::new(Linear {
        coefficients,
        intercepts,
        targets,
        post: Post::read(attribute::text(node, "post_transform", "NONE")?)?,
        labels,
    }))
}

impl Linear {
    fn features(&self) -> usize {
        self.coefficients.len() / self.targets
    }

    fn scores(&self, row: &[f32]) -> Vec<f32> {
        let rows = self.coefficients.chunks_exact(self.features());
        let score = |(coefficients, intercept): (&[f32], &f32)| {
            let products = row
                .iter()
                .zip(coefficients)
                .map(|(x, w)| f64::from(*x) * f64::from(*w));
            (products.sum::<f64>() + f64::from(*intercept)) as f32
        };
        rows.zip(&self.intercepts).map(score).collect()
    }

    /// The scores of all classes, and the place of the label.
    fn classify(&self, scores: &mut Vec<f32>) -> usize {
        if self.targets > 1 || self.labels.as_ref().is_none_or(|labels| labels.len() != 2) {
            let label = largest(scores);
            self.post.apply(scores);
            return label;
        }
        let score = scores[0];
        *scores = match self.post {
            Post::Logistic => vec![logistic(-score), logistic(score)],
            post => {
                let mut both = vec![-score, score];
                post.apply(&mut both);
                both
            }
        };
        usize::from(score > 0.0)
    }
}

impl Kernel for Linear {
    fn name(&self) -> &'static str {
        if self.labels.is_some() {
            "LinearClassifier"
        } else {
            "LinearRegressor"
        }
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let (rows, columns) = rows_and_columns(inputs.first())?;
        attribute::expect_len(
            "coefficients",
            self.coefficients.len(),
            columns.saturating_mul(self.targets),
        )?;
        Ok(match &self.labels {
            Some(labels) => vec![Form::i64([rows]), Form::f32([rows, labels.len()])],
            None => vec![Form::f32([rows, self.targets])],
        })
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = floats(inputs, 0)?;
        let input = input.try_as_plain_ram()?;
        let rows = input.as_slice::<f32>()?.chunks_exact(self.features());
        let (mut labels, mut all) = (Vec::new(), Vec::new());
        for row in rows {
            let mut scores = self.scores(row);
            match &self.labels {
                Some(of) => labels.push(of.at(self.classify(&mut scores))),
                None => {
                    self.post.apply(&mut scores);
                    labels.push(0);
                }
            }
            all.extend(scores);
        }
        let columns = self.labels.as_ref().map_or(self.targets, Labels::len);
        let scores = Tensor::from_shape(&[labels.len(), columns], &all)?;
        Ok(match self.labels {
            Some(_) => vec![tensor1(&labels), scores],
            None => vec![scores],
        })
    }
}

/// `CDist`: the distance of each row of one tensor to each of another.
#[derive(Debug)]
struct Distances {
    is_squared: bool,
}

fn distances(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    match attribute::text(node, "metric", "sqeuclidean")? {
        "euclidean" => Ok(Arc::new(Distances { is_squared: false })),
        "sqeuclidean" => Ok(Arc::new(Distances { is_squared: true })),
        other => Err(format!(
            "metric is {other:?}; expected euclidean or sqeuclidean"
        )),
    }
}

impl Kernel for Distances {
    fn name(&self) -> &'static str {
        "CDist"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        match inputs {
            [a, b] if a.shape.len() == 2 && b.shape.len() == 2 && a.shape[1] == b.shape[1] => {
                Ok(vec![Form::f32([a.shape[0], b.shape[0]])])
            }
            _ => Err("expected two inputs of rows of the same length".to_owned()),
        }
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let (a, b) = (floats(inputs, 0)?, floats(inputs, 1)?);
        let columns = a.shape().last().copied().unwrap_or(1).max(1);
        let shape = [a.shape()[0], b.shape()[0]];
        let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
        let mut distances = Vec::with_capacity(shape[0] * shape[1]);
        for from in a.as_slice::<f32>()?.chunks_exact(columns) {
            for to in b.as_slice::<f32>()?.chunks_exact(columns) {
                let squared: f32 = from.iter().zip(to).map(|(a, b)| (a - b) * (a - b)).sum();
                distances.push(if self.is_squared {
                    squared
                } else {
                    squared.sqrt()
                });
            }
        }
        Ok(vec![Tensor::from_shape(&shape, &distances)?])
    }
}
