//! Bundles: one version of a model, as a directory or a tar file.
//!
//! Loading reads `model.toml`, compares its signature with the keys that are trusted, then reads every file that
//! it names and compares digests. It does not build the model; [`crate::Detector::build`] does.

mod archive;
mod fields;
mod golden;
mod manifest;
mod problem;
mod signature;

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use archive::Archive;
pub use archive::FILE_BYTES_MAX;
pub use golden::{Golden, GoldenError, GoldenWindow};
pub use manifest::{
    Calibration, Column, DecisionRule, Fill, Forecast, GoldenFile, Grid, Input, Layout, Manifest,
    ModelFile, ModelOutput, Normalisation, OutputNames, Source, Threshold, Window,
};
pub use problem::Problem;
pub use signature::{
    CONTEXT, KeyError, PublicKey, SIGNATURE_FILE, SignatureError, Signed, SigningKey, Trust,
};

/// Name of the manifest in a bundle.
pub const MANIFEST_FILE: &str = "model.toml";

/// One version of a model: its manifest, its verified bytes, its golden vectors.
#[derive(Debug, Clone)]
pub struct Bundle {
    manifest: Manifest,
    digest: String,
    signed: Signed,
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
    /// Its maker is not trusted, or nobody knows who made it.
    #[error("{path} is not taken", path = path.display())]
    Signature {
        /// The bundle.
        path: PathBuf,
        /// Why not.
        source: SignatureError,
    },
    /// The tar holds a file that nobody vouches for: leave it out, as `Bundle::pack` does.
    #[error("{path} is not named in model.toml; a tar holds model.toml, model.sig and the files that model.toml names, nothing else", path = path.display())]
    Unlisted {
        /// The file.
        path: PathBuf,
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
    /// Loads a bundle from a directory or a tar file and verifies the digests of its files, whoever made it.
    ///
    /// # Errors
    /// See [`BundleError`]; problems of the manifest are all named at once.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        Self::load_trusted(path, &Trust::default())
    }

    /// Loads a bundle that is to be signed as `trust` says. Nothing of it is parsed before its signature is
    /// compared.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn load_trusted(path: &Path, trust: &Trust) -> Result<Self, BundleError> {
        Self::read(&Archive::open(path)?, trust)
    }

    fn read(archive: &Archive, trust: &Trust) -> Result<Self, BundleError> {
        let text = archive.read(MANIFEST_FILE)?;
        let signature = read_signature(archive)?;
        let signed =
            trust
                .check(&text, signature.as_deref())
                .map_err(|source| BundleError::Signature {
                    path: archive.path().to_owned(),
                    source,
                })?;
        let manifest = parse_manifest(archive, &text)?;
        archive.holds_only(&names(&manifest))?;
        let model = read_verified(archive, &manifest.model.file, &manifest.model.sha256)?;
        let golden = match &manifest.golden {
            Some(file) => Some(read_golden(archive, file, &manifest)?),
            None => None,
        };
        Ok(Self {
            manifest,
            digest: sha256(&text),
            signed,
            model,
            golden,
        })
    }

    /// [`Bundle::digest`] of the bundle that lies there, whether or not it can be used.
    ///
    /// # Errors
    /// Where it has no model.toml that can be read.
    pub fn digest_at(path: &Path) -> Result<String, BundleError> {
        Ok(sha256(&Archive::open(path)?.read(MANIFEST_FILE)?))
    }

    /// The bundle as a tar file of its files and nothing else. The same files give the same bytes.
    ///
    /// # Errors
    /// Where it does not load.
    pub fn pack(path: &Path) -> Result<Vec<u8>, BundleError> {
        let archive = Archive::open(path)?;
        let bundle = Self::read(&archive, &Trust::default())?;
        let mut names = names(&bundle.manifest);
        names.retain(|name| *name != SIGNATURE_FILE || bundle.signed != Signed::No);
        archive.pack(&names)
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

    /// SHA-256 of model.toml, hex. As that holds the digests of all other files, it stands for the whole bundle, apart
    /// from its signature.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What is known of who made it.
    pub fn signed(&self) -> Signed {
        self.signed
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

/// The files of a bundle, as far as it has them.
fn names(manifest: &Manifest) -> Vec<&str> {
    let mut names = vec![MANIFEST_FILE, SIGNATURE_FILE, manifest.model.file.as_str()];
    names.extend(manifest.golden.as_ref().map(|golden| golden.file.as_str()));
    names
}

fn read_signature(archive: &Archive) -> Result<Option<Vec<u8>>, BundleError> {
    match archive.read(SIGNATURE_FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(BundleError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_manifest(archive: &Archive, bytes: &[u8]) -> Result<Manifest, BundleError> {
    let path = archive.place(MANIFEST_FILE);
    let text =
        std::str::from_utf8(bytes).map_err(|_| BundleError::Encoding { path: path.clone() })?;
    Manifest::parse(text).map_err(|problems| BundleError::Manifest { path, problems })
}

/// The SHA-256 of something as model.toml writes it.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_verified(archive: &Archive, name: &str, expected: &str) -> Result<Vec<u8>, BundleError> {
    let bytes = archive.read(name)?;
    let actual = sha256(&bytes);
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
    Golden::parse(&bytes, manifest).map_err(|source| BundleError::Golden {
        path: archive.place(&file.file),
        source,
    })
}
