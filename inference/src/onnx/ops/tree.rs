//! Ensembles of decision trees.
//!
//! Trees are checked and laid anew when they are read: each has one root, each node one parent, children stand behind their
//! parents. So a walk ends, whatever the file said, and finds its next node near.

mod classifier;
mod forest;
mod regressor;

use super::kernel::{Operators, register};

pub(super) fn register(operators: &mut Operators) {
    register!(operators,
        "TreeEnsemble" => regressor::read_newer,
        "TreeEnsembleRegressor" => regressor::read,
        "TreeEnsembleClassifier" => classifier::read,
    );
}
