use millrace_inference::{BuildError, Bundle, Detector};
use sha2::{Digest, Sha256};

use crate::scratch::{Scratch, quietly};

/// Any bytes as the ONNX file of a bundle that is otherwise right: it is refused with a message, or it scores a window, or refuses to.
/// What breaks down inside the engine is caught there; memory and time are the fuzzer's to watch.
pub fn model(data: &[u8]) {
    let scratch = Scratch::new("model.onnx", data);
    let mut score = "score".to_owned();
    let mut series = false;
    // A wrong name or shape is told, and would keep the fuzzer before the door.
    for _ in 0..3 {
        scratch.write("model.toml", manifest(data, &score, series).as_bytes());
        let bundle = match Bundle::load(scratch.path()) {
            Ok(bundle) => bundle,
            Err(error) => panic!("the bundle is right: {error}"),
        };
        match quietly(|| Detector::build(&bundle)) {
            Ok(detector) => {
                let len = if series { 480 } else { 8 };
                let window: Vec<f32> = (0..len).map(|i| (i as f32).sin()).collect();
                let first = quietly(|| detector.score(&window));
                let second = quietly(|| detector.score(&window));
                match (first, second) {
                    (Ok(first), Ok(second)) => {
                        assert_eq!(first, second, "the same window has the same score")
                    }
                    (Err(error), Err(_)) => assert!(!error.to_string().is_empty()),
                    (first, second) => panic!("{first:?}, then {second:?}"),
                }
                return;
            }
            Err(BuildError::Output { actual, .. }) if !actual.is_empty() => {
                // Names that cannot stand in the manifest are no use.
                let name = actual[0].replace(['"', '\\'], "");
                let name: String = name.chars().filter(|c| !c.is_control()).collect();
                if score == format!("{name}[0]") {
                    return;
                }
                score = format!("{name}[0]");
            }
            Err(BuildError::InputShape { .. }) if !series => series = true,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        }
    }
}

fn manifest(model: &[u8], score: &str, series: bool) -> String {
    let digest: String = Sha256::digest(model)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (layout, len) = if series { ("NTF", 60) } else { ("NF", 1) };
    let inputs: String = (0..8)
        .map(|i| format!("[[input]]\nrole = \"in{i}\"\n"))
        .collect();
    format!(
        "name = \"fuzzed\"\nversion = \"1.0.0\"\n[model]\nfile = \"model.onnx\"\nsha256 = \"{digest}\"\nlayout = \"{layout}\"\n\
         [window]\nlen = {len}\ngrid = \"1s\"\nmax_gap = \"2s\"\n[output]\nscore = \"{score}\"\n\
         [threshold]\nmethod = \"fixed\"\nvalue = 10.0\n{inputs}"
    )
}
