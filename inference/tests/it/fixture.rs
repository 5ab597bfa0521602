//! Bundles made for one test, and samples.

use std::path::{Path, PathBuf};

use millrace_inference::{Bundle, BundleError, Detector};
use millrace_tags::{Moment, Sample, TagId, Value};
use sha2::{Digest, Sha256};

const MANIFEST: &str = r#"name = "test"
version = "1.0.0"

[model]
file = "model.onnx"
sha256 = "{sha256}"
layout = "NTF"

[[input]]
role = "a"
unit = "bar"
fill = "hold"

[[input]]
role = "b"
range = [-1000, 1000]

[window]
len = 3
grid = "1s"
max_gap = "2s"

[output]
score = "score"

[threshold]
method = "fixed"
value = 10.0

[decision]
on = 1
"#;

/// A bundle directory that lasts as long as the test.
pub(crate) struct Fixture {
    directory: tempfile::TempDir,
    manifest: String,
}

impl Fixture {
    /// A bundle of one of the files in `tests/models`.
    pub(crate) fn new(model: &str) -> Self {
        let path = format!("{}/tests/models/{model}.onnx", env!("CARGO_MANIFEST_DIR"));
        Self::of_file(Path::new(&path))
    }

    pub(crate) fn of_file(path: &Path) -> Self {
        Self::of_bytes(&std::fs::read(path).unwrap())
    }

    pub(crate) fn of_bytes(model: &[u8]) -> Self {
        let fixture = Self {
            directory: tempfile::tempdir().unwrap(),
            manifest: MANIFEST.replace("{sha256}", &sha256(model)),
        };
        fixture.write("model.onnx", model);
        fixture
    }

    /// Replaces a part of the manifest, which must be there.
    pub(crate) fn edit(mut self, from: &str, to: &str) -> Self {
        assert!(self.manifest.contains(from), "the manifest has no {from:?}");
        self.manifest = self.manifest.replacen(from, to, 1);
        self
    }

    /// With golden vectors.
    pub(crate) fn golden(mut self, json: &str) -> Self {
        self.write("golden.json", json.as_bytes());
        let digest = sha256(json.as_bytes());
        self.manifest.push_str(&format!(
            "[golden]\nfile = \"golden.json\"\nsha256 = \"{digest}\"\n"
        ));
        self
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.directory.path().join(name), bytes).unwrap();
    }

    /// Writes the manifest; gives the directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.write("model.toml", self.manifest.as_bytes());
        self.directory.path().to_owned()
    }

    pub(crate) fn load(&self) -> Result<Bundle, BundleError> {
        Bundle::load(&self.path())
    }

    pub(crate) fn bundle(&self) -> Bundle {
        self.load().unwrap()
    }

    pub(crate) fn detector(&self) -> Detector {
        Detector::build(&self.bundle()).unwrap()
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

pub(crate) fn ms(ms: i64) -> Moment {
    Moment(ms * 1_000_000)
}

/// A good sample, `at` in milliseconds.
pub(crate) fn sample(at: i64, value: f64) -> Sample {
    Sample::good(TagId(1), Value::F64(value), ms(at))
}

/// An error with its causes, as the program prints it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
