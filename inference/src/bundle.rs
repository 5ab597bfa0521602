//! Bundles: one version of a model, as a directory or a tar file.
//!
//! Loading reads `model.toml`, then every file that it names, and compares digests. It does not build
//! the model; [`crate::Detector::build`] does.

mod archive;
mod fields;
mod golden;
mod manifest;
mod problem;

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use archive::Archive;
pub use archive::FILE_BYTES_MAX;
pub use golden::{Golden, GoldenError, GoldenWindow};
pub use manifest::{
    Calibration, Column, DecisionRule, Fill, GoldenFile, Grid, Input, Layout, Manifest, ModelFile,
    Normalisation, OutputNames, Source, Threshold, Window,
};
pub use problem::Problem;

/// Name of the manifest in a bundle.
pub const MANIFEST_FILE: &str = "model.toml";

/// One version of a model: its manifest, its verified bytes, its golden vectors.
#[derive(Debug, Clone)]
pub struct Bundle {
    manifest: Manifest,
    model: Vec<u8>,
    golden: Option<Golden>,
}

/// Why a bundle cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is not there: complete the bundle, or correct the path.
    #[error("{path} does not exist", path = path.display())]
    Missing {
        /// The file, or the bundle itself.
        path: PathBuf,
    },
    /// A file cannot be read: see the cause.
    #[error("{path} cannot be read", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is larger than any model that suits a gateway.
    #[error("{path} is larger than {max} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// The file is not a tar of one bundle: pack the directory again.
    #[error("{path} is not a tar file of one bundle", path = path.display())]
    Archive {
        /// The tar file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The manifest is not UTF-8 text.
    #[error("{path} is not UTF-8 text", path = path.display())]
    Encoding {
        /// The manifest.
        path: PathBuf,
    },
    /// The manifest has problems; each names its place and what is expected.
    #[error("{path} has {} problem(s):\n{}", problems.len(), lines(problems), path = path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// All of them, in the order of the file.
        problems: Vec<Problem>,
    },
    /// A file is not the one that the manifest was written for: a broken copy, or a model that was
    /// exchanged without its manifest. Copy the bundle again, or correct the digest if you made it.
    #[error("{path} has SHA-256 {actual}; model.toml says {expected}", path = path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest in the manifest.
        expected: String,
        /// The digest of the file.
        actual: String,
    },
    /// The golden vectors do not fit the manifest: write them again.
    #[error("{path} cannot be used as golden vectors", path = path.display())]
    Golden {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GoldenError,
    },
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("  {problem}"))
        .collect();
    lines.join("\n")
}

impl Bundle {
    /// Loads a bundle from a directory or a tar file and verifies the digests of its files.
    ///
    /// # Errors
    /// See [`BundleError`]; problems of the manifest are all named at once.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        let archive = Archive::open(path)?;
        let manifest = read_manifest(&archive)?;
        let model = read_verified(&archive, &manifest.model.file, &manifest.model.sha256)?;
        let golden = match &manifest.golden {
            Some(file) => Some(read_golden(&archive, file, &manifest)?),
            None => None,
        };
        Ok(Self {
            manifest,
            model,
            golden,
        })
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Version of the bundle.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// SHA-256 of the model file, hex.
    pub fn sha256(&self) -> &str {
        &self.manifest.model.sha256
    }

    /// The inputs: what the configuration binds to tags. [`crate::Monitor::feed`] counts them in this order.
    pub fn inputs(&self) -> &[Input] {
        &self.manifest.inputs
    }

    /// The input of a role.
    pub fn input_index(&self, role: &str) -> Option<usize> {
        self.inputs().iter().position(|input| input.role == role)
    }

    /// How samples become windows.
    pub fn window(&self) -> &Window {
        &self.manifest.window
    }

    /// Everything that model.toml says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The ONNX file, verified.
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// Windows with known scores, where the bundle has them.
    pub fn golden(&self) -> Option<&Golden> {
        self.golden.as_ref()
    }
}

fn read_manifest(archive: &Archive) -> Result<Manifest, BundleError> {
    let path = archive.place(MANIFEST_FILE);
    let bytes = archive.read(MANIFEST_FILE)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| BundleError::Encoding { path: path.clone() })?;
    Manifest::parse(text).map_err(|problems| BundleError::Manifest { path, problems })
}

fn read_verified(archive: &Archive, name: &str, expected: &str) -> Result<Vec<u8>, BundleError> {
    let bytes = archive.read(name)?;
    let actual: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if actual != expected {
        return Err(BundleError::Digest {
            path: archive.place(name),
            expected: expected.to_owned(),
            actual,
        });
    }
    Ok(bytes)
}

fn read_golden(
    archive: &Archive,
    file: &GoldenFile,
    manifest: &Manifest,
) -> Result<Golden, BundleError> {
    let bytes = read_verified(archive, &file.file, &file.sha256)?;
    let values = manifest.window.len * manifest.columns.len();
    Golden::parse(&bytes, values, manifest.columns.len()).map_err(|source| BundleError::Golden {
        path: archive.place(&file.file),
        source,
    })
}
