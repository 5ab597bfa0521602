//! Quantiles of the normal and the F distribution, for control limits. Checked against scipy's.

/// Halvings of an interval of two f64: more change nothing.
const HALVINGS: usize = 200;

/// Terms of a series or continued fraction; some tens are enough for the arguments of control limits.
const TERMS_MAX: usize = 10_000;

/// The value that a normally distributed one stays below with probability `p`, `0 < p < 1`.
pub(super) fn normal_quantile(p: f64) -> f64 {
    // The distribution function by the incomplete beta function with a half: as that of F with 1 and endless degrees
    // would be, by way of the error function's series.
    halve(-40.0, 40.0, |x| normal_cdf(x) < p)
}

/// The value that an F distributed one with `a` and `b` degrees of freedom stays below with probability `p`.
pub(super) fn f_quantile(p: f64, a: f64, b: f64) -> f64 {
    // In terms of a x / (a x + b), which is beta distributed.
    let beta = halve(0.0, 1.0, |x| beta_cdf(x, a / 2.0, b / 2.0) < p);
    b * beta / (a * (1.0 - beta)).max(f64::MIN_POSITIVE)
}

/// Where `is_below` turns from true to false.
fn halve(mut from: f64, mut to: f64, is_below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(from, to);
        if is_below(middle) {
            from = middle;
        } else {
            to = middle;
        }
    }
    f64::midpoint(from, to)
}

/// The normal distribution function. A squared normal value is gamma distributed with a half.
fn normal_cdf(x: f64) -> f64 {
    let half = lower_gamma_of_half(x * x / 2.0) / 2.0;
    if x < 0.0 { 0.5 - half } else { 0.5 + half }
}

/// The regularised lower incomplete gamma function of 1/2, by its series.
fn lower_gamma_of_half(x: f64) -> f64 {
    // From here on it is 1 to the last digit.
    if x > 50.0 {
        return 1.0;
    }
    let mut term = 2.0;
    let mut sum = term;
    for n in 1..TERMS_MAX {
        term *= x / (0.5 + n as f64);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum * (-x).exp() * x.sqrt() / std::f64::consts::PI.sqrt()
}

/// The regularised incomplete beta function, by Lentz's continued fraction.
fn beta_cdf(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast on one side of the mean only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_cdf(1.0 - x, b, a);
    }
    let front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    let bounded = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / bounded(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..TERMS_MAX {
        let m = m as f64;
        let steps = [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ];
        let mut change = 1.0;
        for step in steps {
            d = 1.0 / bounded(1.0 + step * d);
            c = bounded(1.0 + step / c);
            change = c * d;
            fraction *= change;
        }
        if (change - 1.0f64).abs() < 1e-16 {
            break;
        }
    }
    front.exp() * fraction / a
}

/// The logarithm of the gamma function (Lanczos, g = 7), for arguments above zero.
fn ln_gamma(x: f64) -> f64 {
    const PARTS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = PARTS[0] + (1..9).map(|i| PARTS[i] / (x + i as f64)).sum::<f64>();
    let t = x + 7.5;
    (2.0 * std::f64::consts::PI).ln() / 2.0 + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() <= expected.abs() * 1e-9,
            "{actual} {expected}"
        );
    }

    #[test]
    fn quantiles_equal_those_of_scipy() {
        close(normal_quantile(0.999), 3.090_232_306_167_813);
        close(normal_quantile(0.025), -1.959_963_984_540_054);
        close(normal_quantile(0.5) + 1.0, 1.0);
        close(f_quantile(0.999, 3.0, 397.0), 5.527616934286825);
        close(f_quantile(0.999, 5.0, 395.0), 4.19516437617198);
        close(f_quantile(0.99, 1.0, 10.0), 10.04428927339658);
        close(f_quantile(0.95, 40.0, 60.0), 1.5942725201140056);
        close(f_quantile(0.999, 200.0, 800.0), 1.3942339659430452);
    }
}
