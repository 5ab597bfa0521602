//! Activations, as fractions of polynomials, which compilers turn into wide instructions; within 3e-7 of the functions.

use crate::onnx::ops::matrix::add_product;

/// The value of a polynomial, its coefficients from the highest.
#[inline(always)]
fn polynomial<const FUSED: bool>(x: f32, coefficients: &[f32]) -> f32 {
    let mut value = 0.0;
    for coefficient in coefficients {
        value = add_product::<FUSED>(*coefficient, value, x);
    }
    value
}

#[inline(always)]
pub(super) fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let x = x.clamp(-9.0, 9.0);
    let square = x * x;
    let over = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297e-8,
        1.485_722_4e-5,
        6.372_619e-4,
        4.893_524_6e-3,
    ];
    let under = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    x * polynomial::<FUSED>(square, &over) / polynomial::<FUSED>(square, &under)
}

#[inline(always)]
pub(super) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    // 1 / (1 + e^-x) is tanh, moved and scaled.
    add_product::<FUSED>(0.5, 0.5, tanh::<FUSED>(0.5 * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follow_the_functions() {
        for i in -4000..=4000 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).tanh();
            assert!(
                (f64::from(tanh::<false>(x)) - exact).abs() < 3e-7,
                "tanh {x}"
            );
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!(
                (f64::from(sigmoid::<false>(x)) - exact).abs() < 3e-7,
                "sigmoid {x}"
            );
        }
    }
}
