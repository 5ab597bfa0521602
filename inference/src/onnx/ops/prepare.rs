//! What comes before and after a model of scikit-learn: scaling, filling, choosing, labels.

mod column;
mod encoder;
mod extract;
mod pass;

use super::kernel::{Operators, register};

pub(super) fn register(operators: &mut Operators) {
    register!(operators,
        "ArrayFeatureExtractor" => extract::read,
        "Binarizer" => column::binarizer,
        "Imputer" => column::imputer,
        "LabelEncoder" => encoder::read,
        "Normalizer" => column::normalizer,
        "Scaler" => column::scaler,
        "ZipMap" => pass::read,
    );
}
