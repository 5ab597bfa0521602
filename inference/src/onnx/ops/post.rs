//! What classifiers and ensembles do with their scores at the end.

/// The standard's `post_transform`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Post {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
}

impl Post {
    pub(super) fn read(name: &str) -> Result<Self, String> {
        match name {
            "NONE" => Ok(Self::None),
            "LOGISTIC" => Ok(Self::Logistic),
            "SOFTMAX" => Ok(Self::Softmax),
            "SOFTMAX_ZERO" => Ok(Self::SoftmaxZero),
            other => Err(format!(
                "post_transform is {other:?}; expected NONE, LOGISTIC, SOFTMAX or SOFTMAX_ZERO"
            )),
        }
    }

    /// For the scores of one row.
    pub(super) fn apply(self, scores: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => scores
                .iter_mut()
                .for_each(|score| *score = logistic(*score)),
            Self::Softmax => softmax(scores, |_| true),
            Self::SoftmaxZero => softmax(scores, |score| score.abs() > 1e-7),
        }
    }
}

/// Without a large exponential on either side.
pub(super) fn logistic(x: f32) -> f32 {
    let value = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - value } else { value }
}

/// Over those that take part; the others become 0.
fn softmax(scores: &mut [f32], takes_part: impl Fn(f32) -> bool) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = if takes_part(*score) {
            (*score - max).exp()
        } else {
            0.0
        };
        sum += *score;
    }
    if sum > 0.0 {
        scores.iter_mut().for_each(|score| *score /= sum);
    }
}

/// The place of the largest; the first of equals.
pub(super) fn largest(scores: &[f32]) -> usize {
    let mut best = 0;
    for (place, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = place;
        }
    }
    best
}
