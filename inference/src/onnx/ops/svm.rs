//! Support vector machines.

mod classifier;
mod machine;
mod regressor;

use super::kernel::{Operators, register};

pub(super) fn register(operators: &mut Operators) {
    register!(operators,
        "SVMClassifier" => classifier::read,
        "SVMRegressor" => regressor::read,
    );
}
