//! Eigenvalues and eigenvectors of symmetric matrices, by Jacobi's rotations: short, and exact to the last digits.

/// Sweeps over all pairs; each squares what is left beside the diagonal, so that some ten are enough.
const SWEEPS_MAX: usize = 60;

/// The eigenvalues of a symmetric matrix, largest first, and their vectors of length 1, whose largest part is above
/// zero.
pub(super) fn decompose(mut matrix: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let width = matrix.len();
    let mut vectors: Vec<Vec<f64>> = (0..width)
        .map(|i| (0..width).map(|j| f64::from(u8::from(i == j))).collect())
        .collect();
    let scale: f64 = matrix.iter().flatten().map(|value| value * value).sum();
    for _ in 0..SWEEPS_MAX {
        let above = matrix.iter().enumerate().flat_map(|(p, row)| &row[p + 1..]);
        let beside: f64 = above.map(|value| value * value).sum();
        if beside <= scale * 1e-32 {
            break;
        }
        for p in 0..width {
            for q in p + 1..width {
                rotate(&mut matrix, &mut vectors, p, q);
            }
        }
    }
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| matrix[*b][*b].total_cmp(&matrix[*a][*a]));
    let values = order.iter().map(|i| matrix[*i][*i]).collect();
    let vectors = order
        .iter()
        .map(|i| upright(vectors.iter().map(|row| row[*i]).collect()));
    (values, vectors.collect())
}

/// One rotation, which makes the element at `p`, `q` zero.
fn rotate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    let beside = matrix[p][q];
    if beside == 0.0 {
        return;
    }
    let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * beside);
    let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    for row in matrix.iter_mut() {
        (row[p], row[q]) = (
            cosine * row[p] - sine * row[q],
            sine * row[p] + cosine * row[q],
        );
    }
    let (before, from_q) = matrix.split_at_mut(q);
    for (a, b) in before[p].iter_mut().zip(&mut from_q[0]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
    matrix[p][q] = 0.0;
    matrix[q][p] = 0.0;
    for row in vectors {
        (row[p], row[q]) = (
            cosine * row[p] - sine * row[q],
            sine * row[p] + cosine * row[q],
        );
    }
}

/// A vector has two directions; this is the one whose largest part is above zero.
fn upright(vector: Vec<f64>) -> Vec<f64> {
    let largest = vector
        .iter()
        .copied()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()));
    match largest {
        Some(largest) if largest < 0.0 => vector.into_iter().map(|part| -part).collect(),
        _ => vector,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The vectors are perpendicular and of length 1, and make up the matrix again.
        #[test]
        fn values_and_vectors_make_up_the_matrix(width in 1usize..8, parts in prop::collection::vec(-1e3..1e3f64, 64)) {
            let matrix: Vec<Vec<f64>> = (0..width)
                .map(|i| (0..width).map(|j| parts[i.min(j) * 8 + i.max(j)]).collect())
                .collect();
            let (values, vectors) = decompose(matrix.clone());
            prop_assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
            for i in 0..width {
                for j in 0..width {
                    let dot: f64 = vectors[i].iter().zip(&vectors[j]).map(|(a, b)| a * b).sum();
                    prop_assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12);
                    let sum: f64 = (0..width).map(|k| values[k] * vectors[k][i] * vectors[k][j]).sum();
                    prop_assert!((sum - matrix[i][j]).abs() < 1e-9, "{sum} {}", matrix[i][j]);
                }
            }
        }
    }
}
