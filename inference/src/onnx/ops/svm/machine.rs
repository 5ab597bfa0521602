//! The vectors and how near a row is to them.

use tract_onnx::pb::NodeProto;

use crate::onnx::ops::attribute;

#[derive(Debug, Clone, Copy)]
enum Similarity {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

/// Vectors, one after the other, and the function that compares them with a row.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) vectors: Vec<f32>,
    pub(super) features: usize,
    similarity: Similarity,
    gamma: f32,
    coef0: f32,
    degree: f32,
}

impl Machine {
    /// `count` vectors from the attribute `name`.
    pub(super) fn read(node: &NodeProto, name: &str, count: usize) -> Result<Self, String> {
        let similarity = match attribute::text(node, "kernel_type", "LINEAR")? {
            "LINEAR" => Similarity::Linear,
            "POLY" => Similarity::Poly,
            "RBF" => Similarity::Rbf,
            "SIGMOID" => Similarity::Sigmoid,
            other => {
                return Err(format!(
                    "kernel_type is {other:?}; expected LINEAR, POLY, RBF or SIGMOID"
                ));
            }
        };
        let (gamma, coef0, degree) = match attribute::floats(node, "kernel_params")? {
            [gamma, coef0, degree, ..] => (*gamma, *coef0, *degree),
            [] if matches!(similarity, Similarity::Linear) => (0.0, 0.0, 0.0),
            params => {
                return Err(format!(
                    "kernel_params has {} values; expected gamma, coef0 and degree",
                    params.len()
                ));
            }
        };
        let vectors = attribute::floats(node, name)?.to_vec();
        if count == 0 || vectors.is_empty() || vectors.len() % count != 0 {
            return Err(format!(
                "{name} has {} values; expected some for each of {count} vectors",
                vectors.len()
            ));
        }
        Ok(Self {
            features: vectors.len() / count,
            vectors,
            similarity,
            gamma,
            coef0,
            degree,
        })
    }

    /// How near the row is to each vector.
    pub(super) fn similarities(&self, row: &[f32]) -> impl Iterator<Item = f64> {
        self.vectors.chunks_exact(self.features).map(|vector| {
            let pairs = row
                .iter()
                .zip(vector)
                .map(|(a, b)| (f64::from(*a), f64::from(*b)));
            let (gamma, coef0) = (f64::from(self.gamma), f64::from(self.coef0));
            match self.similarity {
                Similarity::Linear => pairs.map(|(a, b)| a * b).sum(),
                Similarity::Poly => {
                    let dot: f64 = pairs.map(|(a, b)| a * b).sum();
                    (gamma * dot + coef0).powf(f64::from(self.degree))
                }
                Similarity::Rbf => {
                    let squared: f64 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
                    (-gamma * squared).exp()
                }
                Similarity::Sigmoid => {
                    let dot: f64 = pairs.map(|(a, b)| a * b).sum();
                    (gamma * dot + coef0).tanh()
                }
            }
        })
    }
}
