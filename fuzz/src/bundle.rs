use millrace_inference::{Bundle, Detector};

use crate::scratch::{Scratch, quietly};

/// A model that is always the same.
const MODEL: &[u8] = include_bytes!("../../inference/tests/models/magnitude.onnx");

/// Any bytes as a bundle in a tar, and as the manifest of a directory with a model and golden vectors: what is wrong is told; what
/// is right can be built, or is refused with a message.
pub fn bundle(data: &[u8]) {
    let tar = Scratch::new("bundle.tar", data);
    load(&tar.path().join("bundle.tar"));
    let directory = Scratch::new("model.toml", data);
    directory.write("model.onnx", MODEL);
    directory.write(
        "golden.json",
        b"{\"windows\": [{\"values\": [1, 2, 3, 4, 5, 6], \"score\": 7}]}",
    );
    load(directory.path());
}

fn load(path: &std::path::Path) {
    match Bundle::load(path) {
        Ok(bundle) => {
            assert!(!bundle.name().is_empty() && !bundle.inputs().is_empty());
            if let Err(error) = quietly(|| Detector::build(&bundle)) {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
