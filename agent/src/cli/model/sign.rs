//! `millrace model sign`: who made a bundle.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use millrace_inference::{Bundle, MANIFEST_FILE, SIGNATURE_FILE, SigningKey};
use serde::Serialize;

use crate::cli::{Failure, Global, output};

/// Sign a bundle
///
/// Writes model.sig: Ed25519 over model.toml, which holds the digest of every other file; what does not fit it is told first.
/// Prints the public half of the key, for `[local] model_keys` of the gateways. `openssl genpkey -algorithm ed25519` makes keys,
/// too, and docs/models.md says how openssl signs.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The bundle's directory
    bundle: PathBuf,
    /// The private key, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Make the key where FILE does not exist
    #[arg(long)]
    new_key: bool,
}

/// What was signed, and by whom.
#[derive(Debug, Serialize)]
struct SignedBundle {
    version: String,
    digest: String,
    fingerprint: String,
    public_key: String,
}

impl SignArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        if self.new_key && !self.key.exists() {
            make_key(&self.key)?;
        }
        let bundle = Bundle::load(&self.bundle)
            .map_err(|error| Failure::new("this is no bundle to sign").because(error))?;
        let pem = std::fs::read_to_string(&self.key).map_err(|error| {
            Failure::new(format!("{} cannot be read", self.key.display()))
                .because(error)
                .hint("--new-key makes one")
        })?;
        let key = SigningKey::parse(&pem)
            .map_err(|error| Failure::new(self.key.display().to_string()).because(error))?;
        let write = || {
            let manifest = std::fs::read(self.bundle.join(MANIFEST_FILE))?;
            std::fs::write(self.bundle.join(SIGNATURE_FILE), key.sign(&manifest))
        };
        write().map_err(|error| {
            Failure::new(format!("{} cannot be signed", self.bundle.display()))
                .because(error)
                .hint("sign a directory; `millrace model install` packs it")
        })?;
        let signed = SignedBundle {
            version: bundle.version().to_owned(),
            digest: bundle.digest().to_owned(),
            fingerprint: key.public().fingerprint(),
            public_key: key.public().to_base64(),
        };
        if global.json {
            output::json(&signed)?;
        } else {
            output::text(&format!(
                "{} {} is signed by {}.\nFor [local] of the gateways: model_keys = [\"{}\"]\n",
                bundle.name(),
                signed.version,
                signed.fingerprint,
                signed.public_key
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn make_key(path: &Path) -> anyhow::Result<()> {
    let pem = SigningKey::generate()?;
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, pem.as_bytes()));
    made.map_err(|error| {
        Failure::new(format!("{} cannot be made", path.display()))
            .because(error)
            .into()
    })
}
