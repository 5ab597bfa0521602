//! Control charts of one input over one window, in its own standard deviations.

/// The weighted mean of the rows, newest most, as a number of its own standard errors. An input that never changed while it was
/// learned has no errors to measure with: it counts as normal.
pub(super) fn ewma(rows: &[f64], mean: f64, deviation: f64, lambda: f64) -> f64 {
    if deviation == 0.0 {
        return 0.0;
    }
    let kept = 1.0 - lambda;
    let (mut weight, mut sum, mut weights, mut squares) = (lambda, 0.0, 0.0, 0.0);
    for row in rows.iter().rev() {
        sum += weight * (row - mean) / deviation;
        weights += weight;
        squares += weight * weight;
        weight *= kept;
    }
    // Both by the same weights, so that a window of few rows has the errors of few rows.
    (sum / weights).abs() / (squares.sqrt() / weights)
}

/// The larger of both cumulated sums of what exceeds the slack, at the window's end, in standard deviations.
pub(super) fn cusum(rows: &[f64], mean: f64, deviation: f64, slack: f64) -> f64 {
    if deviation == 0.0 {
        return 0.0;
    }
    let (mut up, mut down) = (0.0f64, 0.0f64);
    for row in rows {
        let z = (row - mean) / deviation;
        up = (up + z - slack).max(0.0);
        down = (down - z - slack).max(0.0);
    }
    up.max(down)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_of_one_row_is_the_row() {
        assert!((ewma(&[12.0], 10.0, 0.5, 0.2) - 4.0).abs() < 1e-12);
        // (0.2 * 2 + 0.16 * 1) / sqrt(0.2^2 + 0.16^2)
        let expected = 0.56 / (0.04f64 + 0.0256).sqrt();
        assert!((ewma(&[11.0, 12.0], 10.0, 1.0, 0.2) - expected).abs() < 1e-12);
        assert_eq!(ewma(&[99.0], 10.0, 0.0, 0.2), 0.0);
    }

    #[test]
    fn drift_adds_up_and_noise_does_not() {
        assert_eq!(cusum(&[1.0, 1.0, 1.0, 1.0], 0.0, 1.0, 0.5), 2.0);
        assert_eq!(cusum(&[-1.0, -1.0, -1.0], 0.0, 1.0, 0.5), 1.5);
        assert_eq!(cusum(&[0.4, -0.4, 0.4, -0.4], 0.0, 1.0, 0.5), 0.0);
        assert_eq!(cusum(&[9.0], 0.0, 0.0, 0.5), 0.0);
    }
}
